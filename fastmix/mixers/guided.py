"""What the methods have in common that look at the images or ask a model before they mix."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer
from fastmix.mixers.settled import placed


class GuidedMixer(InputMixer):
    """A method in three parts: draw() draws, on the host; guide() asks a model about the clean batch; put() turns what
    was drawn and the answer into a plan. The last two are the device's alone, so one CUDA graph holds a whole step.
    """

    def mixes(self, batch: Batch) -> bool:
        """Whether this batch is mixed at all: known on the host, before a model is asked."""
        return True

    def grid(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> tuple[int, int] | None:
        """Rows and columns of the guide's maps, where draw() needs them."""
        return None

    def draw(self, batch: Batch, grid: tuple[int, int] | None):
        """What the plan draws: a dataclass of tensors and choices (mixers/settled.py)."""
        raise NotImplementedError

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """What the plan follows from: saliency, features. Leaves the model as it is (fastmix/models/saliency.py)."""
        raise NotImplementedError

    def put(self, batch: Batch, guide: Tensor, drawn) -> Plan:
        """The plan, made on the device."""
        raise NotImplementedError

    def plan(self, batch: Batch, guide: Tensor) -> Plan:
        """The plan of a batch that is mixed."""
        return self.put(batch, guide, placed(self.draw(batch, tuple(guide.shape[-2:])), guide.device))

    def decide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Plan | None:
        drawn = placed(self.settle(model, batch, criterion), batch.images.device)
        return None if drawn is None else self.put(batch, self.guide(model, batch, criterion), drawn)

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module):
        return self.draw(batch, self.grid(model, batch, criterion)) if self.mixes(batch) else None

    def loss(self, model: nn.Module, batch: Batch, settled, criterion: nn.Module) -> Tensor:
        plan = None if settled is None else self.put(batch, self.guide(model, batch, criterion), settled)
        return super().loss(model, batch, plan, criterion)

    @property
    def changes_input_only(self) -> bool:
        return type(self).loss is GuidedMixer.loss


@dataclass
class Drawn:
    """The partner of each image, int32 [B], and a number, float64 [1] or [B], of all or of each."""

    partner: Tensor
    number: Tensor


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
