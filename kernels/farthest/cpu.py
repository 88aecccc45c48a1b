"""Greedy pairing on the CPU: numba. Bit for bit equal to `kernels.farthest.reference`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled


@compiled()
def _farthest(distance, least, partner):
    n = len(distance)
    free = np.ones(n, np.bool_)
    first, at, most = 0, 0, -np.inf
    for i in range(n):
        for j in range(n):
            d = distance[i, j] if distance[i, j] > least else least
            if i != j and d > most:
                first, at, most = i, j, d
    partner[first] = at
    free[first] = False
    for _ in range(n - 2):
        free[at] = False
        most, best = -np.inf, 0
        for k in range(n):
            d = distance[at, k] if distance[at, k] > least else least
            if free[k] and d > most:
                most, best = d, k
        partner[at] = best
        at = best
    partner[at] = first


def farthest_cpu(distance: Tensor, least: float, partner: Tensor) -> None:
    """Fills partner int32 [B] from distance float32 [B,B], contiguous; below `least` all are equal, NaN too."""
    _farthest(distance.numpy(), np.float32(least), partner.numpy())
