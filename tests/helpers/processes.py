"""python tests/helpers/processes.py MEETING RANK FILE ARGUMENT ...: process(*arguments) of a Python file, one of two.

MEETING is a new file, for the two to meet in.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def two_processes(file: str, folder: Path, *arguments: str) -> None:
    """Runs `process` of a test's file on two processes; `folder` is one that the test may write to."""
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    running = []
    try:
        for rank in (0, 1):
            command = [sys.executable, __file__, str(folder / "meeting"), str(rank), file, *arguments]
            with open(folder / f"errors.{rank}", "w") as errors:
                running.append(subprocess.Popen(command, env=env, stderr=errors))
        for rank, each in enumerate(running):
            assert each.wait(timeout=300) == 0, (folder / f"errors.{rank}").read_text()
    finally:
        for each in running:
            each.kill()
            each.wait()


def main(meeting: str, rank: str, file: str, *arguments: str) -> None:
    import torch.distributed as dist

    process = runpy.run_path(file)["process"]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
    process(*arguments)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
