"""Batch-norm, a shortcut's sum and ReLU in plain torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.kernels.norm_act.norm import Norm

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def reference(
    x: Tensor, norm: Norm, cap: float = math.inf, shortcut: Tensor | None = None, second: Norm | None = None
) -> Tensor:
    """`norm_act` in plain torch, in float64 up to the result; statistics are this process's own."""
    z = _normed(x, norm)
    if shortcut is not None:
        z = z + (shortcut.double() if second is None else _normed(shortcut, second))
    return z.clamp(0, cap).to(x.dtype)


def _normed(x: Tensor, norm: Norm) -> Tensor:
    running = [None if value is None else value.double() for value in (norm.mean, norm.var)]
    weights = norm.weight.double(), norm.bias.double()
    z = F.batch_norm(x.double(), *running, *weights, norm.training, norm.momentum, norm.eps)
    for value, moved in zip((norm.mean, norm.var), running, strict=True):
        if value is not None:
            value.copy_(moved)
    return z


def table(x: Tensor, norm: Norm) -> Tensor:
    """The table of a batch-norm (kernels/norm_act/passes.py) for a map, in float64."""
    weight, bias, values = norm.weight.double(), norm.bias.double(), x.double().transpose(0, 1).flatten(1)
    var, mean = torch.var_mean(values, 1, correction=0)
    count, squares = torch.full_like(mean, values.shape[1]), var * values.shape[1]
    if not norm.training:
        mean, var = norm.mean.double(), norm.var.double()
        count, squares = torch.full_like(mean, math.inf), torch.zeros_like(mean)
    inverse = 1 / (var + norm.eps).sqrt()
    return torch.stack([count, mean, squares, inverse, inverse * weight, bias])
