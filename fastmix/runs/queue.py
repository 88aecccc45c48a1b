"""The runs of a sweep: which there are, where each stands, and who may train it."""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from fastmix import config
from fastmix.runs import draws, run_folder

FAILED = "failed.txt"
"""In a run's folder: the last line of the error that ended it."""
EARLY = "stopped early"
"""State of a run that a search gave up (run_folder.EARLY)."""


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
    """finished, failed, running (some process holds the lock), stopped early, stopped (has a log), or waiting."""
    if finished:
        return "finished"
    if run_folder.is_locked(folder):
        return "running"
    if (folder / FAILED).exists():
        return "failed"
    if run_folder.early(folder):
        return EARLY
    return "stopped" if (folder / "log.jsonl").exists() else "waiting"


def why(folder: Path, state: str) -> str:
    """Of a failed run the last line of its error, of one that a search gave up what was noted; of others nothing."""
    if state == "failed":
        return (folder / FAILED).read_text(encoding="utf-8").strip()
    return run_folder.early(folder) if state == EARLY else ""


def expand(source: str, words: list[str], base: Path, samples: int = 0, seed: int = 0) -> list[Job]:
    """The runs of a config and key=value words, in which a value may be a list: a,b,c, and mix=all every row.

    Values like loguniform(.01,1) are drawn (draws.draw), `samples` times for each combination of the others, and the
    same for all of these; what is drawn twice is one run.

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
        choices[key] = draws.split(text)
    drawn = {key for key, values in choices.items() if any(map(draws.is_draw, values))}
    if samples and not drawn:
        raise ValueError("--samples goes with a key whose values are drawn, such as optim.lr=loguniform(.01,1)")
    for key in sorted(drawn):
        text = f"{key}={','.join(choices[key])}"
        if not samples:
            raise ValueError(f"{text} is drawn: give --samples N")
        if len(choices[key]) > 1 or key == "mix":
            raise ValueError(f"{text}: a list, and mix, hold values as they are; choice(a,b) draws one of several")
    if choices.get("mix") == ["all"]:
        first = [f"{key}={values[0]}" for key, values in choices.items() if key not in ("mix", *drawn)]
        cfg = config.load(source, first)
        choices["mix"] = list(cfg.mixers)
    jobs: dict[Path, Job] = {}
    varied = drawn | {key for key in choices if len(choices[key]) > 1}
    for values, number in itertools.product(itertools.product(*choices.values()), range(samples or 1)):
        named = dict(zip(choices, values, strict=True))
        named |= {key: draws.draw(key, named[key], number, seed) for key in drawn}
        job = _job(source, tuple(f"{key}={value}" for key, value in named.items()), base, varied)
        if job.folder in jobs and not drawn:
            raise ValueError(f"{' '.join(job.settings)}: this run comes twice in the sweep")
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
