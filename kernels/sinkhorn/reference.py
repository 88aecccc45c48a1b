"""Sinkhorn's iterations in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DTYPES = (torch.float32,)
FINISHES = ("rows", "columns")
MOST = 1024  # columns of the kernel, and rows too where finish is "columns"; beyond, the reference does it


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
