"""The `folder` loader: image files as they lie in class folders, or in any layout that convert understands."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastmix.pipelines.chunk import Record
from fastmix.pipelines.jpeg.codec import need
from fastmix.pipelines.jpeg.decode import plain_size
from fastmix.pipelines.nvjpeg import Jpegs
from fastmix.pipelines.packing.images import rgb
from fastmix.pipelines.packing.layouts import Listing, scan, with_jpegs


class Folder(Jpegs):
    """Reads image files. JPEGs take the fast way, all other kinds become upright RGB as in convert."""

    def open(self) -> None:
        super().open()
        self.files, labels, names = self.listing()
        need(self.source, with_jpegs(self.files))
        self.labels = np.array(labels, np.int64)
        self.class_names = names or [str(k) for k in range(self.labels.max() + 1)]

    def listing(self) -> Listing:
        return scan(self.source)

    def record(self, row: int) -> Record:
        data = Path(self.files[row]).read_bytes()
        if size := plain_size(data):
            return Record(*size, data, False)
        pixels = np.ascontiguousarray(rgb(data))
        return Record(*pixels.shape[:2], pixels.reshape(-1), True)

    def where(self, row: int) -> str:
        return f"{self.files[row]} (row {row})"
