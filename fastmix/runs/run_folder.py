"""Run folders: which is free, and what is in one: config, versions, log, scores, and whether the run is finished."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import IO

import numpy as np

from fastmix import config, system
from fastmix.runs import data_seen

LOCK, INHERITED = "lock", "FASTMIX_LOCK"
EARLY = "stopped_early.txt"
"""In the folder of a run that a search gave up: by what, and after which epoch."""
TAIL = 1 << 20
"""Bytes at a log's end that hold its last lines of both kinds."""


@dataclass
class Run:
    """A run folder's content."""

    folder: Path
    cfg: config.Config
    train: list[dict]
    """Lines of kind train, in the order written."""
    val: dict[int, dict]
    """Line of kind val of each epoch, counted from 1; of an epoch validated again after a kill, the later line."""
    finished: bool
    seconds: float
    passed: list[str]
    """Log lines that are none, with file and number: a kill may leave half a line, to which the next is joined."""
    data: dict | None = None
    """What data it had, as it wrote it down (data_seen)."""
    early: str = ""
    """Of a run that a search gave up: by what, and after which epoch. No table counts it."""

    @property
    def epochs(self) -> int:
        """Whole epochs done."""
        return int(max([0.0, *self.val, *(row["epoch"] for row in self.train[-1:])]))

    @property
    def so_far(self) -> str:
        """How far a run is that does not count, and why it went no further."""
        return f"{self.epochs} of {self.cfg.epochs} epochs" + f" (stopped early {self.early})" * bool(self.early)

    @property
    def whole(self) -> bool:
        """Whether its last epoch is in the log; then the weights need not be there."""
        return self.cfg.epochs in self.val

    @property
    def images_per_s(self) -> float | None:
        return median(row["images_per_s"] for row in self.train) if self.train else None


def choose(cfg: config.Config, name: str, resume: bool) -> Path:
    """The folder that the config names, or the next free one of runs/; with resume the latest that exists.

    Raises ValueError where a run stands already that is not to be continued.
    """
    if cfg.out:
        folder = Path(cfg.out)
        if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists: continue that run with --resume, or choose another out=FOLDER")
        if resume and not (folder / "config.yaml").exists() and (strange := _strange(folder)):
            raise ValueError(f"{folder} holds no run, but {strange[0]}: choose another out=FOLDER")
        return folder
    base = Path("runs") / f"{name}_{cfg.mix}_s{cfg.seed}"
    numbered = [base, *(base.with_name(f"{base.name}-{k}") for k in range(2, 1000))]
    taken = list(takewhile(Path.exists, numbered))
    return taken[-1] if resume and taken else numbered[len(taken)]


class Lock:
    """The right to train in a folder, which one process has at a time, with those that inherit it."""

    def __init__(self, path: Path, file: IO):
        self.path, self.file = path, file

    def release(self) -> None:
        """Gives it up and leaves no file. Who inherited it must have ended."""
        self.path.unlink(missing_ok=True)
        self.file.close()


def lock(folder: Path) -> Lock | None:
    """The folder's lock, or None where another process holds it. The folder is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    while True:
        file = open(path, "a", encoding="utf-8")
        try:
            system.hold(file, wait=False)
        except BlockingIOError:
            file.close()
            return None
        if _is_open(path, file.fileno()):
            return Lock(path, file)
        file.close()  # who held it removed the file between the two calls


def is_locked(folder: Path) -> bool:
    """Whether a process trains in the folder. Changes nothing."""
    try:
        with open(folder / LOCK, encoding="utf-8") as file:
            system.hold(file, wait=False, shared=True)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, its own or the one that its sweep left it in $FASTMIX_LOCK; leaves no empty folders.

    Raises ValueError where another process trains in the folder.
    """
    inherited = os.environ.get(INHERITED, "")
    if inherited.isdecimal() and _is_open(folder / LOCK, int(inherited)):
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    mine = lock(folder)
    if mine is None:
        raise ValueError(f"{folder}: another process trains in this folder; wait for it, or choose another out=FOLDER")
    try:
        yield
    finally:
        mine.release()
        for path in made:
            if any(path.iterdir()):
                break
            path.rmdir()


def _strange(folder: Path) -> list[str]:
    """What a folder holds that no sweep puts there before a run."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return sorted(found - {LOCK, "train.log", "failed.txt"})


def _is_open(path: Path, number: int) -> bool:
    """Whether a file descriptor is that of the file."""
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except OSError:
        return False


def read(folder: str | Path) -> Run:
    """The run in a folder. Raises ValueError for a folder that holds none, and for a log without any line of a run."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder}: no run folder (no config.yaml in it)")
    cfg = config.load(folder / "config.yaml")
    rows, passed = _rows(folder / "log.jsonl")
    val = {row["epoch"]: row for row in rows if row["kind"] == "val"}
    train = [row for row in rows if row["kind"] == "train"]
    whole = _exported(folder) and cfg.epochs in val
    return Run(folder, cfg, train, val, whole, _seconds(rows), passed, data_seen.read(folder), early(folder))


def find(folder: str | Path) -> list[Path]:
    """The run folders below a folder, sorted. Raises ValueError where there is no such folder."""
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder of runs")
    found = []
    for path, below, names in os.walk(folder):
        if "config.yaml" in names:
            found.append(Path(path))
            below.clear()
    return sorted(found)


def finished(folder: Path, epochs: int) -> bool:
    """Whether the last of so many epochs is validated and the model exported, the last things that a run does."""
    return _exported(folder) and (last(folder).get("val") or {}).get("epoch") == epochs


def last(folder: Path) -> dict[str, dict]:
    """The newest log line of each kind, read from the end of a log that may be growing."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        lines = file.read().split(b"\n")[:-1]
    found: dict[str, dict] = {}
    for line in reversed(lines[1:] if size > TAIL else lines):
        kind = next((kind for kind in ("train", "val") if f'"kind": "{kind}"'.encode() in line), None)
        if kind and kind not in found and (row := parsed(line.decode(errors="replace"))):
            found[kind] = row
            if len(found) == 2:
                break
    return found


def top1(folder: Path) -> str:
    """Newest top-1 in percent of the weights that are saved: of their average, where there is one."""
    val = last(folder).get("val", {})
    score = val.get("ema_top1", val.get("top1"))
    return "–" if score is None else f"{score:.2f}"


def early(folder: Path) -> str:
    """What is noted of a run that a search gave up; of others nothing."""
    try:
        return (folder / EARLY).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def minutes_left(cfg: config.Config, train: dict) -> int | None:
    """What a run takes from a line of kind train on, at the pace that the line tells; None where it tells none."""
    if not train["images_per_s"] or not train["epoch"]:
        return None
    steps = train["step"] * (cfg.epochs / train["epoch"] - 1)
    return round(steps * cfg.batch_total / train["images_per_s"] / 60)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the commit of a source checkout."""
    found = {"python": platform.python_version()}
    for package in ("fastmix", "torch", "torchvision", "timm", "triton", "numpy", "numba", "simplejpeg"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        found["commit"] = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found["commit"] = ""
    return found


def trained(cfg: config.Config, ignore: Collection[str], mix: str | None = None) -> dict:
    """What a config says of training one method: values by dotted keys, without other methods' rows."""
    mine = f"mixers.{mix or cfg.mix}"

    def counts(key: str) -> bool:
        return key not in ignore and (not key.startswith("mixers.") or f"{key}.".startswith(f"{mine}."))

    return {key: value for key, value in config.flat(cfg).items() if counts(key) and value != {}}


def departures(a: config.Config, b: config.Config, ignore: Collection[str]) -> list[str]:
    """Keys in which two configs train the method of `b` in different ways."""
    x, y = trained(a, {*ignore, "mix"}, b.mix), trained(b, {*ignore, "mix"})
    return sorted(key for key in x.keys() | y.keys() if x.get(key) != y.get(key))


def window(epochs: int) -> int:
    """Epochs at the end whose median a setting reports: 5 of up to 100 epochs, else 10."""
    return 5 if epochs <= 100 else 10


def scores(top1: dict[int, float], epochs: int, mix: str = "") -> dict[str, float]:
    """What is reported of a run, from its top-1 (percent) by epoch, counted from 1, and its total of epochs.

    median: of the last 5 or 10 epochs; best; final. Of a run that is not finished, of its last epochs so far.
    script_median, script_best: as OpenMixup's tools/summary compute them. find_classification_val_median.py counts one
    epoch more. find_automix_val_median.py counts two more where 10 are stated, then takes the larger of that median and
    the one without the last epoch. (It also takes the best of four heads; here there is one, the model that is saved.)
    find_val_max_3times_average.py averages the maximum and the 99th percentile.
    """
    if not top1:
        return {}
    end, n = max(top1), window(epochs)
    learned = mix in ("automix", "samix")
    wide = [top1[epoch] for epoch in sorted(top1) if epoch >= end - n - (learned and n >= 10)]
    values = list(top1.values())
    return {
        "median": median(top1[epoch] for epoch in top1 if epoch > end - n),
        "best": max(values),
        "final": top1[end],
        "script_median": max(median(wide), median(wide[:-1])) if learned and len(wide) > 1 else median(wide),
        "script_best": float(max(values) + np.percentile(values, 99)) / 2,
    }


def _exported(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file()


def _rows(path: Path) -> tuple[list[dict], list[str]]:
    """The log's lines, the last one only if its end is written; and where lines are that are none.

    Raises ValueError where there are only such.
    """
    if not path.is_file():
        return [], []
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = [(line, parsed(line)) for line in lines if line]
    passed = [f"{path}, line {k}: {line[:80]!r}" for k, (line, row) in enumerate(found, 1) if row is None]
    if passed and len(passed) == len(found):
        raise ValueError(f"{passed[0]} is not a log line of fastmix.train")
    return [row for _, row in found if row is not None], passed


def parsed(line: str) -> dict | None:
    """A log line's values; None where it is none of fastmix.train, such as half of one, with another behind it."""
    try:
        row = json.loads(line)
        needed = {"train": ("epoch", "images_per_s"), "val": ("epoch", "top1")}[row["kind"]]
        if all(isinstance(row[key], int | float) for key in ("time", "step", *needed)):
            return row
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _seconds(rows: list[dict]) -> float:
    """Training time over all parts of a run: the clock of the log begins anew in each."""
    ends = [a["time"] for a, b in zip(rows, rows[1:], strict=False) if b["time"] < a["time"]]
    return sum(ends) + (rows[-1]["time"] if rows else 0.0)
