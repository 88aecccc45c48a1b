"""How images are stored, and what of them is wanted: what a loader's source hands to the decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from fastmix.pipelines.packing.format import extent


class Record(NamedTuple):
    """An image as it is stored: height, width, and a JPEG's bytes or, if raw, pixels uint8 [height * width * 3]."""

    height: int
    width: int
    data: bytes | ndarray
    raw: bool


class Extents(Sequence):
    """Parts of files, as data of a chunk: uint8 [size], each read when it is asked for.

    files  int64 [n]  descriptors, open for reading
    offsets, sizes  int64 [n]  bytes

    Reading raises OSError, and ValueError where the file ends too early.
    """

    def __init__(self, files: ndarray, offsets: ndarray, sizes: ndarray):
        self.files, self.offsets, self.sizes = files, offsets, sizes

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, k: int) -> ndarray:
        return extent(int(self.files[k]), int(self.offsets[k]), int(self.sizes[k]))


IN_MEMORY, BY_NAME, ELSEWHERE = -1, -2, -3
FILE, NAME, AT, SIZE, HEIGHT, WIDTH, RAW = range(7)


class Located(NamedTuple):
    """Where compiled code finds stored images.

    table   int64 [n,7], of each image
            FILE    a descriptor, open for reading; or IN_MEMORY; or BY_NAME, which NAME is the address of, ended by 0;
                    or ELSEWHERE: it cannot be had by compiled code
            AT      its first byte in the file, or its address
            SIZE    bytes; 0: all of the file
            HEIGHT, WIDTH  pixels; 0: its header tells, if it is a JPEG to be seen as it is stored
            RAW     1: pixels, not a JPEG
    memory  what holds the bytes that addresses tell of
    """

    table: ndarray
    memory: object


def located(files, at, sizes, heights=0, widths=0, raw=0, names=0, memory: object = None) -> Located:
    """A Located of columns, each [n] or one number for all."""
    table = np.empty((len(sizes), 7), np.int64)
    for k, column in enumerate((files, names, at, sizes, heights, widths, raw)):
        table[:, k] = column
    return Located(table, memory)


class Chunk(NamedTuple):
    """Some images of a batch, as they are stored, and what of each is wanted.

    places   int64 [n]        of the batch
    rows     int64 [n]
    heights, widths  int64 [n]  pixels
    raw      bool [n]         pixels, not a JPEG
    data     [n] times bytes or uint8; read when it is asked for, which may raise OSError or ValueError
    windows  float64 [n,4]    y, x, h, w in pixels
    flips    bool [n]
    """

    places: ndarray
    rows: ndarray
    heights: ndarray
    widths: ndarray
    raw: ndarray
    data: Sequence
    windows: ndarray
    flips: ndarray
