"""Saliency a block on the CPU: numba, one sample at a time, samples spread over a few threads."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled
from fastmix.kernels.plan import cell_edges
from fastmix.kernels.threads import share

THIRD = np.float32(1 / 3)


@compiled(fastmath={"reassoc", "contract"})
def _pool(gradient, rows, columns, out, first, last):
    """Means of samples first..last of a gradient float32 [B,H,W*3]; rows, columns: the edges of the cells."""
    saliency = np.empty(gradient.shape[2] // 3, np.float32)
    for i in range(first, last):
        out[i] = 0
        for cy in range(len(rows) - 1):
            for y in range(rows[cy], rows[cy + 1]):
                line = gradient[i, y]
                for x in range(len(saliency)):
                    r, g, b = line[3 * x], line[3 * x + 1], line[3 * x + 2]
                    saliency[x] = np.sqrt((r * r + g * g + b * b) * THIRD)
                for cx in range(len(columns) - 1):
                    total = np.float32(0)
                    for x in range(columns[cx], columns[cx + 1]):
                        total += saliency[x]
                    out[i, cy, cx] += total
            for cx in range(len(columns) - 1):
                out[i, cy, cx] /= np.float32((rows[cy + 1] - rows[cy]) * (columns[cx + 1] - columns[cx]))


def gradient_pool_cpu(gradient: Tensor, out: Tensor) -> None:
    """Fills out [B,gh,gw] from a gradient [B,H,W,3] of any float type: checked arguments, all on the CPU."""
    edges = (cell_edges(length, cells) for length, cells in zip(gradient.shape[1:3], out.shape[1:], strict=True))
    share(partial(_pool, gradient.float().flatten(2).numpy(), *edges, out.numpy()), len(out), gradient.numel())
