"""TransMix: CutMix whose labels follow how much the class token attends to each of the two images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import SHARE, within
from fastmix.mixers.cutmix import CutMix
from fastmix.mixers.judged import JudgedMixer
from fastmix.models.clean_pass import need_class_token, patches
from fastmix.models.sites import class_attention, name_of
from fastmix.targets import Targets


class TransMix(JudgedMixer, CutMix):
    """out = x_j inside CutMix's box, x_i outside; label weight of y_i = r * area + (1 - r) * attention, where area is
    that outside the box and attention = sum of a outside the box / sum of a.

    a is how much the class token attends to each patch of the mixed image in the last block: the mean over the heads,
    before any dropout, without a gradient. A patch lies in the box if its first pixel does, so a box between two such
    pixels has no patch, and attention 1 for y_i. Each sample has its own weight, although the box is the batch's.
    Chen, Sun, He, Torr, Yuille, Bai, "TransMix: Attend to Mix for Vision Transformers", CVPR 2022.

    alpha  of CutMix's box
    ratio  r: 0.5 as published; 1 is CutMix

    Cost: that of CutMix. Queries and keys of the class token's row are read while attention stays fused, which is one
    product [heads, d] x [d, N] a sample. For models with a class token: ViT, DeiT, PVT (its last stage's map). The
    paper's Swin-T, CA-Swin, is another network, with a class token in its last block: Swin is refused.
    Departs from the authors' code: partners by a cyclic shift instead of the batch in reverse order. They draw mixup
    0.8 in other batches: `Choice({MixUp(0.8): 0.2, TransMix(): 0.8})`. (Their DeiT-S configuration misspells that
    probability, and ran with 1/2.)
    variant openmixup: partners by a random permutation; the batch's mean weight counts for all samples.
    """

    redraws = 0

    def __init__(self, alpha: float = 1.0, ratio: float = 0.5, granularity: str = "batch", variant: str = "paper"):
        super().__init__(alpha, granularity, variant)
        self.ratio = within(self.name, "ratio", ratio, SHARE)

    def prepare(self, model: nn.Module) -> None:
        try:
            need_class_token(self.name, model)
        except ValueError as error:
            hint = " (the paper's Swin, CA-Swin, is another network)" if name_of(model).startswith("swin") else ""
            raise ValueError(f"{error}{hint}") from None

    def judged(self, model: nn.Module, batch: Batch, plan: Plan, criterion: nn.Module) -> tuple[Tensor, Targets]:
        with class_attention(model) as attention:
            logits = model(batch.mix(plan))
        kept = outside(plan, patches(model, batch.size), batch.size)
        own = self.ratio * plan.own + (1 - self.ratio) * attended(attention.value, kept, plan.own)
        own = own.mean() if self.variant == "openmixup" else own
        return logits, Targets.of(batch.labels, plan.labelled(own, 1 - own))


def outside(plan: Plan, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Which patches begin outside the box of a plan of boxes, bool [B,h*w]; grid = (h, w), size = (H, W)."""
    y0, y1, x0, x1 = plan.table[:, 4:8, None].unbind(1)
    y, x = (torch.arange(n, device=y0.device) * length // n for n, length in zip(grid, size, strict=True))
    inside = ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None]
    return ~inside.flatten(1)


def attended(attention: Tensor, kept: Tensor, area: Tensor) -> Tensor:
    """The share of the attention [B,N] to patches that goes to the kept ones, [B,N]; `area` where there is none. [B]"""
    whole = attention.sum(1)
    return torch.where(whole > 0, (attention * kept).sum(1) / whole, area)
