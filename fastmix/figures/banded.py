"""Curves of several methods, each a mean with a band of its deviation over seeds, and its name at its end."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from fastmix.figures import labels
from fastmix.figures.groups import Group
from fastmix.runs.curves import Band

MARKS = 6
"""Markers on a curve, about: of one that has many values."""

BLANK = "\N{NO-BREAK SPACE}"


def banded(shown: Sequence[tuple[Group, Band]], **words) -> Axes:
    """The curves, in brackets of how many seeds. words: xlabel, ylabel and what else axes can be set to."""
    names = [labels.broken(group.name + f"{BLANK}({band.n})" * (band.n > 1)) for group, band in shown]
    axes = labels.plane(names)
    for k, (group, band) in enumerate(shown):
        step = max(1, len(band.epochs) // MARKS)
        at = (k * step // len(shown), step)
        axes.plot(band.epochs, band.mean, linestyle=group.look.dash, markevery=at, label=group.name, **group.look.marks)
        if band.std:
            axes.fill_between(band.epochs, *edges(band), color=group.look.colour, alpha=0.2, linewidth=0)
    axes.set(**words)
    ends = [(band.epochs[-1], band.mean[-1]) for _, band in shown]
    labels.beside(axes, names, [group.look for group, _ in shown], ends, lines=True)
    return axes


def edges(band: Band) -> list[list[float]]:
    """The mean less and plus a deviation."""
    return [[mean + sign * std for mean, std in zip(band.mean, band.std, strict=True)] for sign in (-1, 1)]
