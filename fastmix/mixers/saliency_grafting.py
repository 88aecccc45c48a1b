"""Saliency Grafting: salient cells of an image, kept at random, on the partner; labels by the saliency shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Grafted
from fastmix.mixers.base import positive, whole
from fastmix.mixers.guided import GuidedMixer, pooled
from fastmix.models.saliency import feature_gradient
from fastmix.models.sites import place, sites


@dataclass
class Drawn:
    """The partner of each image, int32 [B], p and a uniform number a cell, float32 [B] and [B,n]."""

    partner: Tensor
    p: Tensor
    uniform: Tensor


class SaliencyGrafting(GuidedMixer):
    """out = x_i in the kept cells M of a grid, x_j in the others; label weight of y_i = I_i / (I_i + I_j), where
    I_i = |S_i M| / |S_i| and I_j = |S_j (1 - M)| / |S_j| are the shares of their saliency that the two images show.

    S is the sum over the channels of |d CE / d feature| at a stage of the model, in eval mode, averaged over each cell.
    Candidates are the cells of at least average softmax(S / (max S * temperature)); each is kept with probability p,
    p ~ Beta(alpha, alpha), and one at least of each image. An image without saliency counts as equally salient
    everywhere.
    Park, Yang, Shin, Hwang, Yang, "Saliency Grafting: Innocuous Attribution-Guided Mixup with Calibrated Label Mixing",
    AAAI 2022.

    site  where S is taken, by its name in fastmix/models/sites.py; none: "stage3", of a ViT the middle block
    grid  cells a side; none: as many as the site's map has places, or half, or a quarter, so that there are at most 13
          (7 behind stage 3 of a ResNet at 224 pixels, 8 at 64 pixels behind the stem of CIFAR)

    Cost: a forward pass, and a backward pass from the loss to the site: a quarter to a third of a full one behind
    stage 3 of a ResNet. Then one image is read and one written.
    Departs from the authors' code: there is none in public, so this is a reconstruction. Known of the method: saliency
    is scaled and thresholded, regions are drawn from a Bernoulli law, labels follow the saliency of what is shown. Our
    reading: the gradient at a feature, the softmax and its threshold, temperature 0.2, the norms of the label.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        site: str | None = None,
        grid: int | None = None,
        temperature: float = 0.2,
        granularity: str = "batch",
    ):
        super().__init__(granularity)
        self.alpha = positive(self.name, "alpha", alpha)
        self.site = site
        self.grids: dict[tuple[int, int], tuple[int, int]] = {}  # of maps, by that of images
        self.cells = None if grid is None else (whole(self.name, "grid", grid, most=256),) * 2
        self.temperature = positive(self.name, "temperature", temperature)

    def prepare(self, model: nn.Module) -> None:
        try:
            place(model, self.site or middle(model))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """The saliency of each cell, float32 [B,gh,gw]."""
        site = self.site or middle(model)

        def loss(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits.float(), batch.labels, reduction="sum")

        _, gradient = feature_gradient(model, site, batch.mix(), loss)
        return pooled(gradient.float().abs().sum(1), self.cells)

    def grid(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> tuple[int, int]:
        """Of images of a size the model says it, of which it is asked once."""
        if self.cells is None and batch.size not in self.grids:
            one = replace(batch, images=batch.images[:1], labels=batch.labels[:1], erase=None, rng=None)
            self.grids[batch.size] = tuple(self.guide(model, one, criterion).shape[1:])
        return self.cells or self.grids[batch.size]

    def draw(self, batch: Batch, grid: tuple[int, int]) -> Drawn:
        n, rng, partner = len(batch), batch.rng, self.pair(batch)
        p = np.resize(rng.beta(self.alpha, self.alpha, self.draws(batch)), n).astype(np.float32)
        uniform = rng.random((n, grid[0] * grid[1]), np.float32)
        return Drawn(*map(torch.from_numpy, (partner, p, uniform)))

    def put(self, batch: Batch, saliency: Tensor, drawn: Drawn) -> Plan:
        rule = Grafted(saliency, drawn.p, drawn.uniform, self.temperature)
        return plan_rows(rule, drawn.partner, batch.size)


def middle(model: nn.Module) -> str:
    """The default site: the third of four stages, of a ViT the middle block."""
    names = sites(model)
    return "stage3" if "stage3" in names else f"block{sum(name.startswith('block') for name in names) // 2}"
