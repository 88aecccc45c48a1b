"""Images without labels, for prediction: what cannot be read, or not be seen, is left out, and a reason is kept."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from fastmix.pipelines.beton import Beton
from fastmix.pipelines.chunk import Record
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.loader import Loader
from fastmix.pipelines.packing.layouts import Listing


class Reasons(Loader):
    """A loader's part that keeps, in `reasons`, why a row was left out."""

    reasons: dict[int, str]

    def open(self) -> None:
        self.reasons = {}
        super().open()

    def judge(self, row: int, reason: str) -> str:
        self.reasons[int(row)] = reason
        return super().judge(row, reason)

    def small(self, height: int, width: int) -> str | None:
        """Why an image of that size cannot be seen; None where it can."""
        size = f"{width} x {height} pixels, too small for a crop of {self.view.size}"
        return size if min(height, width) < self.view.smallest() else None


class Files(Reasons, Folder):
    """Image files, one by one. Raises ValueError where there are JPEGs and no decoder for them."""

    def __init__(self, files: list[str], batch: int, **options):
        self.files = files
        super().__init__(f"{len(files)} files", batch, train=False, bad="skip", **options)

    def listing(self) -> Listing:
        return Listing(self.files, [0] * len(self.files), None)

    def record(self, row: int) -> Record:
        found = super().record(row)
        if reason := self.small(found.height, found.width):
            raise ValueError(reason)
        return found

    def name(self, row: int) -> tuple[str, int | None]:
        """The file."""
        return self.files[row], None


class Packed(Reasons, Beton):
    """The rows of a `.beton` file. Raises ValueError or OSError where it cannot be opened."""

    def __init__(self, source: str, batch: int, **options):
        super().__init__(source, batch, train=False, bad="skip", **options)

    def stored(self, rows: ndarray) -> tuple[list, dict[int, str]]:
        sizes = zip(self.file.heights[rows].tolist(), self.file.widths[rows].tolist(), strict=True)
        failed = {k: reason for k, size in enumerate(sizes) if (reason := self.small(*size))}
        return super().stored(np.delete(rows, list(failed)) if failed else rows)[0], failed

    def name(self, row: int) -> tuple[str, int | None]:
        """The file, as it was named, and the row in it."""
        return self.given, row


def unlabelled(part: list[str] | str, batch: int, **options) -> Files | Packed:
    """The loader of image files or of a packed file; options are Loader's."""
    return (Files if isinstance(part, list) else Packed)(part, batch, **options)
