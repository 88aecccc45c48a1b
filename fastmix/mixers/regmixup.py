"""RegMixup: MixUp as a regulariser beside the loss of the clean images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import WEIGHT, within
from fastmix.mixers.mixup import MixUp
from fastmix.mixers.shown import Shown
from fastmix.targets import Targets


class RegMixup(MixUp):
    """CE(z(x_i), y_i) + eta * CE(z(lam x_i + (1 - lam) x_j), lam y_i + (1 - lam) y_j),    lam ~ Beta(alpha, alpha).

    CE is the criterion. alpha is large, so that lam is near 1/2: clean images teach the classes, mixed ones a high
    entropy between them.
    Pinto, Yang, Lim, Torr, Dokania, "RegMixup: Mixup as a Regularizer Can Surprisingly Improve Accuracy and Out
    Distribution Robustness", NeurIPS 2022.

    alpha  20, the authors' for CIFAR-10; for CIFAR-100 10

    Cost: two ordinary steps. As in the authors' code clean and mixed images go through the network in one pass, so that
    batch-norm's statistics are those of both together.
    Departs from the authors' code: the paper's sum of the two losses, where that code has the mean over both halves,
    which with eta = 1 is half of it (with SGD: the rates of a run here are half of theirs, the weight decay twice);
    partners by a cyclic shift instead of a random permutation; lam is rounded to 2**-16.
    variant openmixup: the random permutation. (OpenMixup does not have the method.)
    """

    terms = "clean", "mixed"

    def __init__(self, alpha: float = 20.0, eta: float = 1.0, granularity: str = "batch", variant: str = "paper"):
        super().__init__(alpha, granularity, variant)
        self.eta = within(self.name, "eta", eta, WEIGHT)

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        beside = "the clean images, each with its own label" + f"; the mixed count {self.eta:g} times" * (self.eta != 1)
        return replace(super().shown(model, batch, criterion), beside=beside)

    def loss(self, model: nn.Module, batch: Batch, plan: Plan, criterion: nn.Module) -> Tensor:
        clean, mixed = model(torch.cat([batch.mix(), batch.mix(plan)])).chunk(2)
        regulariser = self.term("mixed", self.eta * criterion(mixed, Targets.of(batch.labels, plan)))
        return self.term("clean", criterion(clean, Targets.of(batch.labels))) + regulariser
