"""MergeMix: the patches of an image that its class token attends to most, the partner's patches elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Top
from fastmix.mixers.base import positive
from fastmix.mixers.guided import Drawn, GuidedMixer
from fastmix.models.clean_pass import look, need_class_token, patches


class MergeMix(GuidedMixer):
    """out = x_i in the k of n patches that the class token attends to most in the clean x_i, x_j in the others; label
    weight of y_i = k / n, k = floor(n lam), lam ~ Beta(alpha, alpha).

    Attention of the last block, mean over the heads, eval mode.
    Jin, Li, Jian, Yu, Wang, "MergeMix: A Unified Augmentation Paradigm for Visual and Multi-Modal Understanding",
    arXiv:2510.23479, 2025.

    Cost: a forward pass of the model, a third of a training step. Then one image is read and one written. For models
    with a class token: ViT, DeiT, PVT.
    Departs from the authors' code, which is OpenMixup's: nothing merges tokens (theirs does, in the clean pass, and
    gives each patch the score of the token that it went into, so regions are coarser); the row of the class token,
    where theirs reads a column: how much the tokens attend to it, or to patch 0; the clean pass has no graph; no second
    loss of a mixup of 0.8; label weights count sample by sample instead of as their mean over the batch; lam is not
    drawn again around the mask's; partners by a cyclic shift instead of a random permutation.
    """

    def __init__(self, alpha: float = 1.0, granularity: str = "batch"):
        super().__init__(granularity)
        self.alpha = positive(self.name, "alpha", alpha)

    def prepare(self, model: nn.Module) -> None:
        need_class_token(self.name, model)

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        """The class token's attention, float32 [B,h,w]."""
        attention, _ = look(model, batch.mix())
        return attention.value.unflatten(1, patches(model, batch.size))

    def draw(self, batch: Batch, grid: tuple[int, int] | None) -> Drawn:
        """With lam."""
        partner, lam = self.pair(batch), batch.rng.beta(self.alpha, self.alpha, self.draws(batch))
        return Drawn(torch.from_numpy(partner), torch.from_numpy(lam))

    def put(self, batch: Batch, attention: Tensor, drawn: Drawn) -> Plan:
        patches = attention.shape[1] * attention.shape[2]
        return plan_rows(Top(attention, drawn.number, patches), drawn.partner, batch.size)
