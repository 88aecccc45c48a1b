"""The `folder` loader: images as they lie in class folders, or in any layout that convert understands."""

from __future__ import annotations

import os

import numpy as np
from numpy import ndarray

from fastmix.pipelines.chunk import BY_NAME, ELSEWHERE, Located, Record, located
from fastmix.pipelines.jpeg.codec import need
from fastmix.pipelines.jpeg.decode import plain_size
from fastmix.pipelines.nvjpeg import Jpegs
from fastmix.pipelines.packing.entries import Member, load
from fastmix.pipelines.packing.images import rgb
from fastmix.pipelines.packing.labels import names
from fastmix.pipelines.packing.layouts import Listing, scan, with_jpegs
from fastmix.pipelines.packing.layouts.parquet import Cell
from fastmix.pipelines.packing.walk import HIDDEN, summary
from fastmix.reading import shown


class Folder(Jpegs):
    """Reads image files. JPEGs take the fast way, all other kinds become upright RGB as in convert."""

    def open(self) -> None:
        super().open()
        listing = self.listing()
        need(self.source, with_jpegs(listing.files))
        if self.train and isinstance(listing.files[0], Cell):
            raise ValueError(
                f"{shown(self.source)}: parquet can be read in order only; convert it, or take data.loader=resident"
            )
        self.files, self.labels = listing.files, np.array(listing.labels, np.int64)
        self.class_names, self.warnings = names(self.labels, listing.classes), list(listing.warnings)
        if left := [file for file in listing.passed if file.kind != HIDDEN]:
            self.warnings.append(f"{shown(self.source)}: {len(left)} files passed over: {summary(left)}")

    def listing(self) -> Listing:
        """What is read. Raises ValueError for a list."""
        if isinstance(self.given, list):
            what = f"a list of {len(self.given)} is for .beton files, which the loaders beton, dali and resident read"
            raise ValueError(f"{self.source}: {what}; the loader folder reads one folder or list of images")
        return scan(self.given)

    def record(self, row: int) -> Record:
        data = load(self.files[row])
        if isinstance(data, np.ndarray):
            return Record(*data.shape[:2], data.reshape(-1), True)
        if size := plain_size(data):
            return Record(*size, data, False)
        pixels = np.ascontiguousarray(rgb(data))
        return Record(*pixels.shape[:2], pixels.reshape(-1), True)

    def locate(self, rows: ndarray) -> Located:
        """By names; all but files and members of archives is left to `record`."""
        parts = [_place(self.files[row]) for row in rows.tolist()]
        names, at, sizes = zip(*parts, strict=True) if parts else [()] * 3
        lengths = np.array([len(name) + 1 for name in names], np.int64)
        together = np.frombuffer(b"\0".join([*names, b""]), np.uint8)
        addresses = together.ctypes.data + np.cumsum(lengths) - lengths
        files = np.where(lengths > 1, BY_NAME, ELSEWHERE)
        return located(files, at, sizes, names=addresses, memory=together)

    def where(self, row: int) -> str:
        return f"{shown(str(self.files[row]))} (row {row})"


def _place(entry) -> tuple[bytes, int, int]:
    """The file in which an entry of a listing lies, from which byte on, and of how many, 0 for all; b"" for none."""
    if isinstance(entry, str):
        return os.fsencode(entry), 0, 0
    return (os.fsencode(entry.archive), entry.at, entry.size) if isinstance(entry, Member) else (b"", 0, 0)
