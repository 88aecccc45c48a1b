"""The gradient of batch-norm with ReLU, from its input and its table; what went through ReLU is seen from either end.

    g = gradient where 0 < z < cap, else 0
    dx = (g - mean(g) - (x - mean) mean(g (x - mean)) / (var + eps)) weight / sqrt(var + eps)
    dweight = sum(g (x - mean)) / sqrt(var + eps),    dbias = sum(g)

z is ReLU's output, or, where nothing was added before it, what comes of x and the table. With fixed statistics the two
means are none: the table counts infinitely many values.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.norm_act import passes
from fastmix.kernels.norm_act.cases import GRAD_CASES as CASES  # noqa: F401
from fastmix.kernels.norm_act.gpu import GRAD_AOT as AOT  # noqa: F401
from fastmix.kernels.norm_act.reference import DTYPES  # noqa: F401

ULPS = 4096  # a difference of values that may be near each other: 2^-11 of it, seen are up to 1,800


def norm_act_grad(
    grad: Tensor,
    x: Tensor,
    table: Tensor,
    out: Tensor | None = None,
    relu: bool = True,
    cap: float = math.inf,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of x, of its type, of weight and bias, float32 [C], and g itself where `out` is given.

    grad, x, out: maps [N,C,H,W] in channels-last, of one type; table float32 [6,C] (kernels/norm_act/passes.py). relu:
    without it, and without `out`, g is the gradient. group: processes that share the statistics; those of weight and
    bias are this process's share.
    """
    if not (x.is_cuda or INTERPRETED or passes.without_memory(x)):
        return reference(grad, x, table, out, relu, cap)
    parts, passed = passes.sums(grad, x, table, out, relu, cap)
    own = over_all = parts.sum(0)
    if group is not None:
        over_all = own.clone()
        dist.all_reduce(over_all, group=group)
    of_norm = own[1] * table[3], own[0]
    if out is None:
        return passes.gradient(grad, x, table, over_all, relu, cap), *of_norm
    return passes.gradient(passed, x, table, over_all, False, cap), *of_norm, passed


def reference(
    grad: Tensor, x: Tensor, table: Tensor, out: Tensor | None = None, relu: bool = True, cap: float = math.inf
) -> tuple[Tensor, ...]:
    """`norm_act_grad` in plain torch, in float64 up to the results; sums are this process's own."""
    count, mean, _, inverse, scale, shift = table.double()[:, :, None, None]
    away, g = x.double() - mean, grad.double()
    z = (away * scale + shift).to(x.dtype) if out is None else out
    if relu:
        g = torch.where((z <= 0) | (z >= cap), 0, g)
    plain, weighted = (value.sum((0, 2, 3), keepdim=True) for value in (g, g * away))
    found = (g - plain / count - away * inverse**2 * weighted / count) * scale
    sums = (weighted * inverse).flatten().float(), plain.flatten().float()
    return found.to(x.dtype), *sums, *(() if out is None else (g.to(x.dtype),))
