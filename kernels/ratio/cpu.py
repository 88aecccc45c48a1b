"""Shares of two maps on the CPU: numba, samples spread over a few threads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.compiled import compiled
from fastmix.kernels.plan import ONE
from fastmix.kernels.threads import share


@compiled(error_model="numpy")
def _ratio(begin, end, maps, scale, partner, out, sums):
    """Samples begin..end of maps float32 [B,P] to out int32 [B,P] and sums int64 [B]."""
    for i in range(begin, end):
        j = partner[i]
        own, other, to = maps[i], maps[j], out[i]
        by, by_other, total = scale[i], scale[j], 0
        for p in range(len(to)):
            a = own[p] * by
            both = a + other[p] * by_other
            to[p] = np.int32(np.rint((a / both if both > 0 else np.float32(0.5)) * np.float32(ONE)))
            total += to[p]
        sums[i] = total


def ratio_cpu(maps: Tensor, scale: Tensor, partner: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """`ratio` of maps float32 [B,H,W], contiguous, on the CPU."""
    if out is None:
        out = torch.empty(maps.shape, dtype=torch.int32)
    sums = torch.empty(len(maps), dtype=torch.int64)
    args = maps.flatten(1).numpy(), scale.numpy(), partner.numpy(), out.flatten(1).numpy(), sums.numpy()
    share(lambda begin, end: _ratio(begin, end, *args), len(maps), maps.numel())
    return out, sums
