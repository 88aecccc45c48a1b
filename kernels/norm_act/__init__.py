"""Batch-norm, the sum of a shortcut and ReLU as one operation, in channels-last, with its gradient.

    y = clamp(n(x) + s, 0, cap),    n(x) = (x - mean) / sqrt(var + eps) weight + bias

s is nothing, a map, or a map that has a batch-norm of its own; cap is infinite, or ReLU6's. Mean and variance are those
of the batch over all pixels (Ioffe, Szegedy 2015, arXiv:1502.03167), of those of a group of processes, or the running
ones. Statistics, sums and all that lies between the maps are float32; torch rounds a bf16 map after each operation,
which is the only difference. The order of a sum depends on shapes alone, so results are the same every time.

Passes over a map, reading or writing it once, beside those of torch's three operations:

    s                   forward   apart   backward   apart
    nothing                3        5         5        8
    a map                  4        8         7        8
    a map with a norm      5       11        12       13

Forward, x and a map with a norm are read for their statistics, and once more with what is added, to write y. Backward,
the gradient and x are read for two sums and once more to write that of x; what ReLU let through is seen from x. With an
s it is seen from y, and written, since it is the gradient of s. Nothing is kept but x, y and a map with a norm, and the
next layer keeps y, too.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.norm_act import passes
from fastmix.kernels.norm_act.cases import CASES
from fastmix.kernels.norm_act.gpu import AOT
from fastmix.kernels.norm_act.gradient import norm_act_grad
from fastmix.kernels.norm_act.norm import Norm
from fastmix.kernels.norm_act.reference import DTYPES, reference

__all__ = ["AOT", "CASES", "DTYPES", "ULPS", "Norm", "norm_act", "reference"]

ULPS = 16  # sums in another order, and roundings to float32


def norm_act(
    x: Tensor, norm: Norm, cap: float = math.inf, shortcut: Tensor | None = None, second: Norm | None = None
) -> Tensor:
    """ReLU up to `cap` of x normed, plus the shortcut, which `second` norms where it is given: a map as x.

    x and shortcut [N,C,H,W] in channels-last, of the same type: float32, float16 or bfloat16; at least two values a
    channel where statistics are the batch's. Differentiable once, with respect to maps, weights and biases.
    Deterministic, and without a wait for the device, but for other processes. Raises ValueError for other arguments.
    """
    _check(x, norm, shortcut, second)
    if not (x.is_cuda or INTERPRETED or passes.without_memory(x)):
        return reference(x, norm, cap, shortcut, second)
    further = (None, None) if second is None else (second.weight, second.bias)
    return _NormAct.apply(x, norm.weight, norm.bias, shortcut, *further, norm, second, cap)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, shortcut, weight2, bias2, norm, second, cap):
        table = _table(x, norm)
        by = None if second is None else _table(shortcut, second)
        out = passes.apply(x, table, shortcut, by, cap)
        ctx.norm, ctx.second, ctx.cap = norm, second, cap
        added = [] if shortcut is None else [out] if second is None else [out, shortcut, by]
        ctx.save_for_backward(x, table, *added)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, table, *rest = ctx.saved_tensors
        grad, norm, second = grad.contiguous(memory_format=torch.channels_last), ctx.norm, ctx.second
        found = norm_act_grad(grad, x, table, rest[0] if rest else None, True, ctx.cap, _shared(norm))
        of_x, of_norm, passed = found[0], _typed(found[1:3], norm), found[3] if rest else None
        if second is None:
            return of_x, *of_norm, passed, *[None] * 5
        of_shortcut, *of_second = norm_act_grad(passed, *rest[1:], relu=False, group=_shared(second))
        return of_x, *of_norm, of_shortcut, *_typed(of_second, second), *[None] * 3


def _typed(found: tuple[Tensor, Tensor], norm: Norm) -> tuple[Tensor, Tensor]:
    return found[0].to(norm.weight.dtype), found[1].to(norm.bias.dtype)


def _shared(norm: Norm) -> dist.ProcessGroup | None:
    """The processes whose values the norm's statistics are of, besides this one's."""
    return norm.group if norm.training else None


def _table(x: Tensor, norm: Norm) -> Tensor:
    """The table of a batch-norm for this map (kernels/norm_act/passes.py)."""
    settled = norm.weight, norm.bias, norm.mean, norm.var, norm.momentum, norm.eps
    if not norm.training:
        return passes.settle(None, *settled)
    parts = passes.moments(x)
    if _shared(norm) is not None:
        own = passes.settle(parts, norm.weight, norm.bias, None, None, 0.0, norm.eps)[:3]
        parts = own.new_empty((norm.group.size(), *own.shape))
        dist.all_gather_into_tensor(parts.flatten(0, 1), own, norm.group)
    return passes.settle(parts, *settled)


def _check(x: Tensor, norm: Norm, shortcut: Tensor | None, second: Norm | None) -> None:
    for name, value in {"x": x, "shortcut": x if shortcut is None else shortcut}.items():
        if value.dtype not in DTYPES or value.ndim != 4 or (value.shape, value.dtype) != (x.shape, x.dtype):
            kinds = "/".join(str(d).removeprefix("torch.") for d in DTYPES)
            wanted = f"{kinds} [N,C,H,W]" if name == "x" else f"{x.dtype} {list(x.shape)}, as x,"
            raise ValueError(f"norm_act: expected {name} of {wanted}, not {value.dtype} {list(value.shape)}")
        if not value.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(f"norm_act: {name} is not channels-last: give it in memory_format=torch.channels_last")
    for one in filter(None, (norm, second)):
        if one.weight.shape != x.shape[1:2] or one.bias.shape != x.shape[1:2]:
            raise ValueError(f"norm_act: a weight of {list(one.weight.shape)} does not fit {x.shape[1]} channels")
        if not one.training and (one.mean is None or one.var is None):
            raise ValueError("norm_act: there are no running statistics to norm by: set training=True")
        if one.training and one.group is None and x.numel() == x.shape[1]:
            raise ValueError("norm_act: a single value a channel has no variance: give more images or pixels")
