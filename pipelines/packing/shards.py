"""Several `.beton` files as one: their rows are numbered through, file by file."""

from __future__ import annotations

import errno
import filecmp
import os
from zlib import crc32

import numpy as np
from numpy import ndarray

from fastmix.pipelines.packing import labels
from fastmix.pipelines.packing.format import Beton
from fastmix.reading import shown

COLUMNS = ("labels", "heights", "widths", "modes", "offsets", "sizes")


class Shards:
    """One or more `.beton` files, in the order of their rows; each is checked as a whole, then they against each other.

    files    the open files; each has its part of the columns
    labels, heights, widths, modes, offsets, sizes   as those of a `Beton`, of all files
    first    int64 [files]   the first row of each file
    begins   int64 [files]   bytes of the files before each
    descriptors  int64 [files]
    size     bytes of all files
    classes  list[str] or None  label by label
    warnings list[str]       lines on what looks odd

    Raises FileNotFoundError and ValueError as `Beton`, and ValueError for files that have other classes than the first
    one, for the same file twice, by whatever names, or a copy of it, and for more files than a process may open.
    """

    def __init__(self, paths: list[str]):
        self.files: list[Beton] = []
        try:
            for path in paths:
                self.files.append(_open(path, len(paths)))
                self._compare_classes()
            if len(self.files) > 1:
                self._refuse_copies()
        except BaseException:
            self.close()
            raise
        counts = np.array([len(file) for file in self.files])
        sizes = np.array([file.size for file in self.files])
        self.first, self.begins = (np.cumsum(column) - column for column in (counts, sizes))
        self.size = int(sizes.sum())
        self.descriptors = np.array([file.file for file in self.files])
        for name in COLUMNS:  # one after another, and the files keep views: no row is in memory twice
            parts = [getattr(file, name) for file in self.files]
            column = np.concatenate(parts) if len(parts) > 1 else parts[0]
            setattr(self, name, column)
            for file, part in zip(self.files, np.split(column, self.first[1:]), strict=True):
                setattr(file, name, part)
        self.classes = self.files[0].classes
        gaps = labels.gaps(self.labels, None) if self.classes is None else ""
        self.warnings = [f"{self.name}: {gaps}"] if gaps else []

    @property
    def name(self) -> str:
        """The files as messages show them."""
        return self.files[0].name + f" and {len(self.files) - 1} more" * (len(self.files) > 1)

    def __len__(self) -> int:
        return len(self.labels)

    def shard(self, rows: ndarray) -> ndarray:
        """Which file holds each of these rows: int64 [n]."""
        return np.searchsorted(self.first, rows, "right") - 1

    def where(self, row: int) -> str:
        """File and the row in it, for messages."""
        shard = int(self.shard(row))
        return self.files[shard].where(int(row) - int(self.first[shard]))

    def close(self) -> None:
        """Closes the files."""
        for file in self.files:
            file.close()

    def _compare_classes(self) -> None:
        one, other = self.files[0], self.files[-1]
        if other.classes == one.classes:
            other.classes = one.classes  # in memory once
            return
        if one.classes is None or other.classes is None:
            has, lacks = (one, other) if other.classes is None else (other, one)
            raise ValueError(
                f"{lacks.name}: has no class names, and {has.name} has; they are no shards of one data set"
            )
        pairs = zip(one.classes, other.classes, strict=False)
        k = next((k for k, (a, b) in enumerate(pairs) if a != b), None)
        what = (
            f"{len(other.classes)} classes, and {one.name} has {len(one.classes)}"
            if k is None
            else f"class {k} is '{other.classes[k]}', and '{one.classes[k]}' in {one.name}"
        )
        raise ValueError(f"{other.name}: {what}; they are no shards of one data set")

    def _refuse_copies(self) -> None:
        """Compares whole files only where tables and first image are the same."""
        known: dict[tuple, list[Beton]] = {}
        for file in self.files:
            info = os.fstat(file.file)
            table = crc32(np.ascontiguousarray([file.labels, file.offsets, file.sizes]).data)
            image = crc32(file.data(0)) if len(file) else 0
            place = ("file", info.st_dev, info.st_ino or file.path)  # 0: not told by its system
            for key in (place, ("content", file.size, table, image)):
                for other in known.setdefault(key, []):
                    if key[0] == "file" or filecmp.cmp(file.path, other.path, shallow=False):
                        same = "the same file as" if key[0] == "file" else "a copy of"
                        raise ValueError(f"{file.name}: {same} {other.name}; each shard counts once")
                known[key].append(file)


def _open(path: str, of: int) -> Beton:
    try:
        return Beton(path)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise ValueError(
                f"{shown(path)}: one of {of} shards, which are more files than a process may have open here; raise the "
                f"limit (ulimit -n {2 * of + 1000}) or write fewer, larger shards"
            ) from None
        raise
