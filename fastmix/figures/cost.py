"""Accuracy against what training cost: a point a method, with standard deviations over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fastmix.figures import labels
from fastmix.figures.groups import Group
from fastmix.runs.run_folder import Run

WIDE = 8.0
"""Largest cost over the smallest, from which on the axis is logarithmic."""


def hours(run: Run) -> float:
    """By the clock of the log."""
    return run.seconds / 3600


def images(run: Run) -> float:
    """Millions of images that it was trained with, those of each epoch counted."""
    return run.val[run.cfg.epochs]["step"] * run.cfg.batch_total / 1e6


def draw(groups: Sequence[Group], of: Callable[[Run], float], label: str) -> Figure | None:
    """top1 over the cost of a run; None where all cost the same."""
    costs = [[of(run) for run in group.runs] for group in groups]
    ends = [mean(some) for some in costs]
    if max(ends) - min(ends) <= 1e-9 * max(ends):
        return None
    names = [labels.broken(group.name) for group in groups]
    axes = labels.plane(names, xlabel=label, ylabel="top-1 (%)")
    for group, end, some in zip(groups, ends, costs, strict=True):
        spread = stdev(some) if len(some) > 1 else None
        axes.errorbar(
            end, group.row["top1"], group.row["std"], spread, linestyle="none", elinewidth=0.7, label=group.name,
            **group.look.marks,
        )  # fmt: skip
    if min(ends) > 0 and max(ends) / min(ends) > WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if max(ends) / min(ends) < WIDE**2 else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(0.08)
    points = [(end, group.row["top1"]) for group, end in zip(groups, ends, strict=True)]
    labels.beside(axes, names, [group.look for group in groups], points, lines=False)
    return axes.figure
