"""Names at the right of a figure, each as near to its curve's end as the others let it: no legend covers the data."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Affine2D, ScaledTranslation, Transform

from fastmix.figures.style import FONT, POINT, Look, sheet

LINE = 1.25 * FONT
"""Points from one name to the next."""
LEADER, KEY, GAP = 9.0, 15.0, 3.0
"""Points: of the thin line from the axes to the key of a curve, of the key itself, and between key and name."""
DOT = 4.0
"""Points: of the key of a dot."""
LONGEST = 22
"""Letters of a line of a name."""
EDGE = 2.0
"""Points that stay empty at the edges of a figure."""
LEAST = 2.1
"""Inches of a figure's height; more where many names need it."""


def plane(names: Sequence[str], **words: str) -> Axes:
    """Axes of a figure that is tall enough for these names; words: xlabel, ylabel."""
    tall = (sum(heights(names)) + 4 * FONT) * POINT
    return sheet(max(LEAST, tall)).add_axes((0.2, 0.2, 0.5, 0.7), **words)


def broken(name: str) -> str:
    """A long name in several lines."""
    return "\n".join(textwrap.wrap(name, LONGEST, break_on_hyphens=False))


def heights(names: Sequence[str]) -> list[float]:
    """Points that each takes."""
    return [LINE + FONT * name.count("\n") for name in names]


def beside(
    axes: Axes, names: Sequence[str], looks: Sequence[Look], ends: Sequence[tuple[float, float]], lines: bool
) -> None:
    """Writes the names at the right of axes that are drawn, and gives these the room that is left.

    ends: of curves, or the points, in data; a name is as near to that height as can be. lines: keys are lines with a
    marker, and thin lines lead to them from those curves that end last; else keys are markers alone.
    """
    figure = axes.figure
    key = KEY if lines else DOT
    _fit(axes, (LEADER + key + GAP) * POINT + width(figure, names))
    box = axes.get_window_extent()
    scale = 1 / (figure.dpi * POINT)
    right, tall = box.width * scale, box.height * scale
    spots = [((x - box.x0) * scale, (y - box.y0) * scale) for x, y in axes.transData.transform(ends)]
    last = max(x for x, _ in spots)
    sizes = heights(names)
    spare = max(0.0, sum(sizes) - tall - LINE) / 2
    places = spread([y for _, y in spots], sizes, -LINE / 2 - spare, tall + LINE / 2 + spare)
    outside = {"transform": _points(axes), "clip_on": False}
    start = right + LEADER
    for name, look, (x, y), place in zip(names, looks, spots, places, strict=True):
        if lines and x > last - 1 and 0 <= y <= tall:
            axes.add_line(Line2D([x, right, start], [y, y, place], color=look.colour, linewidth=0.4, **outside))
        line = {"linestyle": look.dash if lines else "none", "markevery": [1]}
        axes.add_line(Line2D([start, start + key / 2, start + key], [place] * 3, **look.marks, **line, **outside))
        axes.text(start + key + GAP, place, name, va="center_baseline", linespacing=1, transform=_points(axes))


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Centres as near as can be to those wanted (least squares), in their order, of things of these sizes.

    None overlaps another, and all are within `low` and `high`, which must have room for them.
    """
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    offsets = dict(zip(order, accumulate((sizes[k] for k in order), initial=0.0), strict=False))
    blocks: list[tuple[float, int]] = []  # of things pushed together: the mean of where each wants the lowest to begin
    for k in order:
        value, n = wanted[k] - sizes[k] / 2 - offsets[k], 1
        while blocks and blocks[-1][0] > value:
            mean, m = blocks.pop()
            value, n = (value * n + mean * m) / (n + m), n + m
        blocks.append((value, n))
    flat = dict(zip(order, (value for value, n in blocks for _ in range(n)), strict=True))
    last = high - sum(sizes)
    return [min(max(flat[k], low), last) + offsets[k] + sizes[k] / 2 for k in range(len(wanted))]


def width(figure: Figure, names: Sequence[str]) -> float:
    """Inches of the longest name."""
    texts = [figure.text(0, 0, name) for name in names]
    widest = max((text.get_window_extent().width for text in texts), default=0.0) / figure.dpi
    for text in texts:
        text.remove()
    return widest


def _fit(axes: Axes, right: float) -> None:
    """Puts the axes where their own words, and so many inches at the right, have room."""
    wide, tall = axes.figure.get_size_inches()
    for _ in range(2):  # with the size the ticks may change
        outer = axes.get_tightbbox().transformed(axes.figure.dpi_scale_trans.inverted())
        inner = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())
        left, below = inner.x0 - outer.x0 + EDGE * POINT, inner.y0 - outer.y0 + EDGE * POINT
        axes.set_position(
            (
                left / wide,
                below / tall,
                (wide - left - right - EDGE * POINT) / wide,
                (tall - below - LINE * POINT) / tall,
            )
        )


def _points(axes: Axes) -> Transform:
    """From points right and up of the lower left corner of the axes to the display."""
    corner = ScaledTranslation(0, 0, axes.transAxes)
    return Affine2D().scale(POINT) + axes.figure.dpi_scale_trans + corner
