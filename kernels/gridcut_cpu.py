"""The grid cut on the CPU: numba, one block of samples at a time, the samples of a block side by side in vectors.

Every operation is that of `kernels.gridcut.reference`, in the same order, but for the sums of whole energies.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from fastmix.kernels.threads import share

LANES = 32  # samples of a block
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)


@njit(nogil=True, error_model="numpy")
def _pull(pull, up, down, left, right, above, below, before, after):
    """What the neighbours' levels do to a cell."""
    for s in range(len(pull)):
        vertical = up[s] * above[s] + down[s] * below[s]
        pull[s] = np.float32(2) * (vertical + (left[s] * before[s] + right[s] * after[s]))


@njit(nogil=True, error_model="numpy")
def _mean(m, own, pull, coldness, t):
    """The mean levels of a cell; the loops over the levels, a tuple, are unrolled."""
    for s in range(len(m)):
        low = own[0, s] - t[0] * pull[s]
        for k in range(1, len(t)):
            f = own[k, s] - t[k] * pull[s]
            low = f if f < low else low
        mass, moment = ZERO, ZERO
        for k in range(len(t)):
            p = ONE + (low - (own[k, s] - t[k] * pull[s])) * coldness[s]
            p = p if p > ZERO else ZERO
            p = p * p
            p = p * p
            mass += p
            moment += t[k] * p
        m[s] = moment / mass


@njit(nogil=True, error_model="numpy")
def _best(m, own, pull, t):
    """The levels of the least f of a cell."""
    for s in range(len(m)):
        low, at = own[0, s] - t[0] * pull[s], t[0]
        for k in range(1, len(t)):
            f = own[k, s] - t[k] * pull[s]
            at = t[k] if f < low else at
            low = f if f < low else low
        m[s] = at


@njit(nogil=True, error_model="numpy")
def _add(total, m, own, pull, t):
    """Adds a cell's part of the energy of levels m."""
    for s in range(len(m)):
        c = own[0, s]
        for k in range(1, len(t)):
            c = own[k, s] if m[s] == t[k] else c
        total[s] += HALF * (c + (c - m[s] * pull[s]))


@njit(nogil=True, error_model="numpy")
def _neighbours(pull, m, weights, y, x):
    w, row = weights[y, x], m[y + 1]
    _pull(pull, w[0], w[1], w[2], w[3], m[y, x + 1], m[y + 2, x + 1], row[x], row[x + 2])


@njit(nogil=True, error_model="numpy")
def _descend(m, own, weights, pull, t, sweeps):
    rows, columns = own.shape[:2]
    for sweep in range(2 * sweeps):
        for y in range(rows):
            for x in range((y + sweep) % 2, columns, 2):
                _neighbours(pull, m, weights, y, x)
                _best(m[y + 1, x + 1], own[y, x], pull, t)


@njit(nogil=True, error_model="numpy")
def _energies(total, m, own, weights, pull, t):
    total[:] = 0
    for y in range(own.shape[0]):
        for x in range(own.shape[1]):
            _neighbours(pull, m, weights, y, x)
            _add(total, m[y + 1, x + 1], own[y, x], pull, t)


@njit(nogil=True, cache=True, error_model="numpy")
def _anneal(first, last, unary, down, right, t, sweeps, heating, descents, coldest, out):
    """Samples first..last, in blocks."""
    rows, columns = unary.shape[2:]
    own = np.zeros((rows, columns, len(t), LANES), np.float32)
    weights = np.zeros((rows, columns, 4, LANES), np.float32)
    m, start = np.empty((2, rows + 2, columns + 2, LANES), np.float32)
    pull, coldness, best, found = np.empty((4, LANES), np.float32)
    for block in range(first, last, LANES):
        count = min(LANES, last - block)
        for s in range(count):
            i = block + s
            for y in range(rows):
                for x in range(columns):
                    w = weights[y, x, :, s]
                    w[0] = np.float32(0.25) * down[i, y - 1, x] if y else ZERO
                    w[1] = np.float32(0.25) * down[i, y, x] if y + 1 < rows else ZERO
                    w[2] = np.float32(0.25) * right[i, y, x - 1] if x else ZERO
                    w[3] = np.float32(0.25) * right[i, y, x] if x + 1 < columns else ZERO
            for k in range(len(t)):
                for y in range(rows):
                    for x in range(columns):
                        w = weights[y, x, :, s]
                        own[y, x, k, s] = unary[i, k, y, x] + t[k] * t[k] * ((w[0] + w[1]) + (w[2] + w[3]))
        coldness[:] = coldest
        for y in range(rows):
            for x in range(columns):
                for s in range(LANES):
                    low, high = own[y, x, 0, s], own[y, x, 0, s]
                    for k in range(1, len(t)):
                        low, high = min(low, own[y, x, k, s]), max(high, own[y, x, k, s])
                    coldness[s] = max(coldness[s], high - low)
        for s in range(LANES):
            coldness[s] = np.float32(0.25) / coldness[s]
        m[:] = 0
        for sweep in range(2 * sweeps):
            for y in range(rows):
                for x in range((y + sweep) % 2, columns, 2):
                    _neighbours(pull, m, weights, y, x)
                    _mean(m[y + 1, x + 1], own[y, x], pull, coldness, t)
            if sweep % 2 == 1:
                for s in range(LANES):
                    coldness[s] *= heating
        _descend(m, own, weights, pull, t, descents)
        _energies(best, m, own, weights, pull, t)
        start[:] = 0
        for k in range(len(t) + 1):
            for y in range(rows):
                for x in range(columns):
                    if k < len(t):
                        start[y + 1, x + 1] = t[k]
                    else:
                        for s in range(count):
                            low, at = unary[block + s, 0, y, x], t[0]
                            for j in range(1, len(t)):
                                u = unary[block + s, j, y, x]
                                at = t[j] if u < low else at
                                low = u if u < low else low
                            start[y + 1, x + 1, s] = at
            _descend(start, own, weights, pull, t, descents)
            _energies(found, start, own, weights, pull, t)
            for y in range(rows):
                for x in range(columns):
                    for s in range(LANES):
                        old, new = m[y + 1, x + 1, s], start[y + 1, x + 1, s]
                        m[y + 1, x + 1, s] = new if found[s] < best[s] else old
            for s in range(LANES):
                best[s] = min(found[s], best[s])
        for s in range(count):
            for y in range(rows):
                for x in range(columns):
                    out[block + s, y, x] = (m[y + 1, x + 1, s] + ONE) * (HALF * np.float32(len(t) - 1)) + HALF


def gridcut_cpu(unary: Tensor, down: Tensor, right: Tensor, out: Tensor, sweeps: int, heating: float, descents: int, coldest: float) -> None:
    """Fills out int32 [B,gh,gw]: checked arguments of `kernels.gridcut.gridcut`, annealed, all on the CPU."""
    n, labels, rows, columns = unary.shape
    t = tuple(np.float32(2 * level / (labels - 1) - 1) for level in range(labels))
    arrays = [v.contiguous().numpy() for v in (unary, down, right)]

    def work(first: int, last: int) -> None:
        _anneal(
            LANES * first, min(LANES * last, n), *arrays, t, sweeps, np.float32(heating), descents, np.float32(coldest), out.numpy()
        )

    share(work, -(-n // LANES), unary.numel() * sweeps)
