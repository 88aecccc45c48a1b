"""How all figures look: sizes for a column of print, colours that colour-blind readers tell apart, repeating bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastmix import files

WIDTH = 3.3
"""Inches: a column of two-column paper."""
POINT = 1 / 72
"""Inches."""
FONT = 7.5
"""Points of all text."""
BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito, "Color Universal Design" (2008), without yellow, which is too light on paper."""
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RC = {
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "pdf.fonttype": 42,  # TrueType, embedded: publishers refuse Type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "fastmix",
    "text.hinting": "none",  # or text would be as wide as pixels let it, and measured at another size than drawn
    "figure.dpi": 300,
    "savefig.dpi": "figure",
}
DATELESS = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
"""By format: what keeps the time out of a file."""


class Look(NamedTuple):
    """Line and marker of a method, a pair that no other has, in grey neither."""

    colour: str
    dash: str | tuple
    marker: str
    hollow: bool

    @property
    def marks(self) -> dict:
        """Arguments of plot."""
        face = "white" if self.hollow else self.colour
        size = 5 if self.marker == "*" else 3.5
        marks = {"marker": self.marker, "markersize": size, "markerfacecolor": face, "markeredgewidth": 0.8}
        return marks | {"color": self.colour}


def looks(mixes: Sequence[str]) -> list[Look]:
    """One for each method: vanilla is black, the others take colours, dashes and markers in turn."""
    found, black, others = [], 0, 0
    for mix in mixes:
        if mix == "vanilla":
            found.append(Look(BLACK, DASHES[black % len(DASHES)], "*", black % 2 == 1))
            black += 1
        else:
            turn, place = divmod(others, len(MARKERS))
            found.append(
                Look(COLOURS[others % len(COLOURS)], DASHES[others % len(DASHES)], MARKERS[place], turn % 2 == 1)
            )
            others += 1
    return found


@contextmanager
def styled() -> Iterator[None]:
    """Within, figures look like this, whatever the user's settings of matplotlib are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def sheet(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, sizes in inches, on which text can be measured."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, kind: str) -> None:
    """kind: pdf, png or svg. Written whole or not at all. Raises OSError with the path."""
    with files.whole(path) as part:
        figure.savefig(part, format=kind, metadata=DATELESS[kind])
