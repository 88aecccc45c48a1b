"""TL-Align: CutMix whose labels are mixed, block by block, as attention mixes the tokens that they belong to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows.reference import outside
from fastmix.mixers.base import positive, whole
from fastmix.mixers.cutmix import clipped_box
from fastmix.mixers.judged import JudgedMixer
from fastmix.models.clean_pass import need_class_token, patches
from fastmix.models.sites import Attention, attention_inputs, name_of, sites, stride
from fastmix.targets import Targets


class TLAlign(JudgedMixer):
    """out = x_j inside a box of whole patches, x_i outside. Each patch has the label of its image, the class token both
    by area; in each block of the transformer the labels follow the tokens, and the class token's last label counts:

        Y <- (Y + A Y) / 2,    A = the attention between the tokens, mean over the heads, before any dropout.

    A has no gradient. Its rows sum to one, so a token's label stays a mixture of the two, and one number s, the
    partner's share, says it: s <- (s + A s) / 2, and label weight of y_i = 1 - s of the class token. That equals dense
    labels [B, N, classes] with any smoothing, which commutes with it.
    The box is CutMix's with lam ~ Beta(alpha, alpha), drawn and clipped on the grid of patches.
    Xiao, Zheng, Zhu, Zhou, Lu, "Token-Label Alignment for Vision Transformers", ICCV 2023.

    patch  pixels a side of a patch: the model's

    Cost: an ordinary step and, in each block, a fused attention without gradients on 8 columns of values: 3 % more
    products than a step of DeiT-T has, 1.5 % of DeiT-S. In half precision s is rounded as the tokens are, to 2**-9.
    For ViT and DeiT; in PVT patches are merged between stages, Swin has no class token.
    Departs from the authors' code: numbers instead of dense labels; partners by a cyclic shift instead of the batch in
    reverse order. They train without mixup, with repeated augmentation. (OpenMixup's method of this name aligns
    nothing.)
    """

    def __init__(self, alpha: float = 1.0, patch: int = 16, granularity: str = "batch"):
        super().__init__(granularity)
        self.alpha = positive(self.name, "alpha", alpha)
        self.patch = whole(self.name, "patch", patch, most=4096)

    def prepare(self, model: nn.Module) -> None:
        need_class_token(self.name, model)
        if hasattr(model, "feature_info") and "block0" not in sites(model):
            raise ValueError(
                f"{self.name}: {name_of(model)} merges patches between its stages, where no label can follow; of the "
                "benchmark's backbones DeiT-T, DeiT-S and DeiT-B keep them"
            )
        own = stride(model)
        if own != self.patch:
            raise ValueError(f"{self.name}: patch is {self.patch}; those of {name_of(model)} are of {own} pixels")

    def plan(self, batch: Batch) -> Plan:
        grid = tuple(length // self.patch for length in batch.size)
        ratio = np.sqrt(1 - batch.rng.beta(self.alpha, self.alpha, self.draws(batch)))
        box = clipped_box(batch.rng, *((cells * ratio).astype(int) for cells in grid), grid)
        return Plan.box(self.pair(batch), *(edge * self.patch for edge in box), batch.size)

    def judged(self, model: nn.Module, batch: Batch, plan: Plan, criterion: nn.Module) -> tuple[Tensor, Targets]:
        with attention_inputs(model) as blocks:
            logits = model(batch.mix(plan))
        other = aligned(plan.other, ~outside(plan, patches(model, batch.size), batch.size), blocks)
        return logits, Targets.of(batch.labels, plan.labelled(1 - other, other))


def aligned(area: Tensor, pasted: Tensor, blocks: list[Attention]) -> Tensor:
    """The partner's share in the class token's last label: `area` [B] is that in its first one, pasted [B,h*w] says
    which patches are the partner's. float32 [B]
    """
    share = torch.cat([area[:, None].expand(-1, blocks[0].prefix), pasted.float()], 1)
    for block in blocks:
        share = (share + block.applied(share)) / 2
    return share[:, 0]
