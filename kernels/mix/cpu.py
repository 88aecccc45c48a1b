"""The mixing pass on the CPU: numba, one row at a time, samples spread over a few threads.

Rows are made piece by piece, each normalised straight from its source, or blended from two, and rounded as it is
written. Of images that lie channel by channel each channel is an image of one value a pixel, which has the row of the
plan of its sample. Bit for bit equal to `kernels.mix.reference`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.erase import LEVELS, Erase
from fastmix.kernels.mix.values import as_float, as_numpy, pixel, put
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


@inner()
def _noise(fill, position, channel, seed):
    """The noise at a flat position: lowbias32 of C. Wellons' hash prospector picks the level."""
    h = np.uint32(position) ^ np.uint32(seed)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
    return fill[channel, (h ^ (h >> np.uint32(16))) & np.uint32(LEVELS - 1)]


@inner()
def put_row(line, at, images, boxes, fill, image, y, start, stop, mean, scale, channels):
    """Normalises elements start..stop of row y of a source image, erased where its box is, into line[at:].

    Beyond the end of the row its last pixel is repeated.
    """
    end = min(stop, images.shape[2])
    source, to, first = images[image, y], np.uint64(at), np.uint64(start)
    for k in range(np.uint64(end - start)):  # an index that may be negative takes a fifth more time
        e = to + k
        put(line, e, (pixel(source[first + k]) - mean[e]) * scale[e])
    if boxes is not None and boxes[image, 0] <= y < boxes[image, 1]:
        for e in range(max(start, 3 * boxes[image, 2]), min(end, 3 * boxes[image, 3])):
            noise = _noise(fill, y * images.shape[2] + e, e % 3, boxes[image, 4])
            put(line, at + e - start, (noise - mean[at + e - start]) * scale[at + e - start])
    for e in range(at + end - start, at + stop - start):
        line[e] = line[e - channels]


@inner(inline="always")  # a call for each row is felt: results/mix_before_cpu.csv
def _put_part(line, source, first, last, mean, scale):
    """Normalises elements first..last of a row, which lie there in the source too, and of which none is erased."""
    for e in range(np.uint64(first), np.uint64(last)):
        put(line, e, (pixel(source[e]) - mean[e]) * scale[e])


@inner()
def _put_window(line, across, images, boxes, fill, image, y, start, stop, mean, scale):
    """Normalises elements across[start:stop] of row y of a source image, erased likewise, into line[start:stop]."""
    source = images[image, y]
    for e in range(start, stop):
        put(line, e, (pixel(source[across[e]]) - mean[e]) * scale[e])
    if boxes is not None and boxes[image, 0] <= y < boxes[image, 1]:
        for e in range(start, stop):
            if 3 * boxes[image, 2] <= across[e] < 3 * boxes[image, 3]:
                noise = _noise(fill, y * images.shape[2] + across[e], e % 3, boxes[image, 4])
                put(line, e, (noise - mean[e]) * scale[e])


@inner()
def blend_row(line, a, b, weight, mean, scale):
    """Normalises weight * a + (1 - weight) * b: exact for whole pixel values and where the weight is 0 or 1."""
    for e in range(len(line)):
        first, second = pixel(a[e]), pixel(b[e])
        mixed = second + weight[e] * (first - second)
        put(line, e, ((first if weight[e] == 1 else mixed) - mean[e]) * scale[e])


@inner()
def _windowed(pixel, corner, source, scale, length):
    """Where a pixel of a box looks in the partner: nearest neighbour, clamped to the image."""
    return min(max(source + np.int64(np.floor(np.float32(pixel - corner) * scale)), 0), length - 1)


@inner()
def _stretched(pixel, low, high, first, last, length):
    """The two source pixels between which a pixel of a stretched box lies, and STEPS x the second's share."""
    step = (pixel - low) * (last - first - 1) * STEPS // max(high - low - 1, 1)
    source = first + step // STEPS
    return min(max(source, 0), length - 1), min(max(source + 1, 0), length - 1), np.float32(step % STEPS)


@inner()
def _put_stretched(line, start, stop, over, under, left, right, across, down, mean, scale):
    """Normalises what a box shows between two rows of the partner, into line[start:stop]."""
    steps = np.float32(STEPS)
    for e in range(start, stop):
        first = over[left[e]] * (steps - across[e]) + over[right[e]] * across[e]
        second = under[left[e]] * (steps - across[e]) + under[right[e]] * across[e]
        mixed = (first * (steps - down) + second * down) * np.float32(1 / STEPS**2)
        put(line, e, (mixed - mean[e]) * scale[e])


@inner()
def _spread(weight, pixels):
    """Weights of a row's elements from those of its pixels."""
    if len(weight) == len(pixels):
        _move(weight, pixels, np.int64(0), len(pixels))
        return
    for x in range(len(pixels)):
        weight[3 * x] = weight[3 * x + 1] = weight[3 * x + 2] = pixels[x]


@inner()
def _map_weights(pixels, between, above, below, down, left, right, across):
    """Weights of a row of pixels from the rows of a map above and below it; products below 2**31."""
    steps = np.int32(STEPS)
    for c in range(len(between)):
        between[c] = above[c] * np.int32(steps - down) + below[c] * down
    for x in range(len(pixels)):
        first = np.int32(between[left[x]] * np.int32(steps - across[x]))
        second = np.int32(between[right[x]] * across[x])
        pixels[x] = np.float32(np.int32(first + second + np.int32(STEPS**2 // 2)) >> np.int32(14)) * UNIT


@inner()
def _cell_weights(pixels, bits, cy, rows, columns):
    """Weights of the pixels of a row of cells of which each is the image's own or its partner's."""
    for cx in range(columns):
        cell = cy * columns + cx
        own = np.float32((bits[cell // 32] >> (cell % 32)) & 1)
        pixels[_cell_start(cx, len(pixels), columns) : _cell_start(cx + 1, len(pixels), columns)] = own


@inner()
def _rank_weights(pixels, ranks, count, flipped):
    """Weights of a row of pixels of a rank map."""
    for x in range(len(pixels)):
        pixels[x] = np.float32(1) if ranks[x] < count else np.float32(0)
    if flipped:
        for x in range(len(pixels) // 2):
            pixels[x], pixels[-1 - x] = pixels[-1 - x], pixels[x]


@inner()
def _cell_start(cell, length, cells):
    return (cell * length + cells - 1) // cells


@inner()
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


@inner()
def _put_blocks(
    line, a, b, weight, images, boxes, fill, y, edges, places, entries, rows, columns, mean, scale, zero, one, channels
):
    """Row y of a grid of cells; neighbours that continue in one source row are one run."""
    height, n = images.shape[1:]
    cy = y * rows // height
    y_in_cell = y - _cell_start(cy, height, rows)
    begin = end = run = run_y = shift = np.int64(0)  # elements begin..end come from row run_y of image run, at + shift
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
            if boxes is not None or to > n or other_to > n:
                put_row(a, start, images, boxes, fill, image, from_y, x, to, zero, one, channels)
                put_row(b, start, images, boxes, fill, other, other_y, other_x, other_to, zero, one, channels)
                blend_row(line[part], a[part], b[part], weight[part], mean[part], scale[part])
            else:
                first, second = images[image, from_y, x:to], images[other, other_y, other_x:other_to]
                blend_row(line[part], first, second, weight[part], mean[part], scale[part])
            begin = stop
    if begin < end:
        put_row(line, begin, images, boxes, fill, run, run_y, begin + shift, end + shift, mean, scale, channels)


@inner()
def _put_boxed(out, own, other, box, mean, scale, channels):
    """Normalises an image [H,n], with a box of another one where `box` (y0, y1, x0, x1) is not empty."""
    n = out.shape[1]
    start, stop = _reach(box, n, channels)
    for y in range(len(out)):
        first, last = (start, stop) if box[0] <= y < box[1] else (n, n)
        _put_part(out[y], own[y], np.int64(0), first, mean, scale)
        _put_part(out[y], other[y], first, last, mean, scale)
        _put_part(out[y], own[y], last, n, mean, scale)


@inner()
def _copy_boxed(out, own, other, box, channels):
    """The same where mean and scale change nothing and the types are the same: nothing is computed."""
    n = out.shape[1]
    start, stop = _reach(box, n, channels)
    for y in range(len(out)):
        first, last = (start, stop) if box[0] <= y < box[1] else (n, n)
        _move(out[y], own[y], np.int64(0), first)
        _move(out[y], other[y], first, last)
        _move(out[y], own[y], last, n)


@inner()
def _reach(box, n, channels):
    """The elements of a row that lie in a box."""
    start = min(channels * max(box[2], 0), n)
    return start, max(start, min(channels * box[3], n))


@inner()
def _move(line, source, first, last):
    for e in range(np.uint64(first), np.uint64(last)):  # a slice, which may begin behind 0, takes half as long again
        line[e] = source[e]


@cache
def _pass_over(kind: int, copies: bool):
    """The compiled pass over a batch's samples of one kind: what other kinds need is pruned before it is compiled.

    copies: the output has the images' type, and mean and scale change nothing; of PLAIN and BOX.
    """
    weighs = kind in (BLEND, PROFILE, RANKS, CELLS, MAP)

    @compiled()
    def mix_kind(first, last, images, table, given, sides, boxes, fill, mean, scale, planes, out):
        """Images first..last, to out[0:].

        Images and outputs are [B,H,W*3], with planes 1, or [B*3,H,W], with planes 3: the channels of a sample in turn.
        given: what this kind looks up, profiles, bank, blocks or maps; else None.
        sides: above, below, down [H] and left, right, across [W], where each pixel lies in a map (plan.map_places).
        boxes, fill: None where nothing is erased.
        """
        height, n = images.shape[1], images.shape[2]
        channels = 3 // planes
        width = n // channels
        begin = np.int64(0)  # the number itself is a type of its own, for which functions would be compiled once more
        if weighs or kind == RESIZED or kind == BLOCKS:
            lines = np.empty((7, n), np.float32)
            a, b, weight, along_x, pixels = lines[0], lines[1], lines[2], lines[3], lines[4, :width]
            zero, one = lines[5], lines[6]  # normalising by these leaves pixels as they are
            zero[:], one[:] = 0, 1
        if kind == WINDOW or kind == RESIZED:
            from_x, to_x = np.empty(n, np.uint32), np.empty(n, np.uint32)
        if kind == MAP:
            between = np.empty(given.shape[2], np.int32)
            above, below, down, left, right, across = sides
        if kind == BLOCKS:
            edges, places = np.empty(given.shape[1] + 1, np.int64), np.empty((given.shape[1], 2, 3), np.int64)
        for i in range(first, last):
            sample, plane = i // planes, i % planes
            row = table[sample]
            if row[0] != kind:
                continue
            partner = row[1] * planes + plane
            if (kind == PLAIN or kind == BOX) and boxes is None:
                box = row[4:8] if kind == BOX else np.zeros(4, np.int32)
                if copies:
                    _copy_boxed(out[i - first], images[i], images[partner], box, channels)
                else:
                    _put_boxed(out[i - first], images[i], images[partner], box, mean, scale, channels)
                continue
            if kind == BLEND:
                weight[:] = np.float32(row[4]) * UNIT
            elif kind == PROFILE:
                for e in range(n):
                    along_x[e] = np.float32(given[row[4], height + e // channels])
            elif kind == WINDOW:
                for e in range(n):
                    at = _windowed(e // channels, row[6], row[9], as_float(np.uint32(row[11])), width)
                    from_x[e] = channels * at + e % channels
            elif kind == RESIZED:
                for e in range(channels * max(row[6], 0), channels * min(row[7], width)):
                    one_x, next_x, along_x[e] = _stretched(e // channels, row[6], row[7], row[10], row[11], width)
                    from_x[e], to_x[e] = channels * one_x + e % channels, channels * next_x + e % channels
            elif kind == BLOCKS:
                rows, columns = np.int64(row[4]), np.int64(row[5])
                _cell_places(edges, places, given[sample], rows, columns, height, width, channels, planes, plane)
            for y in range(height):
                line = out[i - first, y]
                if kind == BLOCKS:
                    _put_blocks(
                        line, a, b, weight, images, boxes, fill, y, edges, places, given[sample], rows, columns,
                        mean, scale, zero, one, channels,
                    )  # fmt: skip
                elif weighs and not (kind == PROFILE and given[row[4], y] == 0):
                    if kind == PROFILE:
                        along_y = np.float32(given[row[4], y])
                        for e in range(n):
                            weight[e] = (np.float32(ONE) - along_y * along_x[e]) * UNIT
                    elif kind == MAP:
                        _map_weights(
                            pixels, between, given[row[4], above[y]], given[row[4], below[y]], down[y], left, right,
                            across,
                        )  # fmt: skip
                        _spread(weight, pixels)
                    elif kind == RANKS:
                        ranks = given[row[4], height - 1 - y if row[6] & 2 else y]
                        _rank_weights(pixels, ranks, row[5], row[6] & 1)
                        _spread(weight, pixels)
                    elif kind == CELLS and (y == 0 or y * row[4] // height > (y - 1) * row[4] // height):
                        _cell_weights(pixels, row[6:], y * row[4] // height, np.int64(row[4]), np.int64(row[5]))
                        _spread(weight, pixels)
                    if boxes is None:
                        blend_row(line, images[i, y], images[partner, y], weight, mean, scale)
                    else:
                        put_row(a, begin, images, boxes, fill, i, y, begin, n, zero, one, channels)
                        put_row(b, begin, images, boxes, fill, partner, y, begin, n, zero, one, channels)
                        blend_row(line, a, b, weight, mean, scale)
                elif boxes is None:
                    _put_part(line, images[i, y], begin, n, mean, scale)
                else:
                    put_row(line, begin, images, boxes, fill, i, y, begin, n, mean, scale, channels)
                if kind == BOX or kind == WINDOW or kind == RESIZED:  # the row is in the cache
                    if not row[4] <= y < row[5]:
                        continue
                    start, stop = _reach(row[4:8], n, channels)
                    if kind == BOX:
                        put_row(line, start, images, boxes, fill, partner, y, start, stop, mean, scale, channels)
                    elif kind == WINDOW:
                        from_y = _windowed(y, row[4], row[8], as_float(np.uint32(row[10])), height)
                        _put_window(line, from_x, images, boxes, fill, partner, from_y, start, stop, mean, scale)
                    else:
                        over_y, under_y, share = _stretched(y, row[4], row[5], row[8], row[9], height)
                        # A share of 0 of the next pixel is read, too.
                        x0, x1 = channels * np.int64(row[10]), min(channels * (np.int64(row[11]) + 1), n)
                        put_row(a, x0, images, boxes, fill, partner, over_y, x0, x1, zero, one, channels)
                        put_row(b, x0, images, boxes, fill, partner, under_y, x0, x1, zero, one, channels)
                        _put_stretched(line, start, stop, a, b, from_x, to_x, along_x, share, mean, scale)

    return mix_kind


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
    source, results, same = as_numpy(images).reshape(shape), as_numpy(out).reshape(shape), images.dtype == out.dtype
    # All channels have the same mean and scale where there are planes.
    constants = [np.tile(v, width)[: shape[2]] for v in (mean, scale)]
    rest = (*erased(erase), *constants, planes)
    passes, lookups = [], _lookups(plan)  # all of them: a captured step does the same whatever was drawn
    for kind in np.flatnonzero(np.bincount(table[:, 0])).tolist():
        given = lookups.get(kind)
        args = (source, table, given, _sides((height, width), given.shape[1:]) if kind == MAP else None, *rest)
        passes.append((_pass_over(kind, same and kind in (PLAIN, BOX)), args))

    def work(first: int, last: int) -> None:
        for mix_kind, args in passes:
            mix_kind(first, last, *args, results[first:last])

    share(work, shape[0], images.numel())


def _lookups(plan: Plan | None) -> dict[int, np.ndarray]:
    """What samples of a kind look up: int16 [T,H+W], uint16 or int32 [M,H,W], int32 [B,C,3] or [M,h,w]."""
    if plan is None:
        return {}
    tensors = {RANKS: plan.bank, PROFILE: plan.profiles, BLOCKS: plan.blocks, MAP: plan.maps}
    found = {kind: tensor.numpy() for kind, tensor in tensors.items() if tensor is not None}
    if RANKS in found and found[RANKS].dtype == np.int16:
        found[RANKS] = found[RANKS].view(np.uint16)
    return found


def _sides(size: tuple[int, int], grid: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """above, below, down [H] and left, right, across [W] of `mix_kind`."""
    sides = (map_places(length, cells) for length, cells in zip(size, grid, strict=True))
    return tuple(v.astype(t) for side in sides for v, t in zip(side, (np.uint32, np.uint32, np.int32), strict=True))


def erased(erase: Erase | None) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """The boxes int32 [B,5] and the noise float32 [3,LEVELS] for compiled code; None where nothing is erased."""
    return (erase.boxes.numpy(), erase.fill.numpy()) if erase else (None, None)
