"""The mixing pass on the CPU: numba, one row at a time, samples spread over a few threads.

Rows are made piece by piece, each normalised straight from its source, or blended from two, and rounded as it is
written. Of images that lie channel by channel each channel is an image of one value a pixel, which has the row of the
plan of its sample. Bit for bit equal to `kernels.mix.reference`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from fastmix.kernels.compiled import compiled
from fastmix.kernels.erase import LEVELS, Erase
from fastmix.kernels.mix.values import as_numpy, pixel, put
from fastmix.kernels.plan import (
    BLEND,
    BLOCKS,
    BOX,
    CELLS,
    COLUMNS,
    MAP,
    ONE,
    PLAIN,
    PROFILE,
    RANKS,
    RESIZED,
    STEPS,
    WINDOW,
    Plan,
    map_places,
)  # fmt: skip
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
def put_row(line, at, images, boxes, fill, image, y, start, stop, mean, scale, channels=3):
    """Normalises elements start..stop of row y of a source image, erased where its box is, into line[at:].

    Beyond the end of the row its last pixel is repeated.
    """
    end = min(stop, images.shape[2])
    source, to, first = images[image, y], np.uint64(at), np.uint64(start)
    for k in range(np.uint64(end - start)):  # an index that may be negative takes a fifth more time
        e = to + k
        put(line, e, (pixel(source[first + k]) - mean[e]) * scale[e])
    if len(boxes) and boxes[image, 0] <= y < boxes[image, 1]:
        for e in range(max(start, 3 * boxes[image, 2]), min(end, 3 * boxes[image, 3])):
            noise = _noise(fill, y * images.shape[2] + e, e % 3, boxes[image, 4])
            put(line, at + e - start, (noise - mean[at + e - start]) * scale[at + e - start])
    for e in range(at + end - start, at + stop - start):
        line[e] = line[e - channels]


@njit(nogil=True)
def _whole_row(line, source, mean, scale):
    """As put_row does where nothing is erased, without the cost of its call."""
    for e in range(len(line)):
        put(line, e, (pixel(source[e]) - mean[e]) * scale[e])


@njit(nogil=True)
def _put_window(line, across, images, boxes, fill, image, y, start, stop, mean, scale):
    """Normalises elements across[start:stop] of row y of a source image, erased likewise, into line[start:stop]."""
    source = images[image, y]
    for e in range(start, stop):
        put(line, e, (pixel(source[across[e]]) - mean[e]) * scale[e])
    if len(boxes) and boxes[image, 0] <= y < boxes[image, 1]:
        for e in range(start, stop):
            if 3 * boxes[image, 2] <= across[e] < 3 * boxes[image, 3]:
                noise = _noise(fill, y * images.shape[2] + across[e], e % 3, boxes[image, 4])
                put(line, e, (noise - mean[e]) * scale[e])


@njit(nogil=True)
def blend_row(line, a, b, weight, mean, scale):
    """Normalises weight * a + (1 - weight) * b: exact for whole pixel values and where the weight is 0 or 1."""
    for e in range(len(line)):
        first, second = pixel(a[e]), pixel(b[e])
        mixed = second + weight[e] * (first - second)
        put(line, e, ((first if weight[e] == 1 else mixed) - mean[e]) * scale[e])


@njit(nogil=True)
def _windowed(pixel, corner, source, scale, length):
    """Where a pixel of a box looks in the partner: nearest neighbour, clamped to the image."""
    return min(max(source + np.int64(np.floor(np.float32(pixel - corner) * scale)), 0), length - 1)


@njit(nogil=True)
def _stretched(pixel, low, high, first, last, length):
    """The two source pixels between which a pixel of a stretched box lies, and STEPS x the second's share."""
    step = (pixel - low) * (last - first - 1) * STEPS // max(high - low - 1, 1)
    source = first + step // STEPS
    return min(max(source, 0), length - 1), min(max(source + 1, 0), length - 1), np.float32(step % STEPS)


@njit(nogil=True)
def _put_stretched(line, start, stop, over, under, left, right, across, down, mean, scale):
    """Normalises what a box shows between two rows of the partner, into line[start:stop]."""
    steps = np.float32(STEPS)
    for e in range(start, stop):
        first = over[left[e]] * (steps - across[e]) + over[right[e]] * across[e]
        second = under[left[e]] * (steps - across[e]) + under[right[e]] * across[e]
        mixed = (first * (steps - down) + second * down) * np.float32(1 / STEPS**2)
        put(line, e, (mixed - mean[e]) * scale[e])


@njit(nogil=True)
def _spread(weight, pixels):
    """Weights of a row's elements from those of its pixels."""
    if len(weight) == len(pixels):
        weight[:] = pixels
        return
    for x in range(len(pixels)):
        weight[3 * x] = weight[3 * x + 1] = weight[3 * x + 2] = pixels[x]


@njit(nogil=True)
def _map_weights(pixels, between, above, below, down, left, right, across):
    """Weights of a row of pixels from the rows of a map above and below it; products below 2**31."""
    steps = np.int32(STEPS)
    for c in range(len(between)):
        between[c] = above[c] * np.int32(steps - down) + below[c] * down
    for x in range(len(pixels)):
        first = np.int32(between[left[x]] * np.int32(steps - across[x]))
        second = np.int32(between[right[x]] * across[x])
        pixels[x] = np.float32(np.int32(first + second + np.int32(STEPS**2 // 2)) >> np.int32(14)) * UNIT


@njit(nogil=True)
def _cell_weights(pixels, bits, cy, rows, columns):
    """Weights of the pixels of a row of cells of which each is the image's own or its partner's."""
    for cx in range(columns):
        cell = cy * columns + cx
        own = np.float32((bits[cell // 32] >> (cell % 32)) & 1)
        pixels[_cell_start(cx, len(pixels), columns) : _cell_start(cx + 1, len(pixels), columns)] = own


@njit(nogil=True)
def _rank_weights(pixels, ranks, count, flipped):
    """Weights of a row of pixels of a rank map."""
    for x in range(len(pixels)):
        pixels[x] = np.float32(1) if ranks[x] < count else np.float32(0)
    if flipped:
        pixels[:] = pixels[::-1].copy()


@njit(nogil=True)
def _cell_start(cell, length, cells):
    return (cell * length + cells - 1) // cells


@njit(nogil=True)
def _cell_places(edges, places, entries, rows, columns, height, width, channels, planes, plane):
    """What does not depend on the row: the elements where columns begin, and each source's image, row, element."""
    for cx in range(columns + 1):
        edges[cx] = channels * _cell_start(cx, width, columns)
    for cell in range(rows * columns):
        for k in range(2):
            image, source = divmod(entries[cell, k], rows * columns)
            places[cell, k, 0] = image * planes + plane
            places[cell, k, 1] = _cell_start(source // columns, height, rows)
            places[cell, k, 2] = channels * _cell_start(source % columns, width, columns)


@njit(nogil=True)
def _put_blocks(
    line, a, b, weight, images, boxes, fill, y, edges, places, entries, rows, columns, mean, scale, zero, one, channels
):
    """Row y of a grid of cells; neighbours that continue in one source row are one run."""
    height, n = images.shape[1:]
    cy = y * rows // height
    y_in_cell = y - _cell_start(cy, height, rows)
    begin, end, run, run_y, shift = 0, 0, 0, 0, 0  # elements begin..end come from row run_y of image run, at + shift
    for cx in range(columns):
        cell, start, stop = cy * columns + cx, edges[cx], edges[cx + 1]
        own = entries[cell, 2]
        k = 0 if own else 1
        image, from_y = places[cell, k, 0], min(places[cell, k, 1] + y_in_cell, height - 1)
        x = places[cell, k, 2]
        mixed = 0 < own < ONE
        if mixed or image != run or from_y != run_y or x - start != shift or stop + shift > n:
            if begin < end:
                put_row(line, begin, images, boxes, fill, run, run_y, begin + shift, end + shift, mean, scale, channels)
            begin, run, run_y, shift = start, image, from_y, x - start
        end = stop
        if mixed:
            other, other_y = places[cell, 1, 0], min(places[cell, 1, 1] + y_in_cell, height - 1)
            other_x = places[cell, 1, 2]
            to, other_to = x + stop - start, other_x + stop - start
            part = slice(start, stop)
            weight[part] = np.float32(own) * UNIT
            if len(boxes) or to > n or other_to > n:
                put_row(a, start, images, boxes, fill, image, from_y, x, to, zero, one, channels)
                put_row(b, start, images, boxes, fill, other, other_y, other_x, other_to, zero, one, channels)
                blend_row(line[part], a[part], b[part], weight[part], mean[part], scale[part])
            else:
                first, second = images[image, from_y, x:to], images[other, other_y, other_x:other_to]
                blend_row(line[part], first, second, weight[part], mean[part], scale[part])
            begin = stop
    if begin < end:
        put_row(line, begin, images, boxes, fill, run, run_y, begin + shift, end + shift, mean, scale, channels)


@njit(nogil=True)
def _copy(out, own, other, box, channels):
    """An image [H,n], with a box of another one where `box` (y0, y1, x0, x1) is not empty; nothing is computed."""
    n = out.shape[1]
    start = min(channels * max(box[2], 0), n)
    stop = max(start, min(channels * box[3], n))
    for y in range(len(out)):
        inside = box[0] <= y < box[1]
        first, last = (start, stop) if inside else (n, n)
        _move(out[y], own[y], 0, first)
        _move(out[y], other[y], first, last)
        _move(out[y], own[y], last, n)


@njit(nogil=True)
def _move(line, source, first, last):
    for e in range(np.uint64(first), np.uint64(last)):  # a slice, which may begin behind 0, takes half as long again
        line[e] = source[e]


@compiled()
def _mix(
    first, last, images, table, floats, profiles, bank, blocks, maps, above, below, down, left, right, across,
    boxes, fill, mean, scale, planes, same, out,
):  # fmt: skip
    """Images first..last, to out[0:].

    Images and outputs are [B,H,W*3], with planes 1, or [B*3,H,W], with planes 3: the channels of a sample in turn.
    same: whether the output has their type, and mean and scale change nothing.
    above, below, down [H] and left, right, across [W]: where each pixel lies in a map (kernels.plan.map_places).
    What the plan does not use is empty.
    """
    height, n = images.shape[1], images.shape[2]
    channels = 3 // planes
    width = n // channels
    a, b = np.empty(n, np.float32), np.empty(n, np.float32)
    weight, along_x = np.empty(n, np.float32), np.empty(n, np.float32)
    zero, one = np.zeros(n, np.float32), np.ones(n, np.float32)  # normalising by these leaves pixels as they are
    pixels, nowhere = np.empty(width, np.float32), np.zeros(4, np.int32)
    between = np.empty(maps.shape[2], np.int32)
    from_x, to_x = np.empty(n, np.uint32), np.empty(n, np.uint32)
    edges, places = np.empty(blocks.shape[1] + 1, np.int64), np.empty((blocks.shape[1], 2, 3), np.int64)
    for i in range(first, last):
        sample, plane = i // planes, i % planes
        row = table[sample]
        kind, partner = row[0], row[1] * planes + plane
        if same and (kind == PLAIN or kind == BOX):
            box = row[4:8] if kind == BOX else nowhere
            _copy(out[i - first], images[i], images[partner], box, channels)
            continue
        weighs = kind == BLEND or kind == PROFILE or kind == RANKS or kind == CELLS or kind == MAP
        if kind == BLEND:
            weight[:] = np.float32(row[4]) * UNIT
        elif kind == PROFILE:
            for e in range(n):
                along_x[e] = np.float32(profiles[row[4], height + e // channels])
        elif kind == WINDOW:
            for e in range(n):
                from_x[e] = (
                    channels * _windowed(e // channels, row[6], row[9], floats[sample, 11], width) + e % channels
                )
        elif kind == RESIZED:
            for e in range(channels * max(row[6], 0), channels * min(row[7], width)):
                one_x, next_x, along_x[e] = _stretched(e // channels, row[6], row[7], row[10], row[11], width)
                from_x[e], to_x[e] = channels * one_x + e % channels, channels * next_x + e % channels
        elif kind == BLOCKS:
            _cell_places(edges, places, blocks[sample], row[4], row[5], height, width, channels, planes, plane)
        for y in range(height):
            line = out[i - first, y]
            if kind == BLOCKS:
                _put_blocks(
                    line, a, b, weight, images, boxes, fill, y, edges, places, blocks[sample], row[4],
                    row[5], mean, scale, zero, one, channels,
                )  # fmt: skip
            elif weighs and not (kind == PROFILE and profiles[row[4], y] == 0):
                if kind == PROFILE:
                    along_y = np.float32(profiles[row[4], y])
                    for e in range(n):
                        weight[e] = (np.float32(ONE) - along_y * along_x[e]) * UNIT
                elif kind == MAP:
                    sides = maps[row[4], above[y]], maps[row[4], below[y]]
                    _map_weights(pixels, between, *sides, down[y], left, right, across)
                    _spread(weight, pixels)
                elif kind == RANKS:
                    ranks = bank[row[4], height - 1 - y if row[6] & 2 else y]
                    _rank_weights(pixels, ranks, row[5], row[6] & 1)
                    _spread(weight, pixels)
                elif kind == CELLS and (y == 0 or y * row[4] // height > (y - 1) * row[4] // height):
                    _cell_weights(pixels, row[6:], y * row[4] // height, row[4], row[5])
                    _spread(weight, pixels)
                if len(boxes):
                    put_row(a, 0, images, boxes, fill, i, y, 0, n, zero, one)
                    put_row(b, 0, images, boxes, fill, partner, y, 0, n, zero, one)
                    blend_row(line, a, b, weight, mean, scale)
                else:
                    blend_row(line, images[i, y], images[partner, y], weight, mean, scale)
            elif len(boxes):
                put_row(line, 0, images, boxes, fill, i, y, 0, n, mean, scale)
            else:
                _whole_row(line, images[i, y], mean, scale)
            if (kind == BOX or kind == WINDOW or kind == RESIZED) and row[4] <= y < row[5]:  # the row is in the cache
                start = min(channels * max(row[6], 0), n)
                stop = max(start, channels * min(row[7], width))
                if kind == BOX:
                    put_row(line, start, images, boxes, fill, partner, y, start, stop, mean, scale)
                elif kind == WINDOW:
                    from_y = _windowed(y, row[4], row[8], floats[sample, 10], height)
                    _put_window(line, from_x, images, boxes, fill, partner, from_y, start, stop, mean, scale)
                else:
                    over_y, under_y, share = _stretched(y, row[4], row[5], row[8], row[9], height)
                    x0, x1 = (
                        channels * row[10],
                        min(channels * row[11] + channels, n),
                    )  # a share of 0 of the next pixel is read, too
                    put_row(a, x0, images, boxes, fill, partner, over_y, x0, x1, zero, one)
                    put_row(b, x0, images, boxes, fill, partner, under_y, x0, x1, zero, one)
                    _put_stretched(line, start, stop, a, b, from_x, to_x, along_x, share, mean, scale)


def mix_cpu(
    images: Tensor,
    plan: Plan | None,
    mean: np.ndarray,
    scale: np.ndarray,
    erase: Erase | None,
    out: Tensor,
    planar: bool = False,
) -> None:
    """Fills out, contiguous, of the shape of `images`: checked arguments of `kernels.mix.mix`, all on the CPU.

    images [B,H,W,3], or planar [B,3,H,W], of uint8 or a float type. mean and scale are float32 [3]: the output is
    (pixel - mean) * scale.
    """
    planes = 3 if planar else 1
    height, width = images.shape[2:] if planar else images.shape[1:3]
    shape = (len(images) * planes, height, 3 // planes * width)
    table = plan.table.numpy() if plan is not None else np.zeros((len(images), COLUMNS), np.int32)
    profiles = as_array(plan and plan.profiles, np.int16, 2)
    bank = as_array(plan and plan.bank, np.uint16, 3)
    blocks, maps = as_array(plan and plan.blocks, np.int32, 3), as_array(plan and plan.maps, np.int32, 3)
    sides = (map_places(length, max(cells, 1)) for length, cells in zip((height, width), maps.shape[1:], strict=True))
    places = [v.astype(t) for side in sides for v, t in zip(side, (np.uint32, np.uint32, np.int32), strict=True)]
    boxes, fill = as_array(erase and erase.boxes, np.int32, 2), as_array(erase and erase.fill, np.float32, 2)
    constants = [
        np.tile(v, width)[: shape[2]] for v in (mean, scale)
    ]  # all channels have the same where there are planes
    tables = (table, table.view(np.float32), profiles, bank, blocks, maps, *places)
    args = (as_numpy(images).reshape(shape), *tables, boxes, fill, *constants, planes, images.dtype == out.dtype)
    results = as_numpy(out).reshape(shape)

    def work(first: int, last: int) -> None:
        _mix(first, last, *args, results[first:last])

    share(work, shape[0], images.numel())


def as_array(tensor: Tensor | None, dtype, dimensions: int) -> np.ndarray:
    if tensor is None:
        return np.empty((0,) * dimensions, dtype)
    array = tensor.numpy()
    return array.view(np.uint16) if dtype is np.uint16 and array.dtype == np.int16 else array
