"""Learning curves: a value of the log over epochs, the mean of each method with a band over its seeds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from fastmix.figures.banded import banded, edges
from fastmix.figures.groups import Group
from fastmix.runs.curves import Band, curve, over_seeds

EARLY = 0.15
"""Share of the epochs at the beginning that does not decide where the axis begins or ends."""
MOST = 40
"""Values on a curve; where a log has more, they are means over several epochs."""


def draw(groups: Sequence[Group], name: str, label: str) -> Figure | None:
    """The curves of `train/KEY` or `val/KEY`, in brackets of how many seeds; None where no run has it.

    The axis holds what curves are after their first epochs: what matters is at the end.
    """
    every = -(-max(len(curve(run, name).epochs) for group in groups for run in group.runs) // MOST) or 1
    bands = [(group, over_seeds(group.runs, name, every)) for group in groups]
    shown = [(group, band) for group, band in bands if band.epochs]
    if not shown:
        return None
    first, last = min(band.epochs[0] for _, band in shown), max(band.epochs[-1] for _, band in shown)
    margin = 0.03 * (last - first) or 1.0
    axes = banded(
        shown, xlabel="epoch" + f" (means of {every})" * (every > 1), ylabel=label,
        xlim=(first - margin, last + margin), ylim=_limits([band for _, band in shown]),
    )  # fmt: skip
    return axes.figure


def _limits(bands: Sequence[Band]) -> tuple[float, float]:
    """Of the axis: what the curves and bands reach after the early epochs, with a margin."""
    late = []
    for band in bands:
        after = [epoch >= EARLY * band.epochs[-1] for epoch in band.epochs]
        lines = edges(band) if band.std else (band.mean,)
        late += [value for line in lines for value, is_late in zip(line, after, strict=True) if is_late]
    margin = 0.05 * (max(late) - min(late)) or 1.0
    return min(late) - margin, max(late) + margin
