"""What the methods have in common that look at the images or ask a model before they mix."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer


class GuidedMixer(InputMixer):
    """A method in two parts: guide() asks a model about the clean batch, plan() turns the answer into a plan.

    All stays on the device: what plan() draws from batch.rng goes there, nothing comes back.
    """

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor | tuple[Tensor, ...]:
        """What the plan follows from: saliency, features. Leaves the model as it is (fastmix/models/saliency.py)."""
        raise NotImplementedError

    def plan(self, batch: Batch, guide: Tensor | tuple[Tensor, ...]) -> Plan:
        raise NotImplementedError

    def decide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Plan:
        return self.plan(batch, batch.now(self, lambda still: self.guide(model, still, criterion)))


def pooled(values: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """Means of a map [B,h,w] over the cells of a grid, [B,gh,gw].

    None: a cell for each place of a map whose sides are below 14, else half as many along a side, until that holds.
    """
    if grid is None:
        grid = tuple(map(_halved, values.shape[1:]))
    return values if values.shape[1:] == grid else F.adaptive_avg_pool2d(values, grid)


def _halved(side: int) -> int:
    while side >= 14:
        side = -(-side // 2)
    return side
