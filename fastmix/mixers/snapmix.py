"""SnapMix: a box of the partner stretched into a box of the image; each counts by how much of its meaning is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Stretched
from fastmix.mixers.base import positive
from fastmix.mixers.cutmix import clipped_box
from fastmix.mixers.guided import GuidedMixer
from fastmix.models.saliency import evaluated
from fastmix.models.sites import classifier, last_map

Box = tuple[Tensor, Tensor, Tensor, Tensor]  # y0, y1, x0, x1, half open, int64, of one or all samples


@dataclass
class Drawn:
    """The partner of each image, int32 [B]; the box that is filled and the one that is taken, int64 [2,4,n]; which
    images are mixed, bool [n]; n = B or 1.
    """

    partner: Tensor
    boxes: Tensor
    mixed: Tensor


class SnapMix(GuidedMixer):
    """out = a box of x_j, resized, inside a box of x_i; x_i outside. With the percent maps S, which sum to one,

        weight of y_i = 1 - sum of S_i in its box,    weight of y_j = sum of S_j in the box taken from it,

    which need not sum to one. S is the class activation map of the true class, sum_c w_yc ReLU(f_c) of the last feature
    map f and the classifier w, resized to the image (bilinear), less its minimum, divided by its sum. Both boxes are
    CutMix's, of two lambdas ~ Beta(alpha, alpha). Where one of them is empty the image stays as it is. A map that is
    the same everywhere, or not finite, counts by area.
    Huang, Wang, Tao, "SnapMix: Semantically Proportional Mixing for Augmenting Fine-grained Data", AAAI 2021.

    mix_prob  of mixing at all; by batch an unmixed one costs no pass of the model
    model     one that classifies the mean of its last map; a ValueError names one that does not (DeiT, PVT)

    Cost: a forward pass of the model, a third of a training step. Then one image is read (four pixels inside the box)
    and one written. Box sums are taken from the map of the features, 7 x 7, and never from a resized one.
    Departs from the authors' code: the pass for the maps runs in eval mode and leaves the statistics alone; partners by
    a cyclic shift; a pair of one class counts by the two weights once, where it counts by their sum twice; where a map
    is not a number the partner's label counts by the box taken from it, there by the box that it fills.
    variant openmixup: partners by a random permutation; twice the sum for pairs of one class. (That code itself stops
    with an error: it takes the features for a tensor, and they are a tuple.)
    """

    takes_soft = False

    def __init__(self, alpha: float = 5.0, mix_prob: float = 1.0, granularity: str = "batch", variant: str = "paper"):
        super().__init__(granularity, variant)
        self.alpha = positive(self.name, "alpha", alpha)
        self.mix_prob = positive(self.name, "mix_prob", mix_prob, most=1)

    def mixes(self, batch: Batch) -> bool:
        return self.granularity == "sample" or batch.rng.random() < self.mix_prob

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """The class activation map of each image's label, float32 [B,h,w], without the bias, which cancels."""
        weight, _ = classifier(model)
        with evaluated(model), torch.no_grad():
            features = last_map(model, batch.mix())
            with torch.autocast(features.device.type, enabled=False):
                return torch.einsum("bchw,bc->bhw", features.float().relu(), weight[batch.labels].float())

    def draw(self, batch: Batch, grid: tuple[int, int] | None) -> Drawn:
        n = self.draws(batch)
        box, source = self.box(batch, n), self.box(batch, n)
        mixed = (_area(box) > 0) & (_area(source) > 0)
        if self.granularity == "sample":
            mixed &= batch.rng.random(n) < self.mix_prob
        boxes = np.stack([np.stack(box), np.stack(source)]).astype(np.int64) * mixed
        return Drawn(torch.from_numpy(self.pair(batch)), torch.from_numpy(boxes), torch.from_numpy(mixed))

    def put(self, batch: Batch, activation: Tensor, drawn: Drawn) -> Plan:
        alike = None
        if self.variant == "openmixup":
            alike = (batch.labels == batch.labels[drawn.partner.long()]) & drawn.mixed
        return plan_rows(Stretched(activation, drawn.boxes, alike), drawn.partner, batch.size)

    def box(self, batch: Batch, n: int) -> tuple[np.ndarray, ...]:
        """Boxes by CutMix's rule."""
        ratio = np.sqrt(1 - batch.rng.beta(self.alpha, self.alpha, n))
        return clipped_box(batch.rng, *((length * ratio).astype(int) for length in batch.size), batch.size)


def _area(box):
    y0, y1, x0, x1 = box
    return (y1 - y0) * (x1 - x0)
