"""The buffers of a model, copied into those of its copy: a launch for each dtype, whatever their number."""

from __future__ import annotations

import torch
from torch import nn


class BufferCopy:
    """Copies buffers into those of `module`. torch fuses lists of one dtype; of batch-norm's mean, variance (fp32) and
    count (int64) in one list it would make a launch a buffer."""

    def __init__(self, module: nn.Module):
        dtypes = [buffer.dtype for buffer in module.buffers()]
        self.module = module
        self.groups = [[k for k, dtype in enumerate(dtypes) if dtype == one] for one in dict.fromkeys(dtypes)]

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Those of a model of the same architecture."""
        own, theirs = list(self.module.buffers()), list(model.buffers())
        for group in self.groups:
            torch._foreach_copy_([own[k] for k in group], [theirs[k] for k in group])
