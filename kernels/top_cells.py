"""The most attended cells of each image (AttentiveMix): k of n by value, the lower index first where two are equal.

    rank_c = #{d: a_d > a_c} + #{d < c: a_d = a_c},    chosen_c = rank_c < k

Bytes: 4 read and 1 written for each cell; n comparisons a cell, two operations each: 256 images of 49 cells are 1.2
million, nothing beside a launch. One program a sample, one lane a cell; no sort, no scratch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, jit, tl

DTYPES = (torch.float32,)


# ---- reference ----


def reference(attention: Tensor, k: Tensor) -> Tensor:
    """`top_cells` in plain torch, by sorting."""
    order = attention.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(attention.shape[1], device=attention.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, rank) < k[:, None]


# ---- Triton ----


@jit(numbers=("n",))
def top_cells_kernel(attention, k, chosen, n, N: tl.constexpr):
    """One program: one sample; N >= n lanes."""
    sample = tl.program_id(0)
    cell = tl.arange(0, N)
    row = attention + sample * n
    mine = tl.load(row + cell, mask=cell < n, other=0.0)
    rank = tl.zeros([N], tl.int32)
    for d in range(n):
        other = tl.load(row + d)
        rank += ((other > mine) | ((other == mine) & (d < cell))).to(tl.int32)
    tl.store(chosen + sample * n + cell, rank < tl.load(k + sample), mask=cell < n)


# ---- launcher ----


def top_cells(attention: Tensor, k: Tensor) -> Tensor:
    """The k[i] cells of sample i that are attended most: bool [B,n] from attention float32 [B,n] and k int32 [B].

    Of equal values the first in order is chosen. Without a wait for the device.
    """
    if not (attention.is_cuda or INTERPRETED):
        return reference(attention, k)
    attention, (samples, n) = attention.contiguous(), attention.shape
    chosen = torch.empty(samples, n, dtype=torch.bool, device=attention.device)
    with torch.cuda.device_of(attention):
        top_cells_kernel[(samples,)](attention, k.contiguous(), chosen, n, N=_lanes(n), num_warps=1)
    return chosen


def _lanes(n: int) -> int:
    return max(32, 1 << (n - 1).bit_length())


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """Random arguments; levels: how many different values there are (0: as many as cells)."""

    samples: int
    cells: int
    levels: int = 0

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        made = torch.Generator().manual_seed(seed)
        attention = torch.rand(self.samples, self.cells, generator=made)
        if self.levels:
            attention = (attention * self.levels).floor() - 1
        k = torch.randint(self.cells + 1, (self.samples,), generator=made, dtype=torch.int32)
        return {"attention": attention, "k": k}


CASES = [Case(6, 49), Case(1, 1), Case(4, 64, levels=3), Case(3, 150), Case(5, 49, levels=1)]

# ---- ahead-of-time targets ----

_TYPES = dict(attention="*fp32", k="*i32", chosen="*i1", n="i32")
AOT = [
    Target("top_cells 7x7", top_cells_kernel, _TYPES, dict(N=64), 32, 4, 1, num_warps=1),
    Target("top_cells 13x13", top_cells_kernel, _TYPES, dict(N=256), 64, 4, 1, num_warps=1),
]
