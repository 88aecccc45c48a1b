"""What the methods have in common that look at the images or ask a model before they mix."""

from __future__ import annotations

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
        return self.plan(batch, self.guide(model, batch, criterion))
