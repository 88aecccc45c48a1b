"""The augmentation pass on the CPU: numba, one sample at a time, samples spread over a few threads.

Bit for bit equal to `kernels.randaugment.reference`.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.randaugment.operations import (
    AUTOCONTRAST,
    BLUR_X,
    BLUR_Y,
    COLOR,
    CONTRAST,
    COPY,
    EQUALIZE,
    POSTERIZE,
    SHARPNESS,
    SOLARIZE,
    SOLARIZE_ADD,
    TAPS,
)
from fastmix.kernels.threads import share

ZERO, HALF, TOP = np.float32(0), np.float32(0.5), np.float32(255)
RED, GREEN, BLUE, ROUND = np.int32(19595), np.int32(38470), np.int32(7471), np.int32(32768)


@inner(inline="always")
def _blend(first, second, factor):
    first, second = np.float32(first), np.float32(second)
    return np.uint8(min(max(first + factor * (second - first), ZERO), TOP))


@inner(inline="always")
def _grey(image, e):
    r, g, b = np.int32(image[e]), np.int32(image[e + 1]), np.int32(image[e + 2])
    return (r * RED + g * GREEN + b * BLUE + ROUND) >> np.int32(16)


@inner()
def _mean_grey(image):
    total, pixels = 0, len(image) // 3
    for e in range(0, len(image), 3):
        total += _grey(image, e)
    return (2 * total + pixels) // (2 * pixels)


@inner()
def _pointwise(image, operation, word, factor, out):
    """Operations that are the same for all values, computed: they are faster than a look-up."""
    if operation == POSTERIZE:
        for e in range(len(image)):
            out[e] = image[e] & np.uint8(word)
    elif operation == SOLARIZE:
        for e in range(len(image)):
            out[e] = image[e] if image[e] < word else np.uint8(255) - image[e]
    elif operation == SOLARIZE_ADD:
        for e in range(len(image)):
            out[e] = np.uint8(min(np.int32(image[e]) + word, np.int32(255))) if image[e] < 128 else image[e]
    else:
        first = _mean_grey(image) if operation == CONTRAST else 0
        for e in range(len(image)):
            out[e] = _blend(first, image[e], factor)


@inner()
def _levels(image, operation, out):
    """Fills out uint8 [3,256] with what each value of each channel becomes by AUTOCONTRAST or EQUALIZE."""
    pixels = len(image) // 3
    for c in range(3):
        histogram = np.zeros(256, np.int64)
        for e in range(c, len(image), 3):
            histogram[image[e]] += 1
        low, high = 0, 255
        while histogram[low] == 0:
            low += 1
        while histogram[high] == 0:
            high -= 1
        step, below = (pixels - histogram[high]) // 255, np.int64(0)
        scale = 255.0 / max(high - low, 1)
        for v in range(256):
            level = v
            if operation == AUTOCONTRAST and low < high:
                level = np.int64(min(max(v * scale - low * scale, 0.0), 255.0))
            elif operation == EQUALIZE and step > 0:
                level = min((step // 2 + below) // step, 255)
            below += histogram[v]
            out[c, v] = level


@inner()
def _look_up(image, levels, out):
    for e in range(0, len(image), 3):
        for c in range(3):
            out[e + c] = levels[c, image[e + c]]


@inner()
def _color(image, factor, out):
    """image and out uint8 [H,3W], as in all that follow."""
    height, n = image.shape
    greys = np.empty(n, np.int32)
    for y in range(height):
        line = image[y]
        for e in range(0, n, 3):
            greys[e] = greys[e + 1] = greys[e + 2] = _grey(line, e)
        for e in range(n):
            out[y, e] = _blend(greys[e], line[e], factor)


@inner()
def _sharpness(image, factor, out):
    """The sums of three rows, then of three columns; // 13 as a product that is exact up to 13 * 255."""
    height, n = image.shape
    out[:] = image
    rows = np.empty(n, np.int32)
    for y in range(1, height - 1):
        for e in range(n):
            rows[e] = np.int32(image[y - 1, e]) + np.int32(image[y, e]) + np.int32(image[y + 1, e])
        for e in range(3, n - 3):
            total = rows[e - 3] + rows[e] + rows[e + 3] + np.int32(4) * np.int32(image[y, e]) + np.int32(6)
            out[y, e] = _blend((total * np.int32(5042)) >> np.int32(16), image[y, e], factor)


@inner()
def _add(line, weight, before, after):
    for e in range(len(line)):
        line[e] += weight * np.float32(np.int32(before[e]) + np.int32(after[e]))


@inner()
def _blur(image, weights, along_y, out):
    height, n = image.shape
    margin = 0 if along_y else 3 * TAPS
    line, wide = np.empty(n, np.float32), np.empty(n + 2 * margin, np.uint8)
    for y in range(height):
        for e in range(n):
            line[e] = weights[0] * np.float32(image[y, e])
        if not along_y:  # the row, its ends repeated
            wide[margin : margin + n] = image[y]
            for e in range(margin):
                wide[e], wide[margin + n + e] = image[y, e % 3], image[y, n - 3 + e % 3]
        for k in range(1, TAPS + 1):
            if along_y:
                _add(line, weights[k], image[max(y - k, 0)], image[min(y + k, height - 1)])
            else:
                _add(line, weights[k], wide[margin - 3 * k :], wide[margin + 3 * k :])
        for e in range(n):
            out[y, e] = np.uint8(min(line[e] + HALF, TOP))


@inner(inline="always")
def _cubic(v0, v1, v2, v3, t):
    two = np.float32(2)
    return v1 + t * ((v2 - v0) + t * ((two * (v0 - v1) + v2 - v3) + t * (v1 - v0 - v2 + v3)))


@inner(inline="always")
def _linear(first, second, t):
    return first + (second - first) * t


@inner(inline="always")
def _cubic_line(image, e0, e1, e2, e3, t):
    """Unsigned places spare numba's check for negative ones."""
    if t == ZERO:
        return image[np.uint64(e1)]
    return _cubic(image[np.uint64(e0)], image[np.uint64(e1)], image[np.uint64(e2)], image[np.uint64(e3)], t)


@inner()
def _affine(image, height, width, matrix, interpolation, fill, out):
    """image float32 and out uint8 [H*W*3]; interpolation 0, 1, 2: nearest, bilinear, bicubic."""
    a, b, c, d, e, f = matrix[0], matrix[1], matrix[2], matrix[3], matrix[4], matrix[5]
    right, bottom = np.float32(width), np.float32(height)
    for y in range(height):
        centre_y = np.float32(y) + HALF
        for x in range(width):
            target = 3 * (y * width + x)
            centre_x = np.float32(x) + HALF
            from_x, from_y = (a * centre_x + b * centre_y) + c, (d * centre_x + e * centre_y) + f
            if not (ZERO <= from_x < right and ZERO <= from_y < bottom):
                for k in range(3):
                    out[target + k] = fill[k]
                continue
            if interpolation == 0:
                source = 3 * (int(from_y) * width + int(from_x))
                for k in range(3):
                    out[target + k] = np.uint8(image[source + k])
                continue
            from_x, from_y = from_x - HALF, from_y - HALF
            floor_x, floor_y = np.floor(from_x), np.floor(from_y)
            dx, dy = from_x - floor_x, from_y - floor_y
            x1, y1 = int(floor_x), int(floor_y)
            x0, x2, x3 = 3 * max(x1 - 1, 0), 3 * min(x1 + 1, width - 1), 3 * min(x1 + 2, width - 1)
            y0, y2, y3 = max(y1 - 1, 0), min(y1 + 1, height - 1), min(y1 + 2, height - 1)
            x1, y1 = 3 * max(x1, 0), max(y1, 0)
            r0, r1, r2, r3 = 3 * width * y0, 3 * width * y1, 3 * width * y2, 3 * width * y3
            for k in range(3):
                if interpolation == 1:
                    upper = _linear(image[r1 + x1 + k], image[r1 + x2 + k], dx)
                    lower = _linear(image[r2 + x1 + k], image[r2 + x2 + k], dx)
                    value = upper + (lower - upper) * dy
                else:
                    value = _cubic_line(image, r1 + x0 + k, r1 + x1 + k, r1 + x2 + k, r1 + x3 + k, dx)
                    if dy != ZERO:
                        v0 = _cubic_line(image, r0 + x0 + k, r0 + x1 + k, r0 + x2 + k, r0 + x3 + k, dx)
                        v2 = _cubic_line(image, r2 + x0 + k, r2 + x1 + k, r2 + x2 + k, r2 + x3 + k, dx)
                        v3 = _cubic_line(image, r3 + x0 + k, r3 + x1 + k, r3 + x2 + k, r3 + x3 + k, dx)
                        value = _cubic(v0, value, v2, v3, dy)
                    value = min(max(value, ZERO), TOP)
                out[target + k] = np.uint8(value)


@compiled()
def _augment(first, last, images, words, numbers, interpolation, fill, out):
    """Samples first..last of images to out, uint8 [B,H,W,3]."""
    height, width = images.shape[1:3]
    levels, values = np.empty((3, 256), np.uint8), np.empty(height * width * 3, np.float32)
    for i in range(first, last):
        operation, factor = words[i, 0], numbers[i, 1]
        flat, target = images[i].reshape(-1), out[i].reshape(-1)
        lines, target_lines = flat.reshape(height, 3 * width), target.reshape(height, 3 * width)
        if operation == COPY:
            target[:] = flat
        elif operation < AUTOCONTRAST:
            _pointwise(flat, operation, words[i, 1], factor, target)
        elif operation <= EQUALIZE:
            _levels(flat, operation, levels)
            _look_up(flat, levels, target)
        elif operation == COLOR:
            _color(lines, factor, target_lines)
        elif operation == SHARPNESS:
            _sharpness(lines, factor, target_lines)
        elif operation == BLUR_X or operation == BLUR_Y:
            _blur(lines, numbers[i, 1:], operation == BLUR_Y, target_lines)
        else:
            values[:] = flat  # each is read up to 16 times
            _affine(values, height, width, numbers[i, 1:], interpolation, fill, target)


def randaugment_cpu(images: Tensor, rows: Tensor, interpolation: int, fill: tuple[int, int, int], out: Tensor) -> None:
    """Fills out from images uint8 [B,H,W,3]: checked arguments of one layer of `randaugment`, all on the CPU."""
    words = rows.numpy()
    colour = np.array(fill, np.uint8)
    args = (images.numpy(), words, words.view(np.float32), interpolation, colour, out.numpy())
    share(lambda first, last: _augment(first, last, *args), len(images), images.numel())
