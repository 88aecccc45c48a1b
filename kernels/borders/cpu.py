"""Border differences on the CPU: numba, one sample at a time, samples spread over a few threads.

Sums of bins are made once an image and used for it and for the image whose partner it is. Equal to
`kernels.borders.reference`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.plan import cell_edges
from fastmix.kernels.threads import share


@inner()
def _add_rows(image, first, last, sums):
    """sums[e] = the sum of element e of rows first..last of an image [H,W*3]: the inner loop is vectorised."""
    sums[:] = 0
    for y in range(first, last):
        row = image[y]
        for e in range(len(sums)):
            sums[e] += np.int32(row[e])


@inner()
def _bin(sums, first, last, out):
    """The sum over pixels first..last of each channel, from such sums."""
    red, green, blue = np.int32(0), np.int32(0), np.int32(0)
    for x in range(first, last):
        red += sums[3 * x]
        green += sums[3 * x + 1]
        blue += sums[3 * x + 2]
    out[0], out[1], out[2] = red, green, blue


@compiled()
def _bins(images, along_x, edges, starts, deep, out, first, last):
    """Sums of the bins before and behind every border, out int32 [B,borders,2,bins,3], of images [B,H,W*3].

    along_x: whether borders run along x; edges: their places on the other axis; starts: of the bins along them, and the
    end.
    """
    sums = np.empty(images.shape[2], np.int32)
    for i in range(first, last):
        if along_x:
            for e in range(len(edges)):
                for side in range(2):
                    low = edges[e] + (side - 1) * deep
                    _add_rows(images[i], low, low + deep, sums)
                    for b in range(len(starts) - 1):
                        _bin(sums, starts[b], starts[b + 1], out[i, e, side, b])
        else:
            for b in range(len(starts) - 1):
                _add_rows(images[i], starts[b], starts[b + 1], sums)
                for e in range(len(edges)):
                    for side in range(2):
                        low = edges[e] + (side - 1) * deep
                        _bin(sums, low, low + deep, out[i, e, side, b])


@compiled()
def _differences(bins, partner, starts, cells, deep, out, first, last):
    """D_PQ of samples first..last, out [B,4,borders,blocks]; cells: the first bin of each block, and the end."""
    for i in range(first, last):
        for pair in range(4):
            one, two = i if pair // 2 else partner[i], i if pair % 2 else partner[i]
            for e in range(bins.shape[1]):
                for c in range(len(cells) - 1):
                    levels = np.int32(0)
                    for b in range(cells[c], cells[c + 1]):
                        for channel in range(3):
                            levels += abs(bins[one, e, 0, b, channel] - bins[two, e, 1, b, channel])
                    wide = starts[cells[c + 1]] - starts[cells[c]]
                    out[i, pair, e, c] = np.float32(levels) / np.float32(765 * deep * wide)


def borders_cpu(
    images: Tensor,
    partner: Tensor,
    blocks: int,
    deep: tuple[int, int],
    starts: tuple[np.ndarray, np.ndarray],
    down: Tensor,
    right: Tensor,
) -> None:
    """Fills down and right: checked arguments of `kernels.borders.borders`, all on the CPU.

    deep: rows and columns of a bin; starts: where bins start along y and along x, and the ends.
    """
    pixels, partner, n = images.flatten(2).numpy(), partner.numpy(), len(images)
    for across, out in enumerate((down, right.transpose(2, 3))):
        along, edges = 1 - across, cell_edges(images.shape[1 + across], blocks)[1:-1]
        cells = np.searchsorted(starts[along], cell_edges(images.shape[1 + along], blocks))
        bins = np.empty((n, blocks - 1, 2, len(starts[along]) - 1, 3), np.int32)
        summed = pixels, across == 0, edges, starts[along], deep[across], bins
        compared = bins, partner, starts[along], cells, deep[across], out.numpy()
        for work, args in ((_bins, summed), (_differences, compared)):
            share(partial(work, *args), n, pixels.size)
