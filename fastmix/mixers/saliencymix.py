"""SaliencyMix: a rectangle around the partner's most salient pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.finegrained import finegrained
from fastmix.kernels.plan import Plan, box_around
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Around
from fastmix.mixers.base import InputMixer, positive
from fastmix.mixers.settled import placed


@dataclass
class Drawn:
    """The partner of each image, int32 [B]; height and width of a box before it is clipped, int64 [2,1] or [2,B]."""

    partner: Tensor
    sides: Tensor


class SaliencyMix(InputMixer):
    """out = x_j inside a box, x_i outside; label weight of y_i = 1 - box area / image area, after clipping.

    The box is CutMix's, sides H sqrt(1 - lam) and W sqrt(1 - lam) with lam ~ Beta(alpha, alpha), but around the most
    salient pixel of the partner x_j, and shows what x_j has there. granularity batch draws one lam; boxes still differ.
    Uddin, Monira, Shin, Chung, Bae, "SaliencyMix: A Saliency Guided Data Augmentation Strategy for Better
    Regularization", ICLR 2021. Saliency: fine-grained (kernels/finegrained), on at most 64 x 64 cells of the
    uint8 image before erasing, so that mean and std do not matter. A flat image is most salient in its middle.

    Cost: a pass that reads the batch once; then one image is read and one written. Nothing returns to the host.
    Departs from the authors' code: saliency of each sample's own partner (theirs: of one image a batch, and one box for
    all); of pixels (theirs: of the bytes of normalised floats, which have nothing to do with the content); in cells
    instead of pixels; partners by a cyclic shift.
    variant openmixup: a random permutation and CutMix boxes, one place a batch, whose law is that of the place which
    that mistaken map has its maximum at: the column uniform; the row, first of many equal maxima, near the top. Row / H
    ~ Beta(2.5 m, 2.5 (1 - m)) with mean m = 2 / sqrt(H), fitted on crops of photographs of 32 to 224 pixels, where it
    gives the boxes' mean heights to 4 %: near the law, not the law itself. The mean share of the partner at 224 pixels
    is 0.253 here; there it was 0.246 of one set of photographs and 0.254 of another. It is smaller than in CutMix, most
    so in large images.
    """

    def __init__(self, alpha: float = 1.0, granularity: str = "batch", variant: str = "paper"):
        super().__init__(granularity, variant)
        self.alpha = positive(self.name, "alpha", alpha)

    def draw(self, batch: Batch) -> Drawn | Plan:
        """What the plan draws, or, where it does not look at the images, the plan."""
        (h, w), rng = batch.size, batch.rng
        ratio = np.sqrt(1 - rng.beta(self.alpha, self.alpha, self.draws(batch)))
        sides, partner = np.stack([h * ratio, w * ratio]).astype(np.int64), self.pair(batch)
        if self.variant == "openmixup":
            mean = min(2 / np.sqrt(h), 0.5)
            row = rng.beta(2.5 * mean, 2.5 * (1 - mean), len(ratio))
            centre = np.minimum(h * row, h - 1).astype(np.int64), rng.integers(0, w, len(ratio))
            return Plan.box(partner, *box_around(centre, sides, batch.size), batch.size)
        return Drawn(torch.from_numpy(partner), torch.from_numpy(sides))

    def put(self, batch: Batch, drawn: Drawn | Plan) -> Plan:
        """The plan, made where the images are."""
        if isinstance(drawn, Plan):
            return drawn
        return plan_rows(Around(finegrained(batch.pixels), drawn.sides), drawn.partner, batch.size)

    def plan(self, batch: Batch) -> Plan:
        return self.put(batch, placed(self.draw(batch), batch.images.device))

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Drawn | Plan:
        return self.draw(batch)

    def loss(self, model: nn.Module, batch: Batch, drawn: Drawn | Plan, criterion: nn.Module) -> Tensor:
        return super().loss(model, batch, self.put(batch, drawn), criterion)

    @property
    def changes_input_only(self) -> bool:
        return type(self).loss is SaliencyMix.loss
