"""Images of a batch read, decoded, resized and flipped by compiled code, without the interpreter's lock.

Threads share the work: each takes the next image until none is left. Nothing is Python for an image but what compiled
code cannot do: an unusual file, a damaged one, one that is not to be had by a system call.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from fastmix.kernels.compiled import compiled, inner
from fastmix.pipelines import sampling
from fastmix.pipelines.chunk import AT, BY_NAME, ELSEWHERE, FILE, HEIGHT, NAME, RAW, SIZE, WIDTH, Located
from fastmix.pipelines.jit.intrinsics import address, call, take
from fastmix.pipelines.jpeg import turbo
from fastmix.pipelines.jpeg.decode import HEAD, workspace
from fastmix.pipelines.jpeg.limits import DENSEST
from fastmix.pipelines.jpeg.turbo import decode_part, upright_size
from fastmix.pipelines.resize import INTERPOLATIONS, place_part, sees_part
from fastmix.pipelines.view import View

ROOM = 1 << 27  # bytes of pixels that a thread keeps
UNKNOWN = 1 << 22  # bytes for a file of unknown size, and 4 times as many for its pixels; a larger one makes more room
LEFT = 8  # images that one call may leave, before it returns


def able() -> bool:
    """Whether this machine has what compiled code decodes with."""
    return turbo.library() is not None


class Work:
    """Images [n] to be cut into a batch, by as many threads as care to.

    places  int64 [n]      of images uint8 [B,S,S,3]
    draws   float64 [n,k]  of the view, by which the crops are worked out here;
    windows float64 [n,5]  or the crops themselves: y, x, h, w and flip
    taken   int64 [1]      how many images threads have taken: with n here they end
    """

    def __init__(
        self,
        where: Located,
        view: View,
        places: ndarray,
        images: ndarray,
        *,
        draws: ndarray | None = None,
        windows: ndarray | None = None,
        taken: ndarray | None = None,
    ):
        self.memory = where.memory  # as long as there are addresses of it
        none, table = np.empty((0, 5)), where.table
        self.taken = np.zeros(1, np.int64) if taken is None else taken
        self.places = places
        self.data = table, places, none if draws is None else draws, none if windows is None else windows, images
        self.how = _how(view)
        size, pixels = (
            int(column.max(initial=0)) for column in (table[:, SIZE], 3 * table[:, HEIGHT] * table[:, WIDTH])
        )
        unknown = UNKNOWN * bool((table[:, FILE] == BY_NAME).any())
        self.room = max(size, unknown), min(max(pixels, 4 * unknown), ROOM)

    def left(self) -> Iterator[list[int]]:
        """Does what no other thread does; yields, some at a time, the images that it could not do."""
        own, (size, pixels) = workspace(), self.room
        if own.turbo is None:
            raise MemoryError("TurboJPEG gives no more decoders")
        memory = [own.memory(*what) for what in (("read", size), ("small", size), ("pixels", pixels))]
        left = np.empty(LEFT, np.int64)
        while count := _walk(self.taken, *self.data, *self.how, own.turbo, _system(), *memory, left):
            yield left[:count].tolist()


class _How(NamedTuple):
    """What of a View is not the crop's: fast decoding, the filter's reach, whether it sees all of the image, whether
    that is reflected at its edges, and how often it is flipped."""

    fast: bool
    support: float
    whole: bool
    reflects: bool
    flip: float


@cache
def _how(view: View) -> tuple[sampling.Crop, _How]:
    reach = INTERPOLATIONS[view.interpolation]
    return view.window, _How(view.decode == "fast", reach, view.whole, view.reflects, float(view.flip))


class _System(NamedTuple):
    """Addresses of the C library's functions."""

    open: int
    close: int
    lseek: int
    pread: int
    memmem: int


@cache
def _system() -> _System:
    library = ctypes.CDLL(None)
    return _System(*(ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _System._fields))


_OPEN = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a FIFO is not waited for
_EXIF = np.frombuffer(b"Exif\0", np.uint8)


@inner()
def _read(system, file, offset, size, memory):
    """Whether so many bytes could be read."""
    done = 0
    while done < size:
        got = call(system.pread, (file, address(memory) + done, size - done, offset + done))
        if got <= 0:
            return False
        done += got
    return True


@inner()
def _read_named(system, name, offset, size, memory):
    """The bytes read from a file by its name, all of it where size is 0; 0 where that fails, or memory is too small."""
    file = np.int64(np.int32(call(system.open, (name, _OPEN, 0))))
    if file < 0:
        return 0
    if size == 0:
        size = call(system.lseek, (file, 0, 2))
    done = 0 < size <= len(memory) and _read(system, file, offset, size, memory)
    call(system.close, (file,))
    return size if done else 0


@inner()
def _plain_size(system, tj, data, size, exif):
    """(height, width) of the JPEG of `size` bytes at the address `data`, by decode.plain_size's rule; 0, 0: none."""
    height, width = upright_size(tj, data, size)
    if height * width > DENSEST * size or call(system.memmem, (data, min(size, HEAD), exif, 5)):
        return 0, 0
    return height, width


@inner(inline="always")
def _cut(k, table, places, draws, windows, images, crop, how, tj, system, read, small, pixels, exif):
    """Whether image k could be done."""
    target, file, source, size, raw = images.shape[1], table[k, FILE], table[k, AT], table[k, SIZE], table[k, RAW]
    height, width = table[k, HEIGHT], table[k, WIDTH]
    if file == ELSEWHERE:
        return False
    if file == BY_NAME:
        size = _read_named(system, table[k, NAME], source, size, read)
        source = address(read)
        height, width = _plain_size(system, tj, source, size, exif) if size else (0, 0)
        if 3 * height * width > len(pixels):
            return False
    if height == 0 or (not raw and height * width * 3 > ROOM):  # its header is looked at before there is memory for it
        return False
    if len(windows):
        y, x, h, w, mirror = windows[k]
        flip = mirror != 0
    else:
        if min(height, width) < crop.smallest:
            return False
        y, x, h, w = sampling.window(crop, height, width, draws[k])
        flip = draws[k, 0] < how.flip
    scale = 1
    while how.fast and not raw and scale < 8 and min(h, w) >= 2 * scale * target:
        scale *= 2
    y, x, h, w = y / scale, x / scale, h / scale, w / scale
    mirrored = (height, width) if how.reflects else (0, 0)
    top, left, bottom, right = sees_part(y, x, h, w, target, how.support, how.whole, mirrored)
    if raw:
        top, bottom = max(top, 0), min(bottom, height)
        if size != height * width * 3:
            return False
        if top >= bottom:  # nothing of the image is seen
            top, bottom = 0, 1
        source, size = source + top * width * 3, (bottom - top) * width * 3
    if file >= 0:
        if not _read(system, file, source, size, read):
            return False
        source = address(read)
    if raw:
        left, tall, broad = 0, bottom - top, width
    else:
        top, left, tall, broad = decode_part(
            tj, source, size, height, width, scale, top, left, bottom, right, small, pixels
        )
        if tall == 0:
            return False
        source = address(pixels)
    out = images[places[k]]
    place_part(source, tall, broad, top, left, y, x, h, w, flip, out, how.support, how.whole, mirrored)
    return True


@compiled()
def _walk(
    taken, table, places, draws, windows, images, crop, how, tj, system, read, small, pixels, left
):  # fmt: skip
    """Takes images until none is left, or `left` is full of those that it could not do; how many these are."""
    count, exif = 0, address(_EXIF)
    while count < len(left):
        k = take(taken)
        if k >= len(table):
            break
        if not _cut(k, table, places, draws, windows, images, crop, how, tj, system, read, small, pixels, exif):
            left[count] = k
            count += 1
    return count
