"""Entropic optimal transport with uniform marginals: Sinkhorn's iterations in the log domain (Cuturi 2013; AlignMix).

    K = -cost / eps,    f_i = -log sum_j exp(K_ij + g_j),    g_j = log(n / m) - log sum_i exp(K_ij + f_i)
    R_ij = n P_ij = exp(K_ij + f_i + g_j)

f and g in turn, from f = 0, a fixed number of times, f last: then the rows of R sum to 1 exactly, converged or not, and
its columns sum to n / m only as far as it has converged. finish="columns" is the same with the two exchanged.

Where cost / eps is large (raw features: 10^3 and more) 100 iterations are far from convergence, and the marginal that
was updated first is off by a factor of several: finish on the one that is used.

Bytes: 4 read and 4 written for each entry. One program a sample; all that changes stays in registers, and the cost is
read once an iteration from the nearest cache, some rows at a time (49 x 49 are 10 kB, 196 x 196 are 150 kB). It takes
2 exponentials an entry and iteration: 210 million for 100 iterations of 256 samples of 49 x 49, padded to 64 x 64, or
60 us where 132 SMs do 16 in a cycle at 1.75 GHz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl

DTYPES = (torch.float32,)
FINISHES = ("rows", "columns")
MOST = 1024  # columns of the kernel, and rows too where finish is "columns"; beyond, the reference does it
ULPS = 256  # e**x multiplies the rounding of K

# ---- reference ----


def reference(cost: Tensor, eps: float, iterations: int, finish: str = "rows") -> Tensor:
    """`sinkhorn` in plain torch, in the precision of the cost."""
    if finish == "columns":
        return reference(cost.mT, eps, iterations).mT * (cost.shape[1] / cost.shape[2])
    n, m = cost.shape[1:]
    k = cost * (-1 / eps)
    f = k.new_zeros(len(k), n, 1)
    for _ in range(iterations):
        g = math.log(n / m) - (k + f).logsumexp(1, keepdim=True)
        f = -(k + g).logsumexp(2, keepdim=True)
    return (k + g).softmax(2)


# ---- Triton ----

FAR = constant(-1e30)  # K outside of the matrix: finite, so that no difference is inf - inf


@jit
def _entries(cost, scale, i, j, n, m):
    return tl.where((i < n) & (j < m), tl.load(cost + i * m + j, mask=(i < n) & (j < m), other=0.0) * scale, FAR)


@jit
def sinkhorn_kernel(cost, plan, scale, log_ratio, factor, n, m, iterations, N: tl.constexpr, M: tl.constexpr):
    """One program: one sample, f last; M >= m columns, N rows at a time. Logarithms are to the base 2."""
    first = cost + tl.program_id(0).to(tl.int64) * (n * m)
    i, j = tl.arange(0, N)[:, None], tl.arange(0, M)[None, :]
    g = tl.zeros([1, M], tl.float32)
    for iteration in range(iterations):
        top, total = tl.full([1, M], FAR, tl.float32), tl.zeros([1, M], tl.float32)
        for row in range(0, n, N):
            k = _entries(first, scale, row + i, j, n, m)
            f = tl.zeros([N, 1], tl.float32)
            if iteration > 0:
                t = k + g
                most = tl.max(t, 1, keep_dims=True)
                f = -most - tl.log2(tl.sum(tl.exp2(t - most), 1, keep_dims=True))
            t = k + tl.where(row + i < n, f, 0.0)
            most = tl.maximum(top, tl.max(t, 0, keep_dims=True))
            total = total * tl.exp2(top - most) + tl.sum(tl.exp2(t - most), 0, keep_dims=True)
            top = most
        g = tl.where(j < m, log_ratio - top - tl.log2(total), 0.0)
    out = plan + tl.program_id(0).to(tl.int64) * (n * m)
    for row in range(0, n, N):
        k = _entries(first, scale, row + i, j, n, m)
        t = k + g
        e = tl.exp2(t - tl.max(t, 1, keep_dims=True))
        share = e * (factor / tl.sum(e, 1, keep_dims=True))
        tl.store(out + (row + i) * m + j, share, mask=(row + i < n) & (j < m))


# ---- launcher ----


def sinkhorn(cost: Tensor, eps: float, iterations: int, finish: str = "rows") -> Tensor:
    """The plan R = n P, float32 [B,n,m], of a cost float32 [B,n,m]; P has the marginals 1/n and 1/m.

    eps: weight of the entropy, in units of the cost; iterations: at least 1; finish: "rows" (each row of R sums to 1)
    or "columns" (each sums to n/m), whatever the other marginal is. Not differentiable: the plan has no gradient.
    Deterministic, and without a wait for the device. On a GPU beyond 1024 columns (with finish="columns": rows) plain
    torch does it. Raises ValueError for an eps, iterations or finish out of range, and for a cost of another type.
    """
    if cost.ndim != 3 or cost.dtype != torch.float32:
        raise ValueError(f"sinkhorn: cost must be float32 [B,n,m], not {cost.dtype} {list(cost.shape)}")
    if not eps > 0 or iterations < 1 or finish not in FINISHES:
        raise ValueError(
            f"sinkhorn: eps is {eps}, iterations {iterations}, finish {finish!r}: they must be above 0, at least 1, and"
            f" one of {', '.join(FINISHES)}"
        )
    cost = cost.detach()
    if finish == "rows":
        return _rows_last(cost.contiguous(), eps, iterations, 1.0)
    n, m = cost.shape[1:]
    return _rows_last(cost.mT.contiguous(), eps, iterations, n / m).mT


def _rows_last(cost: Tensor, eps: float, iterations: int, factor: float) -> Tensor:
    samples, n, m = cost.shape
    plan = torch.empty_like(cost)
    if not (cost.is_cuda or INTERPRETED):
        from fastmix.kernels.sinkhorn_cpu import sinkhorn_cpu

        sinkhorn_cpu(cost, eps, iterations, factor, plan)
        return plan
    if m > MOST:
        return reference(cost, eps, iterations) * factor
    rows, columns, warps = _shape(n, m)
    with torch.cuda.device_of(cost):
        sinkhorn_kernel[(samples,)](
            cost, plan, -math.log2(math.e) / eps, math.log2(n / m), factor, n, m, iterations,
            N=rows, M=columns, num_warps=warps,
        )  # fmt: skip
    return plan


def _shape(n: int, m: int) -> tuple[int, int, int]:
    """Rows at a time, columns and warps: at most 4096 entries, 16 a thread."""
    rows, columns = (1 << (length - 1).bit_length() for length in (n, m))
    rows = min(rows, 4096 // columns)
    return rows, columns, max(rows * columns // 512, 1)


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """Random arguments with cost / eps up to 8: the further it goes, the more its rounding weighs in e**K."""

    samples: int
    n: int
    m: int
    iterations: int
    finish: str = "rows"

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        cost = torch.rand(self.samples, self.n, self.m, generator=torch.Generator().manual_seed(seed))
        return {"cost": 4 * cost, "eps": 0.5, "iterations": self.iterations, "finish": self.finish}


CASES = [
    Case(2, 49, 49, 5),
    Case(1, 1, 1, 1),
    Case(2, 7, 12, 3, "columns"),
    Case(2, 12, 7, 3),
    Case(1, 64, 64, 2, "columns"),
    Case(1, 70, 196, 2),
]

# ---- ahead-of-time targets ----


def _target(name, n, m, registers) -> Target:
    rows, columns, warps = _shape(n, m)
    types = dict(cost="*fp32", plan="*fp32", scale="fp32", log_ratio="fp32", factor="fp32", iterations="i32")
    types |= dict(n="i32", m="i32")
    return Target(name, sinkhorn_kernel, types, dict(N=rows, M=columns), registers, 4, 4, num_warps=warps)


AOT = [_target("sinkhorn 7x7", 49, 49, 128), _target("sinkhorn 14x14", 196, 196, 128)]
