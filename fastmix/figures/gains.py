"""Gains over vanilla: a dot and its standard error for each method, the published gain as a hollow mark beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastmix.figures import labels
from fastmix.figures.groups import Group
from fastmix.figures.style import BLACK, COLOURS, FONT, POINT, sheet

LOOSE = 1.28
"""Of rows: their height over that of their text."""


def draw(groups: Sequence[Group]) -> Figure | None:
    """The largest gain is on top; None where no run has a vanilla of its seed."""
    rows = sorted((group.row for group in groups if group.row["gain"] is not None), key=lambda row: row["gain"])
    if not rows:
        return None
    names = [labels.broken(row["name"] + "†" * bool(row["departs"])) for row in rows]
    published = [row["published_gain"] for row in rows]
    others = any(row["beside"] for row in rows)
    above = (2.0 if any(gain is not None for gain in published) else 0.5) * FONT * POINT
    below = (5.2 if others or any(row["departs"] for row in rows) else 3.8) * FONT * POINT
    sizes = [LOOSE * size * POINT for size in labels.heights(names)]
    body = sum(sizes)
    places = [end - size / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]
    figure = sheet(above + below + body)
    wide, tall = figure.get_size_inches()
    left, right = labels.width(figure, names) + FONT * POINT, FONT * POINT
    axes = figure.add_axes((left / wide, below / tall, 1 - (left + right) / wide, body / tall))
    axes.set(xlabel="gain over vanilla (percentage points)", ylim=(0, body))
    axes.set_yticks(places, names, linespacing=1)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=BLACK, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ours = axes.errorbar(
        [row["gain"] for row in rows], places, xerr=[row["gain_error"] or 0.0 for row in rows], fmt="o",
        capsize=2, color=COLOURS[0], elinewidth=0.8, label="here ± standard error",
    )  # fmt: skip
    theirs = [pair for pair in zip(published, places, strict=True) if pair[0] is not None]
    if theirs:
        mark = {"marker": "D", "markerfacecolor": "none", "markeredgewidth": 0.8, "color": COLOURS[1]}
        (hollow,) = axes.plot(*zip(*theirs, strict=True), linestyle="none", label="published" + "†" * others, **mark)
        axes.legend(
            handles=[ours, hollow], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderpad=0.2,
            handletextpad=0.3,
        )  # fmt: skip
    if others or any(row["departs"] for row in rows):
        figure.text(1 - right / wide, 0.5 * FONT * POINT / tall, "† another recipe or other data", ha="right")
    return figure
