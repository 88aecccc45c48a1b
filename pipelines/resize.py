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

import numpy as np
from numba import carray

from fastmix.kernels.compiled import compiled, inner
from fastmix.pipelines.jit.intrinsics import LANES, address, pointer, transpose_4x4_floats, transpose_16x16_bytes, weigh

INTERPOLATIONS = {"bilinear": 1.0, "bicubic": 2.0}  # how far the filter reaches at scale 1, in pixels


@inner()
def _filter(support, t):
    t = abs(t)
    if support == 1.0:
        return max(1.0 - t, 0.0)
    if t < 1.0:
        return (1.5 * t - 2.5) * t * t + 1.0
    return ((2.5 - 0.5 * t) * t - 4.0) * t + 2.0 if t < 2.0 else 0.0


@inner()
def _taps(start, extent, low, high, target, support):
    """Filter of one axis over the pixels low..high-1: (first int64 [target], count int64 [target], weights float32).

    Behind an output's weights there is at least one 0.
    """
    scale = extent / target
    wide = max(scale, 1.0)
    reach = support * wide
    first, count = np.empty(target, np.int64), np.empty(target, np.int64)
    weights = np.zeros((target, 2 * int(np.ceil(reach)) + 2), np.float32)
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


@inner()
def _down(pixels, start, pitch, weights, n, line):
    """line = the weighted sum of n rows of the image: of its flat pixels from `start` on, `pitch` bytes apart."""
    length = len(line)
    for k in range(0, n, 2):  # by two: half as often through memory; a missing second has the weight 0
        near, far = start + k * pitch, start + min(k + 1, n - 1) * pitch
        one, two = pixels[near : near + length], pixels[far : far + length]
        first, second = weights[k], weights[k + 1]
        if k == 0:
            for j in range(length):
                line[j] = first * np.float32(one[j]) + second * np.float32(two[j])
        else:
            for j in range(length):
                line[j] = line[j] + first * np.float32(one[j]) + second * np.float32(two[j])


@inner(inline="always")
def _resample(image, top_row, left_column, y, x, h, w, whole, flip, support, out):
    rows, columns, pitch = out.shape[0], out.shape[1], 3 * image.shape[1]
    low, near = top_row, left_column
    high, far = low + image.shape[0], near + image.shape[1]
    if not whole:
        low, near = int(np.floor(y + 1e-6)), int(np.floor(x + 1e-6))
        high, far = min(int(np.ceil(y + h - 1e-6)), high), min(int(np.ceil(x + w - 1e-6)), far)
    top, tall, down = _taps(y, h, low, high, rows, support)
    left, broad, across = _taps(x, w, near, far, columns, support)
    near, far = left[0], left[-1] + broad[-1]
    pixels, target, length = image.reshape(-1), out.reshape(-1), 3 * (far - near)
    room, wide = -(-length // 4) * 4, -(-3 * columns // 16) * 16
    lines = np.empty((LANES, room), np.float32)
    turned = np.empty(room * LANES, np.float32)  # lines, transposed: the next pass then runs along memory too
    done = np.empty(wide * LANES, np.uint8)
    upright = np.empty((LANES, wide), np.uint8)
    for block in range(0, rows, LANES):
        used = min(LANES, rows - block)
        for r in range(used):
            k = block + r
            start = (top[k] - top_row) * pitch + 3 * (near - left_column)
            _down(pixels, start, pitch, down[k], tall[k], lines[r, :length])
        for j in range(0, room, 4):
            for r in range(0, LANES, 4):
                source = address(lines) + 4 * (r * room + j)
                transpose_4x4_floats(source, 4 * room, address(turned) + 4 * (j * LANES + r), 4 * LANES)
        step = 3 * LANES
        for i in range(columns):
            source, weights = address(turned) + 4 * step * (left[i] - near), address(across) + 4 * i * across.shape[1]
            weigh(source, 4 * step, weights, broad[i], address(done) + step * (columns - 1 - i if flip else i))
        for j in range(0, wide, 16):
            transpose_16x16_bytes(address(done) + LANES * j, LANES, address(upright) + j, wide)
        for r in range(used):
            _move(upright[r, : 3 * columns], target[3 * columns * (block + r) : 3 * columns * (block + r + 1)])


@inner()
def _move(source, target):
    for j in range(len(target)):
        target[j] = source[j]


@inner()
def _reflected(i, n):
    """Pixel i of an axis of n, mirrored at the edge pixels where it lies outside; n = 0: itself."""
    return n - 1 - abs(n - 1 - abs(i)) if n else i


@inner(inline="always")
def _copy(image, top, left, y, x, flip, out, mirrored):
    height, width = image.shape[0], image.shape[1]
    rows, columns = out.shape[0], out.shape[1]
    for i in range(rows):
        row = _reflected(y + i, mirrored[0]) - top
        for j in range(columns):
            to = columns - 1 - j if flip else j
            column = _reflected(x + j, mirrored[1]) - left
            inside = 0 <= row < height and 0 <= column < width
            for c in range(3):
                out[i, to, c] = image[row, column, c] if inside else 0


@compiled()
def place_part(image, height, width, top, left, y, x, h, w, flip, out, support, whole, mirrored):
    """As `place`, in nopython code.

    image: address of height x width pixels, the first of which is the pixel (top, left) of the whole image.
    support: the filter's reach at scale 1, in pixels.
    """
    part = carray(pointer(image), (height, width, 3), np.uint8)
    if h == out.shape[0] and w == out.shape[1] and y == np.floor(y) and x == np.floor(x):
        _copy(part, top, left, int(y), int(x), flip, out, mirrored)
    else:
        _resample(part, top, left, y, x, h, w, whole, flip, support, out)


@inner()
def _with_reflected(low, high, n):
    """The range low..high-1 of an axis of n, with the pixels inside that those outside it mirror; n = 0: itself."""
    return (min(low, 2 * n - 1 - high), max(high, 1 - low)) if n else (low, high)


@compiled()
def sees_part(y, x, h, w, size, support, whole, mirrored):
    """As `sees`, in nopython code; support: the filter's reach at scale 1, in pixels."""
    down, across = (support * max(h / size, 1.0), support * max(w / size, 1.0)) if whole else (0.0, 0.0)
    top, left = np.int64(np.floor(y - down)), np.int64(np.floor(x - across))
    bottom, right = np.int64(np.ceil(y + h + down)), np.int64(np.ceil(x + w + across))
    top, bottom = _with_reflected(top, bottom, mirrored[0])
    left, right = _with_reflected(left, right, mirrored[1])
    return top, left, bottom, right


def sees(
    window: np.ndarray, size: int, interpolation: str, whole: bool, mirrored: tuple[int, int] = (0, 0)
) -> tuple[int, int, int, int]:
    """The pixels (top, left, bottom, right) that can enter a size x size result; they may reach beyond the image.

    mirrored: as in `place`.
    """
    return sees_part(*map(float, window), size, INTERPOLATIONS[interpolation], whole, mirrored)


def place(
    image: np.ndarray,
    window: np.ndarray,
    flip: bool,
    out: np.ndarray,
    interpolation: str = "bilinear",
    whole: bool = False,
    origin: tuple[int, int] = (0, 0),
    mirrored: tuple[int, int] = (0, 0),
) -> None:
    """Writes the window (y, x, h, w) of an image uint8 [h,w,3] into out uint8 [H,W,3], resized and flipped.

    image and out are contiguous, the window's numbers are floats in pixels. A window of the size of `out` at an integer
    place is copied, and is 0 outside the image; any other must lie inside the image. whole: the filter sees the pixels
    around the window too. origin: the place (y, x) of the image's first pixel, where it is a part of a larger one; that
    part must hold all that `sees` tells. mirrored: the height and width of the whole image, which a copied window then
    shows mirrored outside it, without its edge pixel once more, and 0 beyond its mirror image; (0, 0): 0 outside it.
    """
    part = (image.ctypes.data, *image.shape[:2], *origin)
    place_part(*part, *map(float, window), bool(flip), out, INTERPOLATIONS[interpolation], whole, mirrored)
