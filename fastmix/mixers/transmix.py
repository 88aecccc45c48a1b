"""TransMix: CutMix whose labels follow how much the class token attends to each of the two images."""

from __future__ import annotations

from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Attended
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
        seen = attention.value.unflatten(1, patches(model, batch.size))
        plan = plan_rows(Attended(seen, plan, self.ratio), plan.partner, batch.size)
        if self.variant == "openmixup":
            own = plan.own.mean()
            plan = plan.labelled(own, 1 - own)
        return logits, Targets.of(batch.labels, plan)
