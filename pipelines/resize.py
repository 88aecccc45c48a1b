"""One resize policy for training and validation: a window, an antialiased separable filter, a flip.

    out[i] = sum_k w[i,k] * in[k],   w[i,k] = f((k + 0.5 - c_i) / s),   sum_k w[i,k] = 1,
    c_i = start + (i + 0.5) * extent / out,   s = max(extent / out, 1)

down the columns, then along the rows. f is the triangle (`bilinear`) or Keys' cubic with a = -0.5 (`bicubic`; Keys
1981, eq. 4). Shrinking widens the filter by the scale, so nothing aliases; pixel centres lie at half integers. The
filter sees either the window alone, weights renormalised at its edges (crop, then resize: training), or the whole image
around it (resize, then crop: validation). So do Pillow and torchvision (antialias=True), except that they round and
clip to 8 bits between the passes where this stays in float32: at most 1 level apart for bilinear.

float32 without contraction or reordering, so the bytes are the same on every machine.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from numba import njit

INTERPOLATIONS = {"bilinear": 1.0, "bicubic": 2.0}  # how far the filter reaches at scale 1, in pixels
_ROWS = 16  # output rows that go through the horizontal pass side by side, in vector registers


@njit(nogil=True, cache=True)
def _filter(support, t):
    t = abs(t)
    if support == 1.0:
        return max(1.0 - t, 0.0)
    if t < 1.0:
        return (1.5 * t - 2.5) * t * t + 1.0
    return ((2.5 - 0.5 * t) * t - 4.0) * t + 2.0 if t < 2.0 else 0.0


@njit(nogil=True, cache=True)
def _taps(start, extent, low, high, target, support):
    """Filter of one axis over the pixels low..high-1: (first int64 [target], count int64 [target], weights float32)."""
    scale = extent / target
    wide = max(scale, 1.0)
    reach = support * wide
    first, count = np.empty(target, np.int64), np.empty(target, np.int64)
    weights = np.empty((target, 2 * int(np.ceil(reach)) + 1), np.float32)
    for i in range(target):
        centre = start + (i + 0.5) * scale
        at = max(int(np.floor(centre - reach + 0.5)), low)
        n = min(int(np.floor(centre + reach + 0.5)), high) - at
        total = 0.0
        for k in range(n):
            total += _filter(support, (at + k + 0.5 - centre) / wide)
        for k in range(n):
            weights[i, k] = _filter(support, (at + k + 0.5 - centre) / wide) / total
        first[i], count[i] = at, n
    return first, count, weights


@njit(nogil=True, cache=True)
def _resample(image, origin, y, x, h, w, whole, flip, support, out):
    rows, columns = out.shape[0], out.shape[1]
    low, near = origin
    high, far = low + image.shape[0], near + image.shape[1]
    if not whole:
        low, near = int(np.floor(y + 1e-6)), int(np.floor(x + 1e-6))
        high, far = min(int(np.ceil(y + h - 1e-6)), high), min(int(np.ceil(x + w - 1e-6)), far)
    top, tall, down = _taps(y, h, low, high, rows, support)
    left, broad, across = _taps(x, w, near, far, columns, support)
    near, far = left[0], left[-1] + broad[-1]
    begin, length = 3 * (near - origin[1]), 3 * (far - near)
    lines = np.zeros((_ROWS, length), np.float32)
    tile = np.empty(length * _ROWS, np.float32)  # lines, transposed: the next pass then runs along memory too
    pixel = np.empty(3 * _ROWS, np.float32)
    done = np.empty(3 * columns * _ROWS, np.uint8)
    for block in range(0, rows, _ROWS):
        used = min(_ROWS, rows - block)
        for r in range(used):
            line = lines[r]
            line[:] = 0
            for k in range(tall[block + r]):
                weight = down[block + r, k]
                source = image[top[block + r] + k - origin[0]].reshape(-1)[begin : begin + length]
                for j in range(length):
                    line[j] += weight * np.float32(source[j])
        for j in range(length):
            for r in range(_ROWS):
                tile[j * _ROWS + r] = lines[r, j]
        for i in range(columns):
            pixel[:] = np.float32(0.5)  # rounds half up when cut to an integer
            for k in range(broad[i]):
                weight = across[i, k]
                at = 3 * _ROWS * (left[i] - near + k)
                source = tile[at : at + 3 * _ROWS]
                for m in range(3 * _ROWS):
                    pixel[m] += weight * source[m]
            at = 3 * _ROWS * (columns - 1 - i if flip else i)
            target = done[at : at + 3 * _ROWS]
            for m in range(3 * _ROWS):
                target[m] = np.uint8(min(max(pixel[m], np.float32(0)), np.float32(255)))
        for r in range(used):
            target = out[block + r].reshape(-1)
            for j in range(3 * columns):
                target[j] = done[j * _ROWS + r]


@njit(nogil=True, cache=True)
def _copy(image, y, x, flip, out):
    height, width = image.shape[0], image.shape[1]
    rows, columns = out.shape[0], out.shape[1]
    for i in range(rows):
        for j in range(columns):
            to = columns - 1 - j if flip else j
            inside = 0 <= y + i < height and 0 <= x + j < width
            for c in range(3):
                out[i, to, c] = image[y + i, x + j, c] if inside else 0


def sees(window: np.ndarray, size: int, interpolation: str, whole: bool) -> tuple[int, int, int, int]:
    """The pixels (top, left, bottom, right) that can enter a size x size result; they may reach beyond the image."""
    y, x, h, w = map(float, window)
    down, across = (INTERPOLATIONS[interpolation] * max(side / size, 1) if whole else 0 for side in (h, w))
    return floor(y - down), floor(x - across), ceil(y + h + down), ceil(x + w + across)


def place(
    image: np.ndarray,
    window: np.ndarray,
    flip: bool,
    out: np.ndarray,
    interpolation: str = "bilinear",
    whole: bool = False,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Writes the window (y, x, h, w) of an image uint8 [h,w,3] into out uint8 [H,W,3], resized and flipped.

    image and out are contiguous, the window's numbers are floats in pixels. A window of the size of `out` at an integer
    place is copied, and is 0 outside the image; any other must lie inside the image. whole: the filter sees the pixels
    around the window too. origin: the place (y, x) of the image's first pixel, where it is a part of a larger one; that
    part must hold all that `sees` tells.
    """
    y, x, h, w = map(float, window)
    if (h, w) == out.shape[:2] and y.is_integer() and x.is_integer():
        _copy(image, int(y) - origin[0], int(x) - origin[1], flip, out)
    else:
        _resample(image, origin, y, x, h, w, whole, flip, INTERPOLATIONS[interpolation], out)
