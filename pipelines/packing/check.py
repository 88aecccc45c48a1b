"""Reads a whole `.beton` file: every row against its checksum, and every JPEG decoded."""

from __future__ import annotations

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


def check(path: str | Path, workers: int | None = None) -> tuple[int, bool]:
    """(rows, whether there were checksums to compare with) of a file that is intact.

    Every image must have its checksum and decode whole, without a complaint, to the size that is recorded for it.
    workers: threads, default one a core. Raises ValueError with the first damaged row, the reason, and how many there
    are; FileNotFoundError for a missing file.
    """
    with Beton(path) as beton:
        need(str(path), (beton.modes == JPEG).any())
        sums = load(beton)
        rows = range(len(beton))
        with closing(ordered(partial(_reason, beton, sums), rows, workers or system.cores())) as results:
            bad = [(row, reason) for row, reason in progress(results, len(beton), "verify") if reason]
        if bad:
            row, reason = bad[0]
            count = f"; {len(bad)} of {len(beton)} rows are damaged" if len(bad) > 1 else ""
            raise ValueError(f"{path}: row {row}: {reason}{count}; convert again")
        return len(beton), sums is not None


def _reason(beton: Beton, sums: np.ndarray | None, row: int) -> str | None:
    """What is wrong with a row."""
    data = beton.data(row)
    if sums is not None and zlib.crc32(data) != sums[row]:
        return "its bytes are not those that were written (checksum)"
    if beton.modes[row] == JPEG:
        try:
            jpeg(data, int(beton.heights[row]), int(beton.widths[row]))
        except ValueError as error:
            return str(error)
    return None
