"""A batch-norm, as the kernels are told of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.distributed as dist
from torch import Tensor


@dataclass
class Norm:
    """Weight and bias [C] of any float type, running mean and variance float32 [C], or None.

    training: statistics are the batch's, and the running ones, if there are any, move by `momentum` of the way, as
    torch moves them (the variance divides by one value less). Else they are used. group: processes that share
    statistics.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor | None
    var: Tensor | None
    training: bool = True
    momentum: float = 0.1
    eps: float = 1e-5
    group: dist.ProcessGroup | None = None

    def to(self, device) -> Norm:
        """On another device."""
        return replace(self, **{k: value.to(device) for k, value in vars(self).items() if isinstance(value, Tensor)})
