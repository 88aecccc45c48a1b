"""From stored images to their places in a batch: decode what the crop needs, resize, flip."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from fastmix.pipelines.chunk import Chunk
from fastmix.pipelines.decode import factor, jpeg
from fastmix.pipelines.resize import place, sees
from fastmix.pipelines.view import View


def develop(chunk: Chunk, view: View, images: ndarray) -> dict[int, str]:
    """Writes the crops of a chunk into images uint8 [B,S,S,3]; returns, by index, why one could not be decoded."""
    failed = {}
    for k, at in enumerate(chunk.places):
        try:
            _develop(chunk, k, view, images[at])
        except (OSError, ValueError) as error:
            failed[k] = str(error)
    return failed


def _develop(chunk: Chunk, k: int, view: View, out: ndarray) -> None:
    height, width, window, data = int(chunk.heights[k]), int(chunk.widths[k]), chunk.windows[k], chunk.data[k]
    if chunk.raw[k]:
        pixels, origin = np.frombuffer(data, np.uint8).reshape(height, width, 3), (0, 0)
    else:
        reduced = factor(min(window[2:]) / view.size) if view.decode == "fast" else 1
        window = window / reduced
        part = sees(window, view.size, view.interpolation, view.whole)
        pixels, origin = jpeg(data, height, width, reduced, part)
    place(pixels, window, chunk.flips[k], out, view.interpolation, view.whole, origin)
