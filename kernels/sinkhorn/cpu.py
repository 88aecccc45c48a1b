"""Sinkhorn's iterations on the CPU: numba, one sample at a time, samples spread over a few threads."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.exp import exp_
from fastmix.kernels.threads import share


@inner(fastmath={"reassoc", "nnan", "nsz"})
def _softmax_row(t, power, k, g):
    """t = exp(k + g - most); returns most and the sum of t."""
    most = np.float32(-np.inf)
    for j in range(len(t)):
        t[j] = k[j] + g[j]
        most = max(most, t[j])
    for j in range(len(t)):
        t[j] -= most
    exp_(t, power)
    total = np.float32(0)
    for j in range(len(t)):
        total += t[j]
    return most, total


@inner()
def _columns(g, top, t, power, k, f, log_ratio):
    """g from f: a pass over the rows for each column's largest entry, and one for its sum."""
    n, m = k.shape
    top[:] = -np.inf
    for i in range(n):
        for j in range(m):
            top[j] = max(top[j], k[i, j] + f[i])
    g[:] = 0
    for i in range(n):
        for j in range(m):
            t[j] = k[i, j] + f[i] - top[j]
        exp_(t, power)
        for j in range(m):
            g[j] += t[j]
    for j in range(m):
        g[j] = log_ratio - top[j] - np.log(g[j])


@compiled()
def _sinkhorn(start, stop, cost, scale, log_ratio, factor, iterations, plan):
    n, m = cost.shape[1:]
    k, f = np.empty((n, m), np.float32), np.empty(n, np.float32)
    g, top, t, power = np.empty(m, np.float32), np.empty(m, np.float32), np.empty(m, np.float32), np.empty(m, np.int32)
    for sample in range(start, stop):
        for i in range(n):
            for j in range(m):
                k[i, j] = cost[sample, i, j] * scale
        f[:] = 0
        for iteration in range(iterations):
            _columns(g, top, t, power, k, f, log_ratio)
            if iteration < iterations - 1:
                for i in range(n):
                    most, total = _softmax_row(t, power, k[i], g)
                    f[i] = -most - np.log(total)
        for i in range(n):
            row = plan[sample, i]
            total = _softmax_row(row, power, k[i], g)[1]
            for j in range(m):
                row[j] *= factor / total


def sinkhorn_cpu(cost: Tensor, eps: float, iterations: int, factor: float, plan: Tensor) -> None:
    """Fills plan [B,n,m], contiguous, with factor x the plan whose rows sum to 1; checked arguments of `sinkhorn`."""
    samples, n, m = cost.shape
    arrays = cost.numpy(), np.float32(-1 / eps), np.float32(np.log(n / m)), np.float32(factor), iterations, plan.numpy()
    share(lambda start, stop: _sinkhorn(start, stop, *arrays), samples, cost.numel() * iterations)
