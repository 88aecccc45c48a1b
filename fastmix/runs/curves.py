"""What the log of a run says over its epochs, as plain lists, and means over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from fastmix.runs.run_folder import Run

PLACE = ("kind", "time", "step", "epoch")
"""Keys of a line that say where it is."""


class Curve(NamedTuple):
    """Whole epochs, counted from 1 and rising, and a value at the end of each."""

    epochs: list[int]
    values: list[float]


class Band(NamedTuple):
    """Mean and standard deviation (n - 1) over n runs, at the epochs that all of them have. No deviation of one run."""

    epochs: list[int]
    mean: list[float]
    std: list[float]
    n: int


def names(found: Iterable[Run]) -> list[str]:
    """What can be asked of the runs: train/KEY and val/KEY of the numbers in their logs, as trackers name them.

    Such as train/loss, train/lr, train/images_per_s, val/top1, val/ema_top1; docs/track.md has the keys.
    """
    told = {}
    for run in found:
        for kind, rows in (("train", run.train), ("val", run.val.values())):
            told |= dict.fromkeys(f"{kind}/{key}" for row in rows for key in row if _number(row, key))
    return list(told)


def curve(run: Run, name: str) -> Curve:
    """A value of the log over epochs; empty where no line has it.

    Of train/KEY an epoch has the mean over its lines, weighted by the steps that each tells of: of the loss that is the
    mean over the epoch. Of steps that were trained again after a kill the later line counts.
    """
    kind, _, key = name.partition("/")
    if kind == "val":
        return Curve(*_columns((epoch, row[key]) for epoch, row in sorted(run.val.items()) if _number(row, key)))
    lines = {row["step"]: row for row in run.train}
    epochs: dict[int, list[tuple[float, int]]] = defaultdict(list)
    before = 0
    for step in sorted(lines):
        if _number(row := lines[step], key):
            epochs[math.ceil(round(row["epoch"], 6))].append((row[key], step - before))
        before = step
    points = ((epoch, fmean(*_columns(some))) for epoch, some in sorted(epochs.items()))
    return Curve(*_columns(points))


def over_seeds(runs: Sequence[Run], name: str, every: int = 1) -> Band:
    """The mean curve of the runs of one group (runs.groups). Raises ValueError without any run.

    every: of so many epochs in a row there is one value, the mean of those that a run has, at the last of them.
    """
    if not runs:
        raise ValueError(f"{name}: no runs to take the mean of")
    found = [_windows(curve(run, name), every) for run in runs]
    epochs = sorted(set.intersection(*map(set, found)))
    values = np.array([[one[epoch] for one in found] for epoch in epochs]).reshape(len(epochs), len(runs))
    std = values.std(1, ddof=1).tolist() if len(runs) > 1 else []
    return Band(epochs, values.mean(1).tolist(), std, len(runs))


def _windows(found: Curve, every: int) -> dict[int, float]:
    """Means of windows of so many epochs, by their last epochs; the last one may be shorter."""
    windows: dict[int, list[float]] = defaultdict(list)
    for epoch, value in zip(*found, strict=True):
        windows[min(-(-epoch // every) * every, found.epochs[-1])].append(value)
    return {epoch: fmean(values) for epoch, values in windows.items()}


def _number(row: dict, key: str) -> bool:
    """Whether a line has a finite number under the key."""
    value = row.get(key)
    return key not in PLACE and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _columns(pairs: Iterable[tuple]) -> tuple[list, list]:
    first, second = [], []
    for a, b in pairs:
        first.append(a)
        second.append(b)
    return first, second
