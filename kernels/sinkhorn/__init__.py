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

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.sinkhorn.cases import CASES
from fastmix.kernels.sinkhorn.gpu import AOT, REGISTERS, program_shape, sinkhorn_kernel
from fastmix.kernels.sinkhorn.reference import DTYPES, FINISHES, MOST, reference

__all__ = ["AOT", "CASES", "DTYPES", "ULPS", "reference", "sinkhorn"]

ULPS = 256  # e**x multiplies the rounding of K


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
        from fastmix.kernels.sinkhorn.cpu import sinkhorn_cpu

        sinkhorn_cpu(cost, eps, iterations, factor, plan)
        return plan
    if m > MOST:
        return reference(cost, eps, iterations) * factor
    rows, columns, warps = program_shape(n, m)
    with torch.cuda.device_of(cost):
        sinkhorn_kernel[(samples,)](
            cost, plan, -math.log2(math.e) / eps, math.log2(n / m), factor, n, m, iterations,
            N=rows, M=columns, num_warps=warps, maxnreg=REGISTERS,
        )  # fmt: skip
    return plan
