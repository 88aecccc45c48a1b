"""Salient cells, kept at random (Saliency Grafting): each cell that stands out, independently with probability p.

    e_c = exp((s_c / max s - 1) / temperature),    C = {c: e_c >= mean e},    kept = {c in C: u_c < p or u_c <= min_C u}

e is softmax(s / (max s * temperature)) up to its sum, so C holds the cells of at least average softmax. The last
condition always keeps the candidate of the smallest u: one cell at least. All zeros are all equal: C is everything.

Bytes: 8 read and 1 written for each cell, one exponential a cell. One program a sample, one warp, all in registers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, jit, tl

DTYPES = (torch.float32,)


# ---- reference ----


def reference(saliency: Tensor, p: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """`graft_cells` in plain torch."""
    candidate = candidates(saliency, temperature)
    least = uniform.where(candidate, 1.0).amin(1, keepdim=True)
    return candidate & ((uniform < p[:, None]) | (uniform <= least))


def candidates(saliency: Tensor, temperature: float) -> Tensor:
    """The cells of at least average softmax, bool [B,n]."""
    top = saliency.amax(1, keepdim=True)
    scaled = saliency / top.where(top > 0, 1.0)
    e = ((scaled - scaled.amax(1, keepdim=True)) * (1 / temperature)).exp()
    return e * saliency.shape[1] >= e.sum(1, keepdim=True)


# ---- Triton ----


@jit(numbers=("n",))
def graft_cells_kernel(saliency, p, uniform, kept, sharpness, n, N: tl.constexpr):
    """One program: one sample; N >= n lanes."""
    sample = tl.program_id(0)
    cell = tl.arange(0, N)
    valid = cell < n
    s = tl.load(saliency + sample * n + cell, mask=valid, other=0.0)
    u = tl.load(uniform + sample * n + cell, mask=valid, other=1.0)
    top = tl.max(s, 0)
    s = s / tl.where(top > 0, top, 1.0)
    e = tl.where(valid, tl.exp((s - tl.max(s, 0)) * sharpness), 0.0)
    candidate = valid & (e * n >= tl.sum(e, 0))
    least = tl.min(tl.where(candidate, u, 1.0), 0)
    keep = candidate & ((u < tl.load(p + sample)) | (u <= least))
    tl.store(kept + sample * n + cell, keep, mask=valid)


# ---- launcher ----


def graft_cells(saliency: Tensor, p: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The cells of each sample that are kept: bool [B,n].

    saliency float32 [B,n], not negative, in any unit; p float32 [B], the probability; uniform float32 [B,n], draws from
    [0, 1). At least one cell of a sample is kept. Without a wait for the device.
    """
    if not (saliency.is_cuda or INTERPRETED):
        return reference(saliency, p, uniform, temperature)
    saliency, (samples, n) = saliency.contiguous(), saliency.shape
    kept = torch.empty(samples, n, dtype=torch.bool, device=saliency.device)
    lanes = max(32, 1 << (n - 1).bit_length())
    with torch.cuda.device_of(saliency):
        graft_cells_kernel[(samples,)](
            saliency, p.contiguous(), uniform.contiguous(), kept, 1 / temperature, n, N=lanes, num_warps=1
        )
    return kept


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """Random arguments; flat: the saliency is the same everywhere."""

    samples: int
    cells: int
    temperature: float = 0.2
    flat: float | None = None

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        made = torch.Generator().manual_seed(seed)
        saliency, uniform = torch.rand(2, self.samples, self.cells, generator=made)
        if self.flat is not None:
            saliency = torch.full_like(saliency, self.flat)
        p = torch.linspace(0, 1, self.samples)
        return {"saliency": 1e-3 * saliency, "p": p, "uniform": uniform, "temperature": self.temperature}


CASES = [Case(9, 49), Case(1, 1), Case(5, 64, 0.05), Case(3, 169, 1.0), Case(4, 49, flat=3.0), Case(4, 25, flat=0.0)]

# ---- ahead-of-time targets ----

_TYPES = dict(saliency="*fp32", p="*fp32", uniform="*fp32", kept="*i1", sharpness="fp32", n="i32")
AOT = [
    Target("graft_cells 7x7", graft_cells_kernel, _TYPES, dict(N=64), 32, 4, 1, num_warps=1),
    Target("graft_cells 13x13", graft_cells_kernel, _TYPES, dict(N=256), 64, 4, 1, num_warps=1),
]
