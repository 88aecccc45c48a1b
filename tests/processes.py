"""python tests/processes.py FILE RANK MODULE ARGUMENT ...: MODULE.process(*arguments) as one of two in a process group.

FILE is a new one, for the two to meet in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent


def two_processes(module: str, folder: Path, *arguments: str) -> None:
    """Runs `process` of a module of this folder on two processes; `folder` is one that the test may write to."""
    paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    running = []
    try:
        for rank in (0, 1):
            command = [sys.executable, __file__, str(folder / "meeting"), str(rank), module, *arguments]
            with open(folder / f"errors.{rank}", "w") as errors:
                running.append(subprocess.Popen(command, env=env, stderr=errors))
        for rank, each in enumerate(running):
            assert each.wait(timeout=300) == 0, (folder / f"errors.{rank}").read_text()
    finally:
        for each in running:
            each.kill()
            each.wait()


def main(meeting: str, rank: str, module: str, *arguments: str) -> None:
    import torch.distributed as dist

    process = import_module(module).process
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
    process(*arguments)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
