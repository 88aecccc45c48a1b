"""What a copy of a model takes from it, its buffers and averages of its parameters: a launch for each dtype, whatever
their number. Of several dtypes in one list torch would make a launch a tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def by_dtype(tensors: list[Tensor]) -> list[list[int]]:
    """Which of the tensors are of one dtype, for each of the dtypes."""
    dtypes = [tensor.dtype for tensor in tensors]
    return [[k for k, dtype in enumerate(dtypes) if dtype == one] for one in dict.fromkeys(dtypes)]


@torch.no_grad()
def follow(averages: list[Tensor], values: list[Tensor], weight: float) -> None:
    """averages += weight * (values - averages), in place."""
    for group in by_dtype(averages):
        torch._foreach_lerp_([averages[k] for k in group], [values[k] for k in group], weight)


class BufferCopy:
    """Copies buffers into those of `module`: batch-norm's means and variances are fp32, its counts int64."""

    def __init__(self, module: nn.Module):
        self.module, self.groups = module, by_dtype(list(module.buffers()))

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Those of a model of the same architecture."""
        own, theirs = list(self.module.buffers()), list(model.buffers())
        for group in self.groups:
            torch._foreach_copy_([own[k] for k in group], [theirs[k] for k in group])
