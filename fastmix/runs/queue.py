"""The runs of a sweep: which there are, where each stands, and who may train it."""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from fastmix import config
from fastmix.runs import run_folder

FAILED = "failed.txt"
"""In a run's folder: the last line of the error that ended it."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    source: str
    """The config file."""
    settings: tuple[str, ...]
    cfg: config.Config
    folder: Path

    @property
    def state(self) -> str:
        return state(self.folder, run_folder.finished(self.folder, self.cfg.epochs))

    def lock(self) -> run_folder.Lock | None:
        """The run's lock, or None where another process holds it."""
        return run_folder.lock(self.folder)


def state(folder: Path, finished: bool) -> str:
    """finished, failed, running (some process holds the lock), stopped (has a log), or waiting."""
    if finished:
        return "finished"
    if run_folder.is_locked(folder):
        return "running"
    if (folder / FAILED).exists():
        return "failed"
    return "stopped" if (folder / "log.jsonl").exists() else "waiting"


def why(folder: Path) -> str:
    """The last line of the error that ended a failed run."""
    return (folder / FAILED).read_text(encoding="utf-8").strip()


def expand(source: str, words: list[str], base: Path) -> list[Job]:
    """The runs of a config and key=value words, in which a value may be a list: a,b,c, and mix=all every row.

    The folder is base/<config>/<mix>_s<seed>, and behind it the other settings. Raises ValueError, naming the run, for
    a setting that the config does not take, and where the folder holds a run of another config.
    """
    choices: dict[str, list[str]] = {}
    for word in words:
        key, sep, text = word.partition("=")
        if not sep or not key:
            raise ValueError(f"{word!r} is no setting: write key=value or key=a,b, such as seed=0,1,2")
        if key in choices:
            raise ValueError(f"{key} is given twice: write {key}=a,b for several values")
        if key == "out":
            raise ValueError("out is the sweep's to choose: give --runs FOLDER")
        choices[key] = _split(text)
    if choices.get("mix") == ["all"]:
        first = [f"{key}={values[0]}" for key, values in choices.items() if key != "mix"]
        cfg = config.load(source, first)
        choices["mix"] = list(cfg.mixers)
    jobs: dict[Path, Job] = {}
    for values in itertools.product(*choices.values()):
        settings = tuple(f"{key}={value}" for key, value in zip(choices, values, strict=True))
        job = _job(source, settings, base, {key for key in choices if len(choices[key]) > 1})
        if job.folder in jobs:
            raise ValueError(f"{' '.join(settings)}: this run comes twice in the sweep")
        jobs[job.folder] = job
    return list(jobs.values())


def _job(source: str, settings: tuple[str, ...], base: Path, varied: set[str]) -> Job:
    try:
        cfg = config.load(source, settings)
        if cfg.mix not in cfg.mixers:
            raise ValueError(f"mixers: no row {cfg.mix!r}; there are {', '.join(cfg.mixers)}")
    except ValueError as error:
        raise ValueError(f"{' '.join(settings)}: {error}") from None
    named = [s for s in settings if (key := s.partition("=")[0]) in varied or key not in config.FREE_TO_CHANGE]
    rest = "".join(f"_{s}" for s in sorted(named) if not s.startswith(("mix=", "seed=")))
    name = f"{cfg.mix}_s{cfg.seed}{rest}"
    safe = re.sub(r"[^\w.=+-]+", "-", name)[:150]
    if safe != name:  # two settings may look the same now
        safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    job = Job(source, settings, cfg, base / Path(source).stem / safe)
    if (job.folder / "config.yaml").exists():
        _same(job)
    return job


def _same(job: Job) -> None:
    """Raises ValueError where the folder's run has other settings, because the config file changed since."""
    theirs = config.load(job.folder / "config.yaml")
    if keys := run_folder.departures(theirs, job.cfg, {*config.FREE_TO_CHANGE, *config.left_open(job.cfg)}):
        raise ValueError(
            f"{job.folder} holds a run of another config, these keys differ: {', '.join(keys)}; choose another --runs"
        )


def _split(text: str) -> list[str]:
    """At the commas that are not inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for mark in text:
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        else:
            depth += (mark in "[{(") - (mark in "]})")
        if mark == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += mark
    return parts
