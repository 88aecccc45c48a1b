"""One page about runs: HTML with its style, script, curves and pictures inside, which asks for nothing else."""
