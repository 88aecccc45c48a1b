"""The mixing pass on the CPU: numba, one row at a time, samples spread over a few threads.

Rows are made piece by piece, each normalised straight from its source, or blended from two; 16-bit outputs are rounded
from a row in fp32. Bit for bit equal to `kernels.mix.reference`.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from fastmix.kernels.erase import LEVELS, Erase
from fastmix.kernels.plan import BLEND, BLOCKS, BOX, COLUMNS, ONE, PROFILE, RANKS, WINDOW, Plan
from fastmix.kernels.threads import share

UNIT = np.float32(1 / ONE)


@njit(nogil=True)
def _noise(fill, position, channel, seed):
    """The noise at a flat position: lowbias32 of C. Wellons' hash prospector picks the level."""
    h = np.uint32(position) ^ np.uint32(seed)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return fill[channel, (h ^ (h >> np.uint32(16))) & np.uint32(LEVELS - 1)]


@njit(nogil=True)
def _put(line, at, images, boxes, fill, image, y, start, stop, mean, scale):
    """Normalises elements start..stop of row y of a source image, erased where its box is, into line[at:].

    Beyond the end of the row its last pixel is repeated.
    """
    end = min(stop, images.shape[2])
    source, target = images[image, y, start:end], line[at : at + end - start]
    shift, factor = mean[at : at + end - start], scale[at : at + end - start]
    for e in range(len(source)):
        target[e] = (np.float32(source[e]) - shift[e]) * factor[e]
    if len(boxes) and boxes[image, 0] <= y < boxes[image, 1]:
        for e in range(max(start, 3 * boxes[image, 2]), min(end, 3 * boxes[image, 3])):
            noise = _noise(fill, y * images.shape[2] + e, e % 3, boxes[image, 4])
            line[at + e - start] = (noise - mean[at + e - start]) * scale[at + e - start]
    for e in range(at + end - start, at + stop - start):
        line[e] = line[e - 3]


@njit(nogil=True)
def _put_window(line, across, images, boxes, fill, image, y, start, stop, mean, scale):
    """Normalises elements across[start:stop] of row y of a source image, erased likewise, into line[start:stop]."""
    source = images[image, y]
    for e in range(start, stop):
        line[e] = (np.float32(source[across[e]]) - mean[e]) * scale[e]
    if len(boxes) and boxes[image, 0] <= y < boxes[image, 1]:
        for e in range(start, stop):
            if 3 * boxes[image, 2] <= across[e] < 3 * boxes[image, 3]:
                noise = _noise(fill, y * images.shape[2] + across[e], e % 3, boxes[image, 4])
                line[e] = (noise - mean[e]) * scale[e]


@njit(nogil=True)
def _blend(line, a, b, weight, mean, scale):
    """Normalises weight * a + (1 - weight) * b: exact for whole pixel values and where the weight is 0 or 1."""
    for e in range(len(line)):
        first, second = np.float32(a[e]), np.float32(b[e])
        mixed = second + weight[e] * (first - second)
        line[e] = ((first if weight[e] == 1 else mixed) - mean[e]) * scale[e]


@njit(nogil=True)
def _to_bfloat16(out, row):
    """Rounds to nearest, ties to even, by integer arithmetic; the results are bits in uint16."""
    word = row.view(np.uint32)
    for e in range(len(out)):
        even = (word[e] >> np.uint32(16)) & np.uint32(1)
        out[e] = np.uint16(np.uint32(word[e] + np.uint32(0x7FFF) + even) >> np.uint32(16))


@njit(nogil=True)
def _to_float16(out, row):
    """Likewise; below 2**-14 the fp32 adder rounds to the fixed step of subnormals, from 65520 on all is infinite."""
    word = row.view(np.uint32)
    for e in range(len(out)):
        sign, size = (word[e] >> np.uint32(16)) & np.uint32(0x8000), word[e] & np.uint32(0x7FFFFFFF)
        even = (size >> np.uint32(13)) & np.uint32(1)
        half = np.uint32(size + np.uint32(0xC8000FFF) + even) >> np.uint32(
            13
        )  # the exponent's bias goes from 127 to 15
        if size >= np.uint32(0x47800000):
            half = np.uint32(0x7C00)
        elif size < np.uint32(0x38800000):
            half = np.uint32((abs(row[e]) + np.float32(0.5) - np.float32(0.5)) * np.float32(1 << 24))
        out[e] = np.uint16(sign | half)


@njit(nogil=True)
def _cell_start(cell, length, cells):
    return (cell * length + cells - 1) // cells


@njit(nogil=True)
def _cell_source(source, rows, columns, cy, y, height, width):
    """Image, row and first element that a source cell shows in row y, which lies in cell row cy."""
    image, cell = divmod(source, rows * columns)
    sy, sx = divmod(cell, columns)
    from_y = min(_cell_start(sy, height, rows) + y - _cell_start(cy, height, rows), height - 1)
    return image, from_y, 3 * _cell_start(sx, width, columns)


@njit(nogil=True)
def _windowed(pixel, corner, source, scale, length):
    """Where a pixel of a box looks in the partner: nearest neighbour, clamped to the image."""
    return min(max(source + np.int64(np.floor(np.float32(pixel - corner) * scale)), 0), length - 1)


@njit(nogil=True, cache=True)
def _mix(first, last, images, table, floats, profiles, bank, blocks, boxes, fill, mean, scale, out, bits, half):
    """Samples first..last, to out[0:] (fp32) or bits[0:] (fp16 if half, else bf16); images and outputs [B,H,W*3].

    Whichever output is not wanted, and what the plan does not use, is empty.
    """
    height, n = images.shape[1], images.shape[2]
    width = n // 3
    a, b, weight, scratch = (
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
    )
    zero, one = np.zeros(n, np.float32), np.ones(n, np.float32)  # normalising by these leaves pixels as they are
    along_x, across = np.empty(n, np.float32), np.empty(n, np.int32)
    for i in range(first, last):
        row = table[i]
        kind, partner = row[0], row[1]
        if kind == BLEND:
            weight[:] = np.float32(row[4]) * UNIT
        elif kind == PROFILE:
            for e in range(n):
                along_x[e] = np.float32(profiles[row[4], height + e // 3])
        elif kind == WINDOW:
            for e in range(n):
                across[e] = 3 * _windowed(e // 3, row[6], row[9], floats[i, 11], width) + e % 3
        for y in range(height):
            line = scratch if bits.size else out[i - first, y]
            if kind == BLOCKS:
                rows, columns = row[4], row[5]
                cy, start = y * rows // height, 0
                for cx in range(columns):
                    stop = 3 * _cell_start(cx + 1, width, columns)
                    one_source, other_source, own = blocks[i, cy * columns + cx]
                    image, from_y, x = _cell_source(one_source, rows, columns, cy, y, height, width)
                    other, other_y, other_x = _cell_source(other_source, rows, columns, cy, y, height, width)
                    end, other_end = x + stop - start, other_x + stop - start
                    if own == ONE:
                        _put(line, start, images, boxes, fill, image, from_y, x, end, mean, scale)
                    elif own == 0:
                        _put(line, start, images, boxes, fill, other, other_y, other_x, other_end, mean, scale)
                    else:
                        _put(a, start, images, boxes, fill, image, from_y, x, end, zero, one)
                        _put(b, start, images, boxes, fill, other, other_y, other_x, other_end, zero, one)
                        cell = slice(start, stop)
                        weight[cell] = np.float32(own) * UNIT
                        _blend(line[cell], a[cell], b[cell], weight[cell], mean[cell], scale[cell])
                    start = stop
            elif kind == RANKS:
                count, flip = row[5], row[6]
                ranks = bank[row[4], height - 1 - y if flip & 2 else y]
                x0 = 0
                while x0 < width:  # runs of pixels from one image
                    own = ranks[width - 1 - x0 if flip & 1 else x0] < count
                    x1 = x0 + 1
                    while x1 < width and (ranks[width - 1 - x1 if flip & 1 else x1] < count) == own:
                        x1 += 1
                    source = i if own else partner
                    _put(line, 3 * x0, images, boxes, fill, source, y, 3 * x0, 3 * x1, mean, scale)
                    x0 = x1
            elif kind == BLEND or (kind == PROFILE and profiles[row[4], y] > 0):
                if kind == PROFILE:
                    along_y = np.float32(profiles[row[4], y])
                    for e in range(n):
                        weight[e] = (np.float32(ONE) - along_y * along_x[e]) * UNIT
                if len(boxes):
                    _put(a, 0, images, boxes, fill, i, y, 0, n, zero, one)
                    _put(b, 0, images, boxes, fill, partner, y, 0, n, zero, one)
                    _blend(line, a, b, weight, mean, scale)
                else:
                    _blend(line, images[i, y], images[partner, y], weight, mean, scale)
            else:
                _put(line, 0, images, boxes, fill, i, y, 0, n, mean, scale)
            if (kind == BOX or kind == WINDOW) and row[4] <= y < row[5]:  # over the row, which is still in the cache
                start = min(3 * max(row[6], 0), n)
                stop = max(start, 3 * min(row[7], width))
                if kind == BOX:
                    _put(line, start, images, boxes, fill, partner, y, start, stop, mean, scale)
                else:
                    from_y = _windowed(y, row[4], row[8], floats[i, 10], height)
                    _put_window(line, across, images, boxes, fill, partner, from_y, start, stop, mean, scale)
            if bits.size and half:
                _to_float16(bits[i - first, y], scratch)
            elif bits.size:
                _to_bfloat16(bits[i - first, y], scratch)


def mix_cpu(
    images: Tensor, plan: Plan | None, mean: np.ndarray, scale: np.ndarray, erase: Erase | None, out: Tensor
) -> None:
    """Fills out, NHWC contiguous, from images uint8 [B,H,W,3]: checked arguments of `kernels.mix.mix`, all on the CPU.

    mean and scale are float32 [3]: the output is (pixel - mean) * scale.
    """
    n, height, width, _ = images.shape
    shape = (n, height, 3 * width)
    table = plan.table.numpy() if plan is not None else np.zeros((n, COLUMNS), np.int32)
    profiles = _array(plan and plan.profiles, np.int16, 2)
    bank = _array(plan and plan.bank, np.uint16, 3)
    blocks = _array(plan and plan.blocks, np.int32, 3)
    boxes, fill = _array(erase and erase.boxes, np.int32, 2), _array(erase and erase.fill, np.float32, 2)
    constants = [np.tile(v, width) for v in (mean, scale)]
    pixels = images.numpy().reshape(shape)
    args = (pixels, table, table.view(np.float32), profiles, bank, blocks, boxes, fill, *constants)
    floats, bits = np.empty((1, 1, 0), np.float32), np.empty((1, 1, 0), np.uint16)

    def work(first: int, last: int) -> None:
        target = out[first:last].view(last - first, height, 3 * width)
        if out.dtype == torch.float32:
            _mix(first, last, *args, target.numpy(), bits, False)
        else:
            _mix(first, last, *args, floats, target.view(torch.uint16).numpy(), out.dtype == torch.float16)

    share(work, n, images.numel())


def _array(tensor: Tensor | None, dtype, dimensions: int) -> np.ndarray:
    if tensor is None:
        return np.empty((0,) * dimensions, dtype)
    array = tensor.numpy()
    return array.view(np.uint16) if dtype is np.uint16 and array.dtype == np.int16 else array
