"""The problem of Co-Mixup's solver in whole numbers, on a GPU: what `problem.fixed_point` gives, in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.comixup.problem import BASE, Problem, numbers, unit

TWICE = constant(BASE + 1)  # a label that is one input twice
HALVES = constant(float(2**23))  # from which on fp32 numbers are whole


@jit
def _whole(v):
    """Rounded to a whole number, ties to even; NaN is 0."""
    size = tl.abs(v)
    size = tl.where(size < HALVES, (size + HALVES) - HALVES, size)
    return tl.where(v == v, tl.where(v < 0, -size, size), 0.0).to(tl.int32)


@jit(numbers=("m", "n"))
def posing_kernel(
    cost, compatibility, start, sizes, costs, penalty, labels, one, largest, share, m, n,
    N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """One program: an input of a group, and the output of that number. N >= n, M >= m lanes."""
    group, k = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, t, other = group * m + k, tl.arange(0, N), tl.arange(0, M)
    v = tl.load(cost + row * n + t, mask=t < n, other=0.0)
    tl.store(costs + row * n + t, _whole(tl.where(v == v, tl.clamp(v, -largest, largest), v) * one), mask=t < n)
    v = tl.load(compatibility + row * m + other, mask=other < m, other=0.0)
    v = tl.where(v == v, tl.clamp(v, 0.0, 1.0), v) * share
    tl.store(penalty + row * m + other, _whole(v * one), mask=other < m)
    label = tl.load(start + row * n + t, mask=t < n, other=0)
    label = tl.minimum(tl.maximum(label, 0), m - 1).to(tl.int32)
    tl.store(labels + row * n + t, tl.where(k < tl.load(sizes + group), label * TWICE, 0), mask=t < n)


def posed(
    cost: Tensor,
    compatibility: Tensor,
    start: Tensor,
    sizes: Tensor,
    beta: float,
    gamma: float,
    tau: float,
    largest: float,
) -> tuple[Problem, Tensor]:
    """The problem, and the labels int32 [G,m,n] that the solver starts from: checked arguments of `comixup`."""
    groups, m, n = cost.shape
    costs, labels = torch.empty(2, groups, m, n, dtype=torch.int32, device=cost.device)
    penalty = torch.empty(groups, m, m, dtype=torch.int32, device=cost.device)
    one = unit(m, beta, gamma, largest)
    given = [v.contiguous() for v in (cost, compatibility.float(), start, sizes)]
    with torch.cuda.device_of(cost):
        posing_kernel[(groups, m)](
            *given, costs, penalty, labels, one, largest, gamma / n, m, n, **_lanes(m, n), num_warps=1
        )
    return Problem(costs, penalty, *numbers(one, n, beta, gamma, tau)), labels


def _lanes(m: int, n: int) -> dict[str, int]:
    return dict(N=1 << (n - 1).bit_length(), M=1 << (m - 1).bit_length())


_TYPES = dict.fromkeys(("cost", "compatibility"), "*fp32") | {"start": "*i64"}
_TYPES |= dict.fromkeys(("sizes", "costs", "penalty", "labels"), "*i32")
_TYPES |= dict.fromkeys(("one", "largest", "share"), "fp32") | dict.fromkeys(("m", "n"), "i32")
AOT = [Target("comixup 20 inputs, problem", posing_kernel, _TYPES, _lanes(20, 64), 64, 4, 4, num_warps=1)]
