"""python -m helpers.process FILE ARGUMENT ...: process(*arguments) of a Python file, in a group of processes."""

from __future__ import annotations

import runpy
import sys


def main(file: str, *arguments: str) -> None:
    import torch.distributed as dist

    process = runpy.run_path(file)["process"]
    dist.init_process_group("gloo")
    process(*arguments)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
