"""Reads a whole `.beton` file: every row against its checksum, and every JPEG decoded."""

from __future__ import annotations

import os
import zlib
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from fastmix import system
from fastmix.pipelines.jpeg.codec import need
from fastmix.pipelines.jpeg.decode import jpeg
from fastmix.pipelines.packing.checksums import load
from fastmix.pipelines.packing.format import JPEG, Beton
from fastmix.pipelines.packing.pack import ordered, progress
from fastmix.reading import reason


def check(path: str | Path, workers: int | None = None) -> tuple[int, bool]:
    """(rows, whether there were checksums to compare with) of a file that is intact.

    Labels, sizes and offsets must be right, and every image must have its checksum and decode whole, without a
    complaint, to the size that is recorded for it.
    workers: threads, default one a core. Raises ValueError with the first damaged row, the reason, and how many there
    are; FileNotFoundError for a missing file.
    """
    with Beton(path) as beton:
        need(beton.name, (beton.modes == JPEG).any())
        sums = load(beton)
        rows = range(len(beton))
        with closing(ordered(partial(_reason, beton, sums), rows, workers or system.cores())) as results:
            bad = [(row, why) for row, why in progress(results, len(beton), "verify") if why]
        if bad:
            row, why = bad[0]
            count = f"; {len(bad)} of {len(beton)} rows are damaged" if len(bad) > 1 else ""
            raise ValueError(f"{beton.where(row)}: {why}{count}; convert again")
        if os.fstat(beton.file).st_size != beton.size:
            raise ValueError(f"{beton.name}: its length changed while it was being read")
        return len(beton), sums is not None


def _reason(beton: Beton, sums: np.ndarray | None, row: int) -> str | None:
    """What is wrong with a row."""
    try:
        data = beton.data(row)
    except (OSError, ValueError) as error:
        return reason(error)
    if sums is not None and zlib.crc32(data) != sums[row]:
        return "its bytes are not those that were written (checksum)"
    if beton.modes[row] == JPEG:
        try:
            jpeg(data, int(beton.heights[row]), int(beton.widths[row]))
        except ValueError as error:
            return str(error)
    return None
