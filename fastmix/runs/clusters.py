"""Clusters that sweeps run on, by name: a YAML file of a few lines each, `--clusters FILE` or the user's own.

    lab:
      engine: ray
      address: 10.0.0.1:6379
      gpus_per_run: 1

An entry without `engine` is of the engine of its name, and an engine that has no entry is used with its defaults.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastmix import yaml12
from fastmix.ranges import Range, cast, fill
from fastmix.runs import one_run
from fastmix.runs.queue import Job

GPUs = Annotated[float, Range(0, 64)]
CPUs = Annotated[int, Range(1, 1024)]


@dataclass
class Ray:
    """A cluster of Ray."""

    address: str = ""
    """HOST:PORT of its head; auto: the one that this machine is part of; empty: one of this machine alone, for the time
    of the sweep."""
    gpus_per_run: GPUs = 1.0
    """A part, such as 0.5, lets runs share a GPU; several train one run together, on one machine."""
    cpus_per_run: CPUs = 1
    extra: dict = field(default_factory=dict)
    """Further options of a task of Ray: resources, accelerator_type, ...; with --stop asha only resources."""


@dataclass
class Slurm:
    """A cluster of Slurm, in the words of sbatch."""

    partition: str = ""
    time: str = ""
    """Of a job, as 24:00:00; a run that needs longer goes on in the next. Empty: as the partition has it."""
    gres: str = ""
    """Instead of --gpus-per-node, such as gpu:a100:2; gpus_per_run says how many processes use them."""
    gpus_per_run: GPUs = 1.0
    """Several train one run together, on one machine."""
    cpus_per_run: CPUs = 1
    save_within: Annotated[int, Range(10, 3600)] = 120
    """Seconds before the limit at which a run is told to save and end."""
    at_a_time: Annotated[int, Range(1, 100_000)] = 1000
    """Runs at a time, of one sweep."""
    extra: dict = field(default_factory=dict)
    """Further arguments of sbatch, without the dashes: account, qos, constraint, mem, ..."""


ENGINES = {"ray": Ray, "slurm": Slurm}
LOCAL = "local"


def own_file() -> Path:
    """Where the user's own clusters are described."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fastmix/clusters.yaml"


def load(name: str, file: Path | None = None) -> Ray | Slurm | None:
    """The cluster of a name; None: this machine. Raises ValueError for an unknown name, and for what it cannot be."""
    if file is not None and not file.is_file():
        raise ValueError(f"--clusters {file}: no such file")
    path = file or own_file()
    tree = (
        cast(yaml12.parse(path.read_text(encoding="utf-8"), str(path)) or {}, dict, str(path), "the file")
        if path.is_file()
        else {}
    )
    if name == LOCAL:
        return None
    if name not in tree and name not in ENGINES:
        known = [LOCAL, *dict.fromkeys([*ENGINES, *map(str, tree)])]
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"--on {name}: no such cluster in {path}; {hint}")
    entry = dict(cast(tree.get(name) or {}, dict, str(path), name))
    engine = entry.pop("engine", name)
    if engine not in ENGINES:
        raise ValueError(f"{path}: {name}.engine is {engine!r}; choose one of {', '.join(ENGINES)}")
    place = fill(ENGINES[engine], entry, str(path), f"{name}.")
    whole = place.gpus_per_run == int(place.gpus_per_run)
    if not whole and (place.gpus_per_run > 1 or engine == "slurm"):
        least = "a whole number" + " or less than 1" * (engine == "ray")
        raise ValueError(f"{path}: {name}.gpus_per_run is {place.gpus_per_run:g}; it must be {least}")
    return place


def gpus(place: Ray | Slurm, job: Job) -> float:
    """GPUs that a run takes."""
    return 0 if job.cfg.device == "cpu" else place.gpus_per_run


def call(place: Ray | Slurm, job: Job) -> tuple[list[str], int]:
    """The words of a run (one_run.command), and how many processes train it: one for each of its GPUs."""
    count = max(1, int(gpus(place, job)))
    return one_run.command(job, gpus(place, job) > 0, max(1, place.cpus_per_run // count)), count
