"""Benchmarks: `python -m fastmix.bench mix|loader|step`. Each module has add_arguments(parser) and run(args) -> rows."""
