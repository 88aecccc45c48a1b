"""What a run says of each validation image: a CSV file in its folder, for comparing runs image by image."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = "each.csv"
COLUMNS = ("row", "label", "class")


@dataclass
class EachImage:
    """rows, labels and likeliest classes, int64 [n]; a row is an image's place in the validation data."""

    rows: np.ndarray
    labels: np.ndarray
    classes: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """Whether the likeliest class is the label, bool [n]."""
        return self.classes == self.labels

    def text(self) -> str:
        """The file."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(self.rows.tolist(), self.labels.tolist(), self.classes.tolist(), strict=True))
        return out.getvalue()


def read(folder: Path) -> EachImage:
    """What lies in a run folder. Raises ValueError where nothing does, or no such file."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{folder}: no {FILE}; `python -m fastmix.robustness {folder} --tests ece` writes it")
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    try:
        columns = np.array([[int(word) for word in line.split(",")] for line in lines], np.int64).reshape(-1, 3).T
    except ValueError:
        columns = np.empty((3, 0))
    if header != ",".join(COLUMNS) or not columns.size:
        raise ValueError(f"{path}: not a table of {', '.join(COLUMNS)}; measure the run again")
    return EachImage(*columns)
