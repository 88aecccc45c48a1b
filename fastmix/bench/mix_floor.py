"""The floor of the mixing pass on a CPU: for plain, mixup and cutmix the plainest loop over rows that numba takes.

Each can do nothing else: no plan is read, fp32 is written, and rows are shared out to numba's threads, as many as
torch has.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.plan import ONE, Plan

parallel = numba.njit(parallel=True, nogil=True, error_model="numpy")


@parallel
def plain(rows, mean, scale, out):
    for row in numba.prange(len(rows)):
        for k in range(rows.shape[1]):
            out[row, k] = (rows[row, k] - mean[k]) * scale[k]


@parallel
def blend(rows, other, weight, mean, scale, out):
    for row in numba.prange(len(rows)):
        own, partner, a, b = rows[row], rows[other[row]], weight[row], np.float32(1) - weight[row]
        for k in range(rows.shape[1]):
            out[row, k] = (a * own[k] + b * partner[k] - mean[k]) * scale[k]


@parallel
def paste(rows, other, begin, end, mean, scale, out):
    for row in numba.prange(len(rows)):
        own, partner = rows[row], rows[other[row]]
        for k in range(begin[row]):
            out[row, k] = (own[k] - mean[k]) * scale[k]
        for k in range(begin[row], end[row]):
            out[row, k] = (partner[k] - mean[k]) * scale[k]
        for k in range(end[row], np.uint64(rows.shape[1])):
            out[row, k] = (own[k] - mean[k]) * scale[k]


def floor(name: str, plan: Plan | None, shape: tuple[int, ...], mean, std) -> Callable | None:
    """A function from uint8 images [B,H,W,3] to them mixed by the plan, fp32 [B,3,H,W] in channels-last memory that it
    writes again each time; None for a plan other than plain, mixup and cutmix."""
    n, height, width, _ = shape
    out = np.empty((n * height, 3 * width), np.float32)
    centre, scale = (
        np.tile(np.asarray(v, np.float32), width) for v in ([255 * m for m in mean], [1 / 255 / s for s in std])
    )
    result = torch.from_numpy(out).view(shape).permute(0, 3, 1, 2)
    if name == "plain":
        loop, given = plain, ()
    elif name in ("mixup", "cutmix"):
        first = plan.partner.numpy().astype(np.int64) * height
        other = (first[:, None] + np.arange(height)).ravel()
        if name == "mixup":
            loop, given = blend, (other, np.repeat(plan.table[:, 4].numpy() / ONE, height).astype(np.float32))
        else:
            y0, y1, x0, x1 = (column[:, None] for column in plan.table[:, 4:8].numpy().T.astype(np.int64))
            inside = (np.arange(height) >= y0) & (np.arange(height) < y1)
            places = (np.where(inside, 3 * x, 0).ravel() for x in (x0, x1))
            loop, given = paste, (other, *(each.astype(np.uint64) for each in places))  # no index may be negative
    else:
        return None

    def work(images: Tensor) -> Tensor:
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        loop(images.view(n * height, 3 * width).numpy(), *given, centre, scale, out)
        return result

    return work
