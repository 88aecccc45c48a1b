"""The `beton` loader: rows of a packed file, memory-mapped."""

from __future__ import annotations

from fastmix.pipelines.chunk import Record
from fastmix.pipelines.format import RAW
from fastmix.pipelines.format import Beton as File
from fastmix.pipelines.loader import Loader
from fastmix.pipelines.sources import resolve


class Beton(Loader):
    """Reads a `.beton` file, its JPEGs or raw pixels; or built-in data, "shapes:train" and "shapes:val"."""

    def open(self) -> None:
        self.file = File(resolve(self.source))
        self.labels = self.file.labels
        self.class_names = self.file.classes or [str(k) for k in range(self.labels.max(initial=-1) + 1)]

    def record(self, row: int) -> Record:
        height, width, data = int(self.file.heights[row]), int(self.file.widths[row]), self.file.data(row)
        raw = self.file.modes[row] == RAW
        return Record(height, width, data, raw)

    def where(self, row: int) -> str:
        return f"{self.file.path}: row {row}"
