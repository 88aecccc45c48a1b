"""From stored images to their places in a batch: decode what the crop needs, resize, flip.

All images of a chunk in one call without the interpreter's lock, where TurboJPEG 3 is installed. An image that this
cannot do, for whatever reason, is done again one step at a time, which gives the same pixels, or the reason.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from numpy import ndarray

from fastmix.pipelines.chunk import Chunk, Extents
from fastmix.pipelines.jit.cached import compiled
from fastmix.pipelines.jit.intrinsics import address, call
from fastmix.pipelines.jpeg.decode import factor, jpeg, workspace
from fastmix.pipelines.jpeg.turbo import decode_part
from fastmix.pipelines.resize import INTERPOLATIONS, place, place_part, sees, sees_part
from fastmix.pipelines.view import View
from fastmix.reading import reason

ROOM = 1 << 27  # bytes of pixels that a thread keeps


def develop(chunk: Chunk, view: View, images: ndarray) -> dict[int, str]:
    """Writes the crops of a chunk into images uint8 [B,S,S,3]; returns, by index, why one could not be decoded."""
    failed, n = {}, len(chunk.places)
    walk = _walker(chunk, view, images) if n and workspace().turbo else lambda first: first
    at = walk(0)
    while at < n:
        try:
            _one(chunk, at, view, images[chunk.places[at]])
        except (OSError, ValueError) as error:
            failed[at] = reason(error)
        at = walk(at + 1)
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


def _walker(chunk: Chunk, view: View, images: ndarray):
    """walk(first): does the images from `first` on, up to one that it cannot do, and returns that one's index, or n."""
    if isinstance(chunk.data, Extents):
        kept, files, sources, sizes = None, chunk.data.files, chunk.data.offsets, chunk.data.sizes
    else:
        kept = [_bytes(chunk, k) for k in range(len(chunk.data))]
        files, sources, sizes = zip(*((-1, data.ctypes.data, data.nbytes) for data in kept), strict=True)
    own = workspace()
    columns = [
        np.ascontiguousarray(column, np.int64) for column in (files, sources, sizes, chunk.heights, chunk.widths)
    ]
    flags = [np.ascontiguousarray(column, bool) for column in (chunk.raw, chunk.flips)]
    length, pixels = int(columns[2].max()), min(int((columns[3] * columns[4]).max()) * 3, ROOM)
    memory = [own.memory(name, size) for name, size in (("read", length), ("small", length), ("pixels", pixels))]
    settings = view.decode == "fast", INTERPOLATIONS[view.interpolation], view.whole, view.reflects
    places, windows = (np.ascontiguousarray(x, kind) for x, kind in ((chunk.places, np.int64), (chunk.windows, float)))

    def walk(first: int) -> int:
        assert kept is None or len(kept) == len(places)  # holds the memory that `sources` tells of
        return _walk(first, own.turbo, _pread(), *columns, *flags, places, windows, *settings, *memory, images)

    return walk


def _bytes(chunk: Chunk, k: int) -> ndarray:
    """None where they cannot be had: `_one` will say why."""
    try:
        return np.frombuffer(chunk.data[k], np.uint8)
    except (OSError, ValueError):
        return np.empty(0, np.uint8)


@cache
def _pread() -> int:
    """The address of the C library's pread."""
    return ctypes.cast(ctypes.CDLL(None).pread, ctypes.c_void_p).value


@compiled
def _read(pread, file, offset, size, memory):
    """Whether so many bytes could be read."""
    done = 0
    while done < size:
        got = call(pread, (file, address(memory) + done, size - done, offset + done))
        if got <= 0:
            return False
        done += got
    return True


@compiled
def _walk(
    first, turbo, pread, files, sources, sizes, heights, widths, raw, flips, places, windows,
    fast, support, whole, reflects, read, small, pixels, images
):  # fmt: skip
    target = images.shape[1]
    for k in range(first, len(sources)):
        height, width, size, source = heights[k], widths[k], sizes[k], sources[k]
        y, x, h, w = windows[k]
        scale = 1
        while fast and not raw[k] and scale < 8 and min(h, w) >= 2 * scale * target:
            scale *= 2
        y, x, h, w = y / scale, x / scale, h / scale, w / scale
        mirrored = (height, width) if reflects else (0, 0)
        top, left, bottom, right = sees_part(y, x, h, w, target, support, whole, mirrored)
        if not raw[k] and height * width * 3 > ROOM:  # its header is looked at before there is memory for it
            return k
        if raw[k]:
            top, bottom = max(top, 0), min(bottom, height)
            if size != height * width * 3:
                return k
            if top >= bottom:  # nothing of the image is seen
                top, bottom = 0, 1
            source, size = source + top * width * 3, (bottom - top) * width * 3
        if files[k] >= 0:
            if not _read(pread, files[k], source, size, read):
                return k
            source = address(read)
        if raw[k]:
            left, tall, broad = 0, bottom - top, width
        else:
            top, left, tall, broad = decode_part(
                turbo, source, size, height, width, scale, top, left, bottom, right, small, pixels
            )
            if tall == 0:
                return k
            source = address(pixels)
        place_part(source, tall, broad, top, left, y, x, h, w, flips[k], images[places[k]], support, whole, mirrored)
    return len(sources)
