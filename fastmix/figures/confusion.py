"""What the images of each class were taken for, as shares of the class: a picture of numbers, or of greys alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from fastmix.figures import labels
from fastmix.figures.groups import Group
from fastmix.figures.style import FONT, POINT, WIDTH, sheet
from fastmix.runs import confusion as tables

NUMBERED = 12
"""Classes up to which each share has room as a number."""
NAMED = 24
"""Classes up to which each has room for its name."""


def draw(group: Group) -> Figure | None:
    """Percent of the images of a class (rows) that were taken for each (columns), over the runs that have the table.

    None where none has. Raises ValueError where runs of the group have other classes.
    """
    found = [(run, table) for run in group.runs if (table := tables.read(run.folder))]
    if not found:
        return None
    names = found[0][1].names
    for run, table in found:
        if table.names != names:
            raise ValueError(f"{run.folder / tables.FILE}: other classes than in {found[0][0].folder / tables.FILE}")
    counts = np.sum([table.counts for _, table in found], 0)
    return picture(100 * counts / np.maximum(counts.sum(1, keepdims=True), 1), names)


def picture(shares: np.ndarray, names: Sequence[str]) -> Figure:
    """shares: float64 [classes,classes] in percent, label first."""
    n, named = len(names), len(names) <= NAMED
    probe = sheet(1)
    left = below = (labels.width(probe, names) + 2.4 * FONT * POINT) if named else 5.5 * FONT * POINT
    edge, bar = 0.6 * FONT * POINT, 6.4 * FONT * POINT
    side = WIDTH - left - edge - bar
    figure = sheet(below + side + edge)
    tall = below + side + edge
    axes = figure.add_axes((left / WIDTH, below / tall, side / WIDTH, side / tall), xlabel="predicted", ylabel="class")
    image = axes.imshow(shares, cmap="Greys", vmin=0, vmax=100, interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    if named:
        axes.set_xticks(range(n), names, rotation=90)
        axes.set_yticks(range(n), names)
        axes.tick_params(length=0)
    if n <= NUMBERED:
        for row, column in np.ndindex(n, n):
            if round(shares[row, column]) > 0:
                colour = "white" if shares[row, column] > 50 else "black"
                text = f"{shares[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center_baseline", color=colour, fontsize=7)
    shown = figure.add_axes(((WIDTH - bar + edge) / WIDTH, below / tall, FONT * POINT / WIDTH, side / tall))
    figure.colorbar(image, cax=shown, label="% of the class")
    return figure
