"""What images of each class were taken for: a square table of counts, which `validate --confusion` leaves as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FILE = "confusion.csv"
"""In a run folder, where `report --figures` looks for it."""
CORNER = "label, predicted"


class Confusion(NamedTuple):
    """counts[label][predicted] of images; names: of the classes, in the same order."""

    names: list[str]
    counts: list[list[int]]


def as_csv(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A row a label, a column a prediction, with their names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([CORNER, *names])
    writer.writerows([name, *row] for name, row in zip(names, counts, strict=True))
    return text.getvalue()


def read(folder: Path) -> Confusion | None:
    """The table in a run folder, if it is there. Raises ValueError for another file of that name."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        (corner, *names), *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        counts = [[int(cell) for cell in row[1:]] for row in rows]
        square = [row[0] for row in rows] == names and {len(row) for row in counts} == {len(names)}
    except (ValueError, IndexError):
        square = False
    if not square or corner != CORNER or min(map(min, counts)) < 0:
        raise ValueError(f"{path}: no table of counts, as fastmix.validate RUN --confusion {path} writes it")
    return Confusion(names, counts)
