"""Where an image of a listing lies: a file by its path, or a part of one, which is read in place.

An entry is a path, or one of the kinds below; `str` of any names it in messages and reports, the image's own name last.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from fastmix.reading import open_regular, pread, read


class Member(NamedTuple):
    """An image file inside an archive that is not compressed: `size` bytes from byte `at` on."""

    archive: str
    name: str
    at: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"

    def load(self) -> bytes:
        """Its bytes. Raises OSError."""
        file = open_regular(self.archive)
        try:
            return pread(file, self.size, self.at)
        finally:
            os.close(file)


class Pixels(NamedTuple):
    """An image that comes as pixels: row `row` of `stack`, uint8 [n,3,H,W]."""

    source: str
    row: int
    stack: np.ndarray

    def __str__(self) -> str:
        return f"{self.source}:{self.row}"

    def load(self) -> np.ndarray:
        """uint8 [H,W,3]."""
        return np.ascontiguousarray(self.stack[self.row].transpose(1, 2, 0))


def load(entry) -> bytes | np.ndarray:
    """What an entry holds: the bytes of an image file, or pixels uint8 [H,W,3]. Raises OSError."""
    return read(entry) if isinstance(entry, str) else entry.load()


def name_of(entry) -> str:
    """The name of an image's own file, without its folders."""
    return (entry if isinstance(entry, str) else str(entry[1])).rpartition("/")[2]


def home(entry) -> str:
    """The file on the disk that an entry is, or lies in."""
    return entry if isinstance(entry, str) else entry[0]
