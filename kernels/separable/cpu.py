"""Filters of rows and columns on the CPU: numba, some lines of a result at a time, maps spread over a few threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.threads import share

TILE = 16  # values of a line of the cache


@inner(fastmath={"contract"})
def _along(source, first, taps, tile, out):
    """out[x, i] = sum_t taps[i, t] source[first[i] + t, x]: transposed, so that done twice it serves both sides."""
    n, width, last = len(first), source.shape[1], len(source) - 1
    for start in range(0, n, TILE):
        rows = min(TILE, n - start)
        for r in range(rows):
            i, line = start + r, tile[r]
            line[:] = 0
            for t in range(0, taps.shape[1], 4):
                k = first[i] + t
                a, b = source[min(k, last)], source[min(k + 1, last)]
                c, d = source[min(k + 2, last)], source[min(k + 3, last)]
                of_a, of_b, of_c, of_d = taps[i, t], taps[i, t + 1], taps[i, t + 2], taps[i, t + 3]
                for x in range(width):
                    line[x] += of_a * a[x] + of_b * b[x] + of_c * c[x] + of_d * d[x]
        for x in range(width):
            turned = out[x, start : start + rows]
            for r in range(rows):
                turned[r] = tile[r, x]


@compiled()
def _separable(begin, end, maps, rows, row_taps, columns, column_taps, out):
    """Maps begin..end, float32 [B,h,w], to out float32 [B,H,W]; the bands of both sides, of `band`."""
    tile = np.empty((TILE, max(maps.shape[2], len(rows))), np.float32)
    turned = np.empty((maps.shape[2], len(rows)), np.float32)
    for i in range(begin, end):
        _along(maps[i], rows, row_taps, tile, turned)
        _along(turned, columns, column_taps, tile, out[i])


@cache
def band(make: Callable, *args) -> tuple[np.ndarray, np.ndarray]:
    """Where each row of a matrix begins to be other than 0, int64 [n], and what is there, float32 [n,T].

    T is a multiple of 4; entries beyond the matrix are 0.
    """
    matrix = make(*args)
    there = matrix != 0
    first = there.argmax(1)
    longest = int((matrix.shape[1] - there[:, ::-1].argmax(1) - first).max())
    taps = np.zeros((len(matrix), longest + -longest % 4), np.float32)
    for row, start, entries in zip(taps, first, matrix, strict=True):
        row[: len(entries) - start] = entries[start:][: len(row)]
    return first, taps


def separable_cpu(maps: Tensor, make: Callable, down: tuple, across: tuple, out: Tensor | None) -> Tensor:
    """`separable` of maps float32 [B,h,w], contiguous, on the CPU."""
    bands = *band(make, *down), *band(make, *across)
    if out is None:
        out = torch.empty(len(maps), len(bands[0]), len(bands[2]))
    args = maps.numpy(), *bands, out.numpy()
    share(lambda begin, end: _separable(begin, end, *args), len(maps), maps.numel())
    return out
