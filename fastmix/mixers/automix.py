"""AutoMix: a small attention block, taught by a momentum copy of the network, draws the mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.mix_logits import mix_logits
from fastmix.kernels.plan import Plan
from fastmix.kernels.upsample import MODES, upsample
from fastmix.mixers.base import SHARE, WEIGHT, check, positive, shuffled, within
from fastmix.mixers.mixblock import AutoMixBlock, Projected
from fastmix.mixers.momentum import MomentumMixer, targets
from fastmix.mixers.settled import placed
from fastmix.mixers.shown import Shown
from fastmix.targets import Targets

SCHEDULES = ("cosine", "constant")
MARGIN = 0.1  # of the mask's mean around lambda, without a loss


@dataclass
class Drawn:
    """What a step draws.

    partners  int32 [2,B] for k, for q
    lams      float64 [2], for k, for q
    weight    float64 scalar: w(t)
    plain     ordinary mixup, where q is given that
    adjusted, taught  whether S of x_mix is rescaled, and whether CE(k(x_mix')) counts
    """

    partners: Tensor
    lams: Tensor
    weight: Tensor
    plain: Plan | None
    adjusted: bool = False
    taught: bool = True


class AutoMix(MomentumMixer):
    """out = (1 - S) x_i + S x_j, S = sigmoid(upsample(g(k(x_i), k(x_j), lam))), lam ~ Beta(alpha, alpha); label
    lam y_i + (1 - lam) y_j, with the lam that was drawn, whatever the mean of S.

    q (the model), k (its moving average), the block g (mixblock.AutoMixBlock) and the two classifiers are those of
    MomentumMixer. A step draws two lambdas and two random permutations and minimises, all in one backward pass,

        CE(q(x_mix)) + CE(q_one(x)) + CE(k(x_mix')) + w(t) max(|mean(1 - S') - lam'| - 0.1, 0)

    x_mix without a gradient to g: the first two terms train q alone, the last two g alone, and k has no gradient. w(t)
    is mask_weight (1 + cos(pi t)) / 2, or with mask_schedule "constant" mask_weight. CE is the run's criterion.
    Liu, Li, Wu, Liu, Chen, Wu, Li, "AutoMix: Unveiling the Power of Mixup for Stronger Classifiers", ECCV 2022.

    lam_concat   whether g sees lam: ImageNet and all transformers; False for the CIFAR and Tiny-ImageNet ResNets, whose
                 masks are the same for every lam
    lam_margin   where lam or 1 - lam is at most this, x_mix is ordinary mixup; 0.08 in all published settings
    mode         how S is brought to the size of the images: nearest or bilinear
    mask_adjust  the probability of rescaling each S of x_mix to mean 1 - lam; 0 in the tables, 0.25 in some of CIFAR
    block_prob   the probability of CE(k(x_mix')) in a step, the authors' switch_off: 0.8 for transformers, else 1
    site, momentum, momentum_start, early_stop, block: of MomentumMixer. Transformers start at 0.25; the last momentum
                 is 0.999999 for Tiny-ImageNet

    Cost: k clean (up to its site: 0.5 to 0.9 of a forward pass) and mixed (2, no gradients of weights), q clean and
    mixed (3 each): 2.8 to 3 ordinary steps. Without batch-norm q's two batches are one pass. Only a step of the grid
    is kept of the mask.
    Departs from the authors' code (OpenMixup): k's clean pass stops early; projections are made once for both
    pairings; no check of each loss, which waits for the device; mask_adjust follows x_mix's own lam, there that of the
    other mixture; k is validated with q's batch statistics. Of PVT and Swin it normalises the features once more, by a
    LayerNorm of their own, before g sees them, which moves the mask by some 0.01. Its pick of the best of four
    predictors is not followed: the model with its own classifier counts. Left out: clean images replaced by mixup or
    cutmix (head_one_mix), off in all settings.
    """

    terms = "mask", "k_mix", "q_mix", "q_one"

    def __init__(
        self,
        alpha: float = 2.0,
        lam_concat: bool = True,
        lam_margin: float = 0.08,
        mode: str = "nearest",
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
        super().__init__(site, momentum, momentum_start, early_stop, block)
        self.alpha, self.lam_concat = positive(self.name, "alpha", alpha), lam_concat
        check(self.name, "mode", mode, MODES)
        check(self.name, "mask_schedule", mask_schedule, SCHEDULES)
        self.mode, self.mask_schedule = mode, mask_schedule
        self.mask_weight = within(self.name, "mask_weight", mask_weight, WEIGHT)
        self.lam_margin = within(self.name, "lam_margin", lam_margin, SHARE)
        self.mask_adjust = within(self.name, "mask_adjust", mask_adjust, SHARE)
        self.block_prob = within(self.name, "block_prob", block_prob, SHARE)

    def mix_block(self, channels: int) -> nn.Module:
        return AutoMixBlock(channels, self.lam_concat)

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Drawn:
        drawn = self.draw(batch)
        drawn.taught, drawn.adjusted = (batch.rng.random(2) < (self.block_prob, self.mask_adjust)).tolist()
        return drawn

    def draw(self, batch: Batch) -> Drawn:
        """All but the two coins of a step."""
        lams = batch.rng.beta(self.alpha, self.alpha, 2)
        partners = torch.from_numpy(np.stack([shuffled(batch.rng, len(batch)) for _ in lams]))
        lam = lams[1].item()
        plain = Plan.blend(partners[1], lam) if min(lam, 1 - lam) <= self.lam_margin else None
        return Drawn(partners, torch.from_numpy(lams), torch.tensor(self.weight(), dtype=torch.float64), plain)

    def loss(self, model: nn.Module, batch: Batch, drawn: Drawn, criterion: nn.Module) -> Tensor:
        own = torch.arange(len(batch), dtype=torch.int32, device=batch.images.device)
        (for_k, for_q), (lam_k, lam_q) = drawn.partners, drawn.lams
        clean = batch.mix()
        projected = self.block.project(self.features(clean))
        x, area, square = self.mixed(batch, for_k, self.block(projected, for_k, lam_k))
        loss = self.term("mask", self.mask_loss(area, square, batch, lam_k.float(), drawn.weight.float()))
        if drawn.taught:
            taught_k = criterion(self.teacher(x), targets(batch.labels, [own, for_k], [lam_k, 1 - lam_k]))
            loss = loss + self.term("k_mix", taught_k)
        with torch.no_grad():  # after the pass with a graph: autocast keeps the weights that it cast there
            x = self.without_graph(batch, projected, drawn)
        both, one = self.student(model, [x], clean)
        loss = loss + self.term("q_mix", criterion(both, targets(batch.labels, [own, for_q], [lam_q, 1 - lam_q])))
        return loss + self.term("q_one", criterion(one, Targets.of(batch.labels)))

    def example(self, batch: Batch) -> Shown:
        drawn = placed(self.draw(batch), batch.images.device)
        partner, lam = drawn.partners[1], drawn.lams[1]
        own = torch.arange(len(batch), dtype=torch.int32, device=partner.device)
        projected = self.block.project(self.features(batch.mix()))
        if drawn.plain is not None:
            other = (1 - lam).float().expand(len(batch), *batch.size)
        else:
            other = upsample(self.block(projected, partner, lam), batch.size, self.mode).sigmoid()
        return Shown(
            self.without_graph(batch, projected, drawn),
            targets(batch.labels, [own, partner], [lam, 1 - lam]),
            sources=torch.stack([own, partner], 1).long(),
            shares=torch.stack([1 - other, other], 1),
        )

    def mixed(self, batch: Batch, partner: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mixed batch, and the sums of S and S**2 over each image; differentiable with respect to the logits."""
        args = batch.images, partner, logits, batch.mean, batch.std, batch.dtype, self.mode
        return mix_logits(*args, erase=batch.erase)

    def without_graph(self, batch: Batch, projected: Projected, drawn: Drawn) -> Tensor:
        """q's mixed batch."""
        if drawn.plain is not None:
            return batch.mix(drawn.plain)
        partner, lam = drawn.partners[1], drawn.lams[1]
        logits = self.block(projected, partner, lam)
        if not drawn.adjusted:
            return self.mixed(batch, partner, logits)[0]
        own = rescaled_to(1 - upsample(logits, batch.size, self.mode).sigmoid(), lam)
        return batch.mix(Plan.map(partner, own, batch.size))

    def mask_loss(self, area: Tensor, square: Tensor, batch: Batch, lam: Tensor, weight: Tensor) -> Tensor:
        """weight times the distance of the mean of 1 - S, over the batch, from the interval lam +- MARGIN."""
        mean = 1 - area.sum() / (len(batch) * batch.size[0] * batch.size[1])
        return weight * ((mean - lam).abs() - MARGIN).clamp(min=0)

    def weight(self) -> float:
        """w(t)"""
        return self.mask_weight * ((1 + math.cos(math.pi * self.t)) / 2 if self.mask_schedule == "cosine" else 1)


def rescaled_to(own: Tensor, lam: Tensor) -> Tensor:
    """Weights [B,H,W] in (0,1) brought to mean `lam` in each image: own is scaled down, or its complement is."""
    mean = own.mean((1, 2), keepdim=True)
    return torch.where(mean > lam, own * lam / mean, 1 - (1 - own) * (1 - lam) / (1 - mean))
