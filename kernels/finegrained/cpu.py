"""Fine-grained saliency on the CPU: numba, an image at a time, samples spread over a few threads.

Bit for bit equal to `kernels.finegrained.reference`.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.threads import share


@inner()
def _luminance(image, factor, weights, sums, out):
    """Rounded means of the cells of an image [H,W*3] to out [h,w]; sums int32 [W*3] is scratch."""
    height, n = image.shape
    for cy in range(out.shape[0]):
        y0, y1 = cy * factor, min(cy * factor + factor, height)
        sums[:] = 0
        for y in range(y0, y1):
            line = image[y]
            for e in range(n):
                sums[e] += line[e]
        for cx in range(out.shape[1]):
            part = sums[3 * cx * factor : min(3 * (cx + 1) * factor, n)]
            red, green, blue = 0, 0, 0
            for e in range(0, len(part), 3):
                red += part[e]
                green += part[e + 1]
                blue += part[e + 2]
            count = (y1 - y0) * (len(part) // 3)
            total = weights[0] * red + weights[1] * green + weights[2] * blue
            out[cy, cx] = (total + 512 * count) // (1024 * count)


@inner()
def _blur(level, line):
    """The 3x3 binomial filter of level [h,w] in place, borders mirrored; line int32 [3,w+2] is scratch."""
    rows, columns = level.shape
    for y in range(-1, rows):  # row y + 1 is filtered along x, then row y along y from rows y - 1 .. y + 1
        if y + 1 < rows:
            source, wide = level[y + 1], line[(y + 1) % 3]
            wide[1 : columns + 1] = source
            wide[0], wide[columns + 1] = source[min(1, columns - 1)], source[max(columns - 2, 0)]
            for x in range(columns):
                wide[x] += 2 * wide[x + 1] + wide[x + 2]
        if y >= 0:
            above, below = y - 1 if y > 0 else min(1, rows - 1), y + 1 if y < rows - 1 else max(rows - 2, 0)
            up, middle, down, target = line[above % 3], line[y % 3], line[below % 3], level[y]
            for x in range(columns):
                target[x] = (up[x] + 2 * middle[x] + down[x] + 8) >> 4


@inner(error_model="numpy")
def _differences(level, integral, sizes, band, on, off):
    """Adds up the on- and off-centre differences of level [h,w]; integral [h+1,w+1] and band [>= 3w+3] are scratch."""
    rows, columns = level.shape
    pad = columns + 1
    on[:], off[:], integral[0], band[:] = 0, 0, 0, 0
    for y in range(rows):
        total = np.int32(0)
        for x in range(columns):
            total += level[y, x]
            integral[y + 1, x + 1] = integral[y, x + 1] + total
    for size in sizes:
        n = min(size, max(rows, columns))
        reach = min(n, columns)
        for y in range(rows):
            y0, y1 = max(y - n + 1, 0), min(y + n + 1, rows)
            top, bottom, middle = integral[y0], integral[y1], band[pad : pad + columns + 1]
            for x in range(columns + 1):
                middle[x] = bottom[x] - top[x]
            band[pad + columns + 1 : pad + columns + 1 + reach] = middle[columns]
            ends, starts = band[pad + reach + 1 :], band[pad - reach + 1 :]
            line, plus, minus = level[y], on[y], off[y]
            for x in range(columns):
                area = np.int32(y1 - y0) * np.int32(min(x + reach + 1, columns) - max(x - reach + 1, 0))
                surplus = np.float32(line[x] * area - (ends[x] - starts[x]))
                difference = np.int32(surplus / np.float32(max(area - np.int32(1), np.int32(1))))
                plus[x] += max(difference, np.int32(0))
                minus[x] += max(-difference, np.int32(0))


@compiled()
def _finegrained(first, last, images, factor, weights, sizes, out):
    """Samples first..last of images [B,H,W*3] to out int32 [B,2]."""
    height, width = images.shape[1], images.shape[2] // 3
    rows, columns = -(-height // factor), -(-width // factor)
    level, on, off = (
        np.empty((rows, columns), np.int32),
        np.empty((rows, columns), np.int32),
        np.empty((rows, columns), np.int32),
    )
    integral, band = np.zeros((rows + 1, columns + 1), np.int32), np.empty(3 * columns + 3, np.int32)
    sums, line = np.empty(3 * width, np.int32), np.empty((3, columns + 2), np.int32)
    for i in range(first, last):
        _luminance(images[i], factor, weights, sums, level)
        _blur(level, line)
        _blur(level, line)
        _differences(level, integral, sizes, band, on, off)
        most_on, most_off = max(on.max(), 1), max(off.max(), 1)
        best, best_y, best_x = 0, height // 2, width // 2
        for y in range(rows):
            for x in range(columns):
                difference = on[y, x] + off[y, x]
                if difference > 0:
                    score = 255 * on[y, x] // most_on + 255 * off[y, x] // most_off
                    if 2048 * score + difference > best:
                        best = 2048 * score + difference
                        best_y = min(y * factor + factor // 2, height - 1)
                        best_x = min(x * factor + factor // 2, width - 1)
        out[i, 0], out[i, 1] = best_y, best_x


def finegrained_cpu(images: Tensor, factor: int, weights: tuple[int, int, int], sizes: list[int], out: Tensor) -> None:
    """Fills out int32 [B,2] from images uint8 [B,H,W,3], contiguous.

    weights: of R, G and B in the luminance, in 1/1024; sizes: the neighbourhoods in cells.
    """
    n, height, width, _ = images.shape
    args = images.numpy().reshape(n, height, 3 * width), factor, weights, np.array(sizes), out.numpy()
    share(lambda first, last: _finegrained(first, last, *args), n, images.numel())
