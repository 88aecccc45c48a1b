"""python -m fastmix.sweep CONFIG mix=all seed=0,1,2 [key=a,b ...]: trains every combination, a process and folder each,
on this machine, or with --on on a cluster of Ray or Slurm.

A sweep that ended, however it did, goes on when it is called again: finished runs stay as they are, others continue
from their last checkpoint. Several sweeps may share a folder; each run is trained by one of them.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from fastmix import cli, optional
from fastmix.ranges import Range
from fastmix.runs import clusters, on_ray, on_slurm, scheduler
from fastmix.runs.queue import Job, expand


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.sweep", description="Train every combination of the settings.")
    parser.add_argument("config", help="a YAML file, such as configs/r50_300ep.yaml")
    parser.add_argument("settings", nargs="*", help="key=value, or key=a,b for several; mix=all: every row of the file")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folders lie (default: runs)")
    parser.add_argument("--gpus", help="GPUs of this machine to use, such as 0,1 (default: all; without one, the CPU)")
    parser.add_argument(
        "--per-gpu", type=int, help="runs at a time on a GPU of this machine, or on the CPU (default: 1)"
    )
    parser.add_argument(
        "--on", metavar="NAME", help="local (default), ray, slurm, or a cluster that --clusters describes"
    )
    parser.add_argument(
        "--clusters", type=Path, metavar="FILE", help=f"a YAML file of clusters (default: {clusters.own_file()})"
    )
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="draws of key=loguniform(a,b) and the like")
    parser.add_argument(
        "--draw-seed",
        type=cli.number(int, Range(0, 2**31 - 1)),
        default=0,
        metavar="S",
        help="of the draws (default: 0)",
    )
    parser.add_argument("--stop", choices=("asha",), help="give up runs that are behind (Ray Tune's ASHA)")
    parser.add_argument("--retry", action="store_true", help="train failed runs again")
    parser.add_argument("--status", action="store_true", help="print the state of each run and end")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and end")
    args = parser.parse_intermixed_args(argv)
    place = clusters.load(args.on or ("ray" if args.stop else clusters.LOCAL), args.clusters)
    if place and (args.gpus or args.per_gpu):
        raise ValueError("--gpus and --per-gpu are of this machine; gpus_per_run of the cluster's entry says it there")
    jobs = expand(args.config, args.settings, args.runs, args.samples, args.draw_seed)
    if args.status:
        print(scheduler.status(jobs), end="")
        return 0
    if args.stop:
        require_search(jobs, place)
    wanted = [job for job in jobs if job.state in scheduler.to_do(args.retry)]
    slots = [] if place else scheduler.devices(args.gpus, jobs[0].cfg.device) * (args.per_gpu or 1)
    if args.dry_run:
        print(would(wanted, place, slots), end="")
        return 0
    require(jobs)
    print(f"a page about these runs: python -m {shlex.join(page(jobs[0].folder.parent))}", flush=True)
    if args.stop:
        from fastmix.runs import asha

        return asha.search(jobs, place, args.retry)
    if isinstance(place, clusters.Slurm):
        print("".join(f"{line}\n" for line in on_slurm.submit(place, wanted, args.retry)), end="")
        return 0
    return scheduler.sweep(jobs, on_ray.OnRay(place, jobs[0]) if place else scheduler.Local(slots), args.retry)


def would(jobs: list[Job], place: clusters.Ray | clusters.Slurm | None, slots: list[str | None]) -> str:
    """What would run: the batch script of Slurm, or a command a run."""
    if isinstance(place, clusters.Slurm):
        return on_slurm.script(place, jobs) if jobs else ""
    local = scheduler.Local(slots)
    calls = [clusters.call(place, job)[0] if place else local.words(job, slots[0]) for job in jobs]
    return "".join(f"python -m {' '.join(words)}\n" for words in calls)


def page(folder: Path) -> list[str]:
    """The module that writes a page about the runs below a folder while they go on, and its words."""
    return ["fastmix.report", "--runs", str(folder), "--html", f"{folder}.html", "--watch"]


def require_search(jobs: list[Job], place: clusters.Ray | clusters.Slurm | None) -> None:
    """Raises ValueError where ASHA cannot compare these runs, or not there."""
    if not isinstance(place, clusters.Ray):
        raise ValueError("--stop asha is Ray Tune's: give --on ray, or a cluster of Ray")
    optional.need("--stop asha", "ray", "pandas", "pyarrow", "tensorboardX")
    from fastmix.runs import asha

    asha.require(jobs)


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
