"""One self-contained page about runs: HTML with style, script, curves and pictures in it, which asks for nothing else."""
