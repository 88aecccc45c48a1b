"""Border differences on the CPU: numba, one sample at a time, samples spread over a few threads.

Sums of bins are made once an image and used for it and for the image whose partner it is. They lie so that one after
the other of a block's bins is a vector over all borders and blocks. Equal to `kernels.borders.reference`.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from torch import Tensor

from fastmix.kernels.borders.reference import starts_of
from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.plan import cell_edges
from fastmix.kernels.threads import share


@inner()
def _bins_of(image, lines, picks, bounds, step, sums, bins, to):
    """Sums of the bins of an image [H,n], to `to`.

    lines: rows of pixels that are added up, from and to, and where their bins begin; picks: of such a sum the first
    element of each bin, the narrowest first, and its place after that; bounds[w]: the first bin of more than w pixels;
    step: between channels. sums, bins: scratch [n].
    """
    for line in range(len(lines)):
        for y in range(lines[line, 0], lines[line, 1]):
            row = image[y]
            if y > lines[line, 0]:
                for e in range(len(sums)):
                    sums[e] += row[e]
            else:
                for e in range(len(sums)):  # as a slice it would take five times as long
                    sums[e] = row[e]
        for e in range(len(sums)):
            bins[e] = sums[e]
        for w in range(1, len(bounds)):
            if w > 1:
                behind = sums[3 * w - 3 :]
                for e in range(len(behind)):
                    bins[e] += behind[e]
            for k in range(bounds[w - 1], bounds[w]):
                at, place = picks[k, 0], lines[line, 2] + picks[k, 1]
                to[place] = bins[at]
                to[place + step] = bins[at + np.uint64(1)]
                to[place + step + step] = bins[at + np.uint64(2)]


@compiled()
def _bins(images, down, right, step, of_down, of_right, first, last):
    """Sums of the bins of images first..last of [B,H,W*3], to of_down and of_right [B,...], of a type that holds them.

    down, right: the first and last element that counts in a row; lines, picks and bounds of `_bins_of`.
    """
    sums, bins = np.empty(images.shape[2], of_down.dtype), np.empty(images.shape[2], of_down.dtype)
    for i in range(first, last):  # while the image is in the cache
        (begin, end), lines, picks, bounds = down
        part = slice(0, end - begin)
        _bins_of(images[i, :, begin:end], lines, picks, bounds, step, sums[part], bins[part], of_down[i])
        (begin, end), lines, picks, bounds = right
        part = slice(0, end - begin)
        _bins_of(images[i, :, begin:end], lines, picks, bounds, step, sums[part], bins[part], of_right[i])


@compiled()
def _differences(bins, partner, levels, out, first, last):
    """D_PQ of samples first..last, out [B,4,n], from bins [B,2,bins of a block,n]: before a border, and behind it.

    levels float32 [n]: what a difference is divided by.
    """
    n = len(levels)
    own, ahead = np.empty(n, np.int32), np.empty(n, np.int32)
    behind, other = np.empty(n, np.int32), np.empty(n, np.int32)
    for i in range(first, last):
        own[:], ahead[:], behind[:], other[:] = 0, 0, 0, 0
        mine, theirs = bins[i], bins[partner[i]]
        for b in range(bins.shape[2]):
            before, after, before0, after0 = mine[0, b], mine[1, b], theirs[0, b], theirs[1, b]
            for s in range(n):
                p, q = np.int32(before[s]), np.int32(after[s])
                p0, q0 = np.int32(before0[s]), np.int32(after0[s])
                other[s] += abs(p0 - q0)
                behind[s] += abs(p0 - q)
                ahead[s] += abs(p - q0)
                own[s] += abs(p - q)
        for pair, total in enumerate((other, behind, ahead, own)):
            for s in range(n):
                out[i, pair, s] = np.float32(total[s]) / levels[s]


@cache
def _places(size: tuple[int, int], blocks: int, deep: tuple[int, int], across: int) -> tuple:
    """What `_bins` takes of a side, the shape of its result for an image, levels of `_differences`, and whether all of
    the result is written.

    across 0: borders between a block and the one below; 1: and the one to its right.
    """
    k, along = deep[across], 1 - across
    edges, ends = (cell_edges(size[axis], blocks) for axis in (across, along))
    starts = starts_of(size[along], blocks, deep[along])
    block = np.searchsorted(ends, starts[:-1], "right") - 1
    number = np.arange(len(block)) - np.searchsorted(starts, ends)[block]
    most, n = number.max() + 1, (blocks - 1) * blocks
    to_border, to_block = (1, blocks - 1) if across else (blocks, 1)  # how the differences lie

    border, side = (v.flatten() for v in np.indices((blocks - 1, 2)))
    low = edges[1:-1][border] + (side - 1) * k
    of_border = np.stack([low, low + k, side * 3 * most * n + border * to_border], 1)
    of_bin = np.stack([starts[:-1], starts[1:], 3 * number * n + block * to_block], 1)
    lines, picks = (of_bin, of_border) if across else (of_border, of_bin)
    width = picks[:, 1] - picks[:, 0]
    picks, width = picks[width.argsort(kind="stable")], np.sort(width)
    bounds = np.searchsorted(width, np.arange(width[-1] + 1), "right")
    begin, end = 3 * picks[:, 0].min(), 3 * picks[:, 1].max()
    picks = np.stack([3 * picks[:, 0] - begin, picks[:, 2]], 1)
    levels = np.zeros(n, np.float32)
    levels[border[::2, None] * to_border + np.arange(blocks) * to_block] = 765 * k * np.diff(ends)
    whole = len(lines) * len(picks) == 2 * most * n  # no block has fewer bins than another
    places = (int(begin), int(end)), *(v.astype(np.uint64) for v in (lines, picks, bounds))
    return places, (2, 3 * most, n), levels, whole


def borders_cpu(
    images: Tensor, partner: Tensor, blocks: int, deep: tuple[int, int], down: Tensor, right: Tensor
) -> None:
    """Fills down and right: checked arguments of `kernels.borders.borders`, all on the CPU; deep: of a bin."""
    pixels, n, size = images.flatten(2).numpy(), len(images), tuple(images.shape[1:3])
    dtype = np.uint16 if 255 * deep[0] * deep[1] < 1 << 16 else np.int32
    found, sides = [], [_places(size, blocks, deep, across) for across in range(2)]
    for _, shape, _, whole in sides:
        found.append((np.empty if whole else np.zeros)((n, *shape), dtype))
    of_down, of_right = (bins.reshape(n, -1) for bins in found)
    step = np.uint64(blocks * (blocks - 1))
    share(partial(_bins, pixels, sides[0][0], sides[1][0], step, of_down, of_right), n, pixels.size)
    for bins, (_, _, levels, _), out in zip(found, sides, (down, right), strict=True):
        share(partial(_differences, bins, partner.numpy(), levels, out.flatten(2).numpy()), n, pixels.size)
