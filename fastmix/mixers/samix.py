"""SAMix: AutoMix with a block that compares both images with both, and masks that tend to zero and one."""

from __future__ import annotations

from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.mixers.automix import AutoMix
from fastmix.mixers.base import MOST, within
from fastmix.mixers.mixblock import SAMixBlock
from fastmix.ranges import Range


class SAMix(AutoMix):
    """AutoMix with the block mixblock.SAMixBlock, bilinear masks, and 2 w(t) Var(S') taken off the loss, the variance
    over all pixels of the batch: masks that are 0 or 1 are rewarded. The loss may fall below zero by w(t) / 2.

    Li, Liu, Wang, Wu, Liu, Li, "Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup",
    2021 (arXiv 2111.15454).

    k        how lam enters the block (mixblock.rescaled): -1 as it is; 0.25 for ResNeXt-50 on Tiny-ImageNet
    dropout  of the block's values: 0.1 for ImageNet and transformers, 0 for CIFAR and Tiny-ImageNet
    The others are those of AutoMix.

    Cost: that of AutoMix; the block counts five projections C -> C/2.
    Departs from the authors' code (OpenMixup): as AutoMix. The eta-balanced loss of the paper is not there, as in every
    supervised setting of theirs: their weights of negative labels multiply zeros.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        k: float = -1.0,
        dropout: float = 0.1,
        lam_margin: float = 0.08,
        mode: str = "bilinear",
        mask_weight: float = 0.1,
        mask_schedule: str = "cosine",
        mask_adjust: float = 0.0,
        block_prob: float = 1.0,
        site: str | None = None,
        momentum: tuple[float, float] = (0.999, 0.99999),
        momentum_start: float = 0.1,
        early_stop: bool = True,
        block: dict | None = None,
    ):
        masks = (lam_margin, mode, mask_weight, mask_schedule, mask_adjust)
        super().__init__(alpha, False, *masks, block_prob, site, momentum, momentum_start, early_stop, block)
        self.k = within(self.name, "k", k, Range(-MOST, MOST))  # below 0: lambda as it is
        self.dropout = within(self.name, "dropout", dropout, Range(0, 1, below=True))

    def mix_block(self, channels: int) -> nn.Module:
        return SAMixBlock(channels, self.k, self.dropout)

    def mask_loss(self, area: Tensor, square: Tensor, batch: Batch, lam: Tensor, weight: Tensor) -> Tensor:
        pixels = len(batch) * batch.size[0] * batch.size[1]
        variance = square.sum() / pixels - (area.sum() / pixels).square()
        return super().mask_loss(area, square, batch, lam, weight) - 2 * weight * variance
