"""python -m fastmix.sweep CONFIG mix=all seed=0,1,2 [key=a,b ...]: trains every combination, a process and folder each.

A sweep that ended, however it did, goes on when it is called again: finished runs stay as they are, others continue
from their last checkpoint. Several sweeps may share a folder; each run is trained by one of them.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from fastmix import cli
from fastmix.runs import scheduler
from fastmix.runs.queue import Job, expand


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.sweep", description="Train every combination of the settings.")
    parser.add_argument("config", help="a YAML file, such as configs/r50_300ep.yaml")
    parser.add_argument("settings", nargs="*", help="key=value, or key=a,b for several; mix=all: every row of the file")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folders lie (default: runs)")
    parser.add_argument("--gpus", help="GPUs to use, such as 0,1 (default: all; without one, the CPU)")
    parser.add_argument("--per-gpu", type=int, default=1, help="runs at a time on a GPU, or on the CPU (default: 1)")
    parser.add_argument("--retry", action="store_true", help="train failed runs again")
    parser.add_argument("--status", action="store_true", help="print the state of each run and end")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and end")
    args = parser.parse_intermixed_args(argv)
    jobs = expand(args.config, args.settings, args.runs)
    if args.status:
        print(scheduler.status(jobs), end="")
        return 0
    slots = scheduler.devices(args.gpus, jobs[0].cfg.device) * args.per_gpu
    if args.dry_run:
        again = ("waiting", "stopped", *["failed"] * args.retry)
        lines = ("python -m " + " ".join(scheduler.command(job, slots[0], slots)) for job in jobs if job.state in again)
        print("".join(f"{line}\n" for line in lines), end="")
        return 0
    require(jobs)
    print(f"a page about these runs: python -m {shlex.join(page(jobs[0].folder.parent))}", flush=True)
    return scheduler.sweep(jobs, slots, args.retry)


def page(folder: Path) -> list[str]:
    """The module that writes a page about the runs below a folder while they go on, and its words."""
    return ["fastmix.report", "--runs", str(folder), "--html", f"{folder}.html", "--watch"]


def require(jobs: list[Job]) -> None:
    """Raises ValueError, naming the run, where one that is not finished lacks data, or its method what that needs."""
    from fastmix import mixers, pipelines
    from fastmix.engine import loaders

    for job in jobs:
        if job.state != "finished":
            try:
                loaders.require(job.cfg, "train")
                loaders.require(job.cfg, "val")
                pipelines.loader_class(job.cfg.data.loader)
                mixers.build(job.cfg.mix, job.cfg.mixers, job.cfg.fidelity)
            except ValueError as error:
                raise ValueError(f"{' '.join(job.settings)}: {error}") from None


if __name__ == "__main__":
    sys.exit(cli.run(main, "sweep"))
