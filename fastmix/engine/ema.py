"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

from torch import nn

from fastmix.models.buffers import BufferCopy, follow


class Ema:
    """average = d * average + (1 - d) * weights after every step; buffers are copied.

    d is 0.9 * decay after the first step and grows linearly to decay over `ramp_steps`, as in the benchmark's recipes.
    `module` is an ordinary copy of the model in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float, ramp_steps: int = 0):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp_steps = decay, ramp_steps
        self.buffers = BufferCopy(self.module)

    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after `step` steps."""
        ramp = min(1.0, (step - 1) / self.ramp_steps) if self.ramp_steps else 1.0
        decay = self.decay * (0.9 + 0.1 * ramp)
        follow(list(self.module.parameters()), list(model.parameters()), 1 - decay)
        self.buffers.take(model)
