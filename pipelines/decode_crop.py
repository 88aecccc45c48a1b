"""From stored images to their places in a batch: decode what the crop needs, resize, flip.

All images of a chunk in one call without the interpreter's lock, where TurboJPEG 3 is installed (in_one_call.py). An
image that this cannot do, for whatever reason, is done again one step at a time, which gives the same pixels, or the
reason.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from fastmix.pipelines.chunk import ELSEWHERE, IN_MEMORY, Chunk, Extents, Located, located
from fastmix.pipelines.in_one_call import Work, able
from fastmix.pipelines.jpeg.decode import factor, jpeg
from fastmix.pipelines.resize import place, sees
from fastmix.pipelines.view import View
from fastmix.reading import reason


def develop(chunk: Chunk, view: View, images: ndarray) -> dict[int, str]:
    """Writes the crops of a chunk into images uint8 [B,S,S,3]; returns, by index, why one could not be decoded."""
    failed, left = {}, range(len(chunk.places))
    if left and able():
        windows = np.column_stack([chunk.windows, chunk.flips])
        work = Work(_located(chunk), view, np.asarray(chunk.places, np.int64), images, windows=windows)
        left = [k for some in work.left() for k in some]
    for k in left:
        try:
            _one(chunk, k, view, images[chunk.places[k]])
        except (OSError, ValueError) as error:
            failed[k] = reason(error)
    return failed


def _one(chunk: Chunk, k: int, view: View, out: ndarray) -> None:
    height, width, window, data = int(chunk.heights[k]), int(chunk.widths[k]), chunk.windows[k], chunk.data[k]
    mirrored = (height, width) if view.reflects else (0, 0)
    if chunk.raw[k]:
        pixels, origin = np.frombuffer(data, np.uint8).reshape(height, width, 3), (0, 0)
    else:
        reduced = factor(min(window[2:]) / view.size) if view.decode == "fast" else 1
        window = window / reduced
        part = sees(window, view.size, view.interpolation, view.whole, mirrored)
        pixels, origin = jpeg(data, height, width, reduced, part)
    place(pixels, window, chunk.flips[k], out, view.interpolation, view.whole, origin, mirrored)


def _located(chunk: Chunk) -> Located:
    sides, data = (chunk.heights, chunk.widths, chunk.raw), chunk.data
    if isinstance(data, Extents):
        return located(data.files, data.offsets, data.sizes, *sides)
    kept = [_bytes(data, k) for k in range(len(data))]
    sizes = np.array([one.nbytes for one in kept])
    addresses = [one.ctypes.data for one in kept]
    return located(np.where(sizes, IN_MEMORY, ELSEWHERE), addresses, sizes, *sides, memory=kept)


def _bytes(data, k: int) -> ndarray:
    """Nothing where they cannot be had: `_one` will say why."""
    try:
        return np.frombuffer(data[k], np.uint8)
    except (OSError, ValueError):
        return np.empty(0, np.uint8)
