"""What the methods have in common whose labels follow from how the model sees the mixture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.mixers.base import InputMixer
from fastmix.mixers.settled import placed
from fastmix.mixers.shown import Shown
from fastmix.models.saliency import evaluated
from fastmix.targets import Targets


class JudgedMixer(InputMixer):
    """A method that mixes by a plan, and weighs the labels by what the model's pass over the mixed images says."""

    def judged(self, model: nn.Module, batch: Batch, settled, criterion: nn.Module) -> tuple[Tensor, Targets]:
        """The logits of the batch mixed by what settle() gave, and its targets, whose plan is that of the pixels."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch, settled, criterion: nn.Module) -> Tensor:
        return criterion(*self.judged(model, batch, settled, criterion))

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        settled = placed(self.settle(model, batch, criterion), batch.images.device)
        with evaluated(model), torch.no_grad():
            _, targets = self.judged(model, batch, settled, criterion)
        return Shown(batch.mix(targets.plan), targets, targets.plan)
