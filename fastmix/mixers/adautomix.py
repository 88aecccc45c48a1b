"""AdAutoMix: AutoMix of two or three images, whose block works against the teacher on every other step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.mix_logits import mix_logits
from fastmix.kernels.plan import Plan
from fastmix.kernels.upsample import MODES, upsample
from fastmix.mixers.base import SHARE, check, positive, shuffled, within
from fastmix.mixers.mixblock import AdAutoMixBlock, Projected
from fastmix.mixers.momentum import MomentumMixer, targets
from fastmix.mixers.settled import placed
from fastmix.mixers.shown import LAMBDA, Shown
from fastmix.models.sites import read
from fastmix.targets import Targets

PLAIN = 0.5  # share of ordinary mixup of the three images in the loss beside the mixed one


@dataclass
class Drawn:
    """What a step draws.

    images, weights  which K images are mixed for k and for q, int32 [2,K,B], and to what degree, float64 [2,K]
    mixup, plain  ordinary mixup for q of two images; whether that is what q is given
    against  whether the block works against the teacher
    """

    images: Tensor
    weights: Tensor
    mixup: Plan | None
    plain: bool
    against: bool


class AdAutoMix(MomentumMixer):
    """out = sum_n S_n x_n over K images, S = softmax_n(upsample(M_n)), M that of mixblock.AdAutoMixBlock on k's
    features; label sum_n lam_n y_n.

    q, k, the block g and the two classifiers are those of MomentumMixer. K = 2: lam ~ Beta(alpha, alpha), one for k and
    one for q, and the first image is image i itself. K = 3: lam = Beta draws divided by their sum, for both; all three
    images are partners, by random permutations. One backward pass of

        CE(q(x_mix)) + R + G,    R = CE(q_one(x)), of three images its half and that of CE(q(sum_n lam_n x_n))
        G = -beta CE(k(x_mix')) + (1 - beta) mean sum_n lam_n cos(k(x_mix'), k(x_n))  in the first step and every other
        G = CE(k(x_mix'))                                                             in the others

    cos is that of logits. x_mix has no gradient to g: G trains g alone, the rest q alone.
    Qin, Jin, Jiang, El-Yacoubi, Gao, "Adversarial AutoMixup", ICLR 2024.

    samples     K: 2 for ImageNet, 3 for CIFAR and Tiny-ImageNet
    beta        0.1 for ImageNet, 0.3 for CIFAR, 0.4 for Tiny-ImageNet
    lam_margin  x_mix is ordinary mixup where lam or 1 - lam of the first image is at most this
    lam_concat  whether g sees lam: ImageNet and transformers; False for the CIFAR and Tiny-ImageNet ResNets
    mode        how M is brought to the size of the images: bilinear or nearest
    site, momentum, momentum_start, block: of MomentumMixer; the last momentum is 0.999999 for Tiny-ImageNet

    Cost: k clean (1 forward pass, whose logits are also those of the partners) and mixed (2), q 3 for each of K
    batches: 3 ordinary steps for K = 2, 4 for K = 3. K = 3 mixes in plain torch.
    Departs from the authors' code: k(x_n) are the clean logits, permuted, not new passes, which there go into k's
    running batch-norm statistics too (they differ by half and more; no step sees them); projections are made once; no
    check of each loss, no picture of each step. OpenMixup's copy has the margin's test the wrong way round for
    K = 3, and so trains q without the mask. The batch-norm that one setting (ResNet-50) has in the block is left out.
    """

    terms = "k_mix", "q_mix", "q_one"

    @property
    def drawn(self) -> str:
        return LAMBDA if self.samples == 2 else ""

    def __init__(
        self,
        alpha: float = 1.0,
        samples: int = 2,
        beta: float = 0.1,
        lam_concat: bool = True,
        lam_margin: float = 0.03,
        mode: str = "bilinear",
        site: str | None = None,
        momentum: tuple[float, float] = (0.999, 0.99999),
        momentum_start: float = 0.1,
        block: dict | None = None,
    ):
        super().__init__(site, momentum, momentum_start, False, block)
        self.alpha, self.lam_concat = positive(self.name, "alpha", alpha), lam_concat
        check(self.name, "samples", samples, (2, 3))
        check(self.name, "mode", mode, MODES)
        self.samples, self.mode, self.beta = samples, mode, within(self.name, "beta", beta, SHARE)
        self.lam_margin = within(self.name, "lam_margin", lam_margin, SHARE)
        self.steps = 0

    def mix_block(self, channels: int) -> nn.Module:
        return AdAutoMixBlock(channels, self.lam_concat)

    def settle(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Drawn:
        rng, n = batch.rng, len(batch)
        lam = rng.beta(self.alpha, self.alpha, self.samples)
        if self.samples == 2:
            weights = np.stack([lam, 1 - lam], 1)
            images = [[np.arange(n, dtype=np.int32), shuffled(rng, n)] for _ in "kq"]
        else:
            weights = np.stack([lam / lam.sum()] * 2)
            images = [[shuffled(rng, n) for _ in lam] for _ in "kq"]
        share, images = weights[1, 0].item(), torch.from_numpy(np.array(images))
        plain = min(share, 1 - share) <= self.lam_margin
        mixup = Plan.blend(images[1, 1], share) if plain and self.samples == 2 else None
        return Drawn(images, torch.from_numpy(weights), mixup, plain, self.steps % 2 == 0)

    def loss(self, model: nn.Module, batch: Batch, drawn: Drawn, criterion: nn.Module) -> Tensor:
        images_k, images_q = (images.unbind() for images in drawn.images)
        lam_k, lam_q = (weights.unbind() for weights in drawn.weights)
        clean = batch.mix()
        with torch.no_grad(), read(self.teacher, self.site) as features:
            known = self.teacher(clean)
        projected = self.block.project(features.value)
        logits = self.teacher(self.mixed(batch, clean, images_k, self.block(projected, images_k, lam_k)))
        loss = criterion(logits, targets(batch.labels, images_k, lam_k))
        if drawn.against:
            loss = (1 - self.beta) * likeness(logits, known, images_k, lam_k) - self.beta * loss

        with torch.no_grad():  # after the pass with a graph: autocast keeps the weights that it cast there
            x = self.without_graph(batch, clean, projected, drawn)
            more = [weighted(clean, images_q, lam_q)] if self.samples == 3 else []
        mixed, *plain, one = self.student(model, [x, *more], clean)
        wanted = targets(batch.labels, images_q, lam_q)
        rest = criterion(one, Targets.of(batch.labels))
        for logits in plain:
            rest = (1 - PLAIN) * rest + PLAIN * criterion(logits, wanted)
        return self.term("k_mix", loss) + self.term("q_mix", criterion(mixed, wanted)) + self.term("q_one", rest)

    def example(self, batch: Batch) -> Shown:
        drawn = placed(self.settle(None, batch, None), batch.images.device)
        images, lam = drawn.images[1].unbind(), drawn.weights[1].unbind()
        clean = batch.mix()
        projected = self.block.project(self.features(clean))
        if drawn.plain:
            shares = drawn.weights[1].float()[:, None, None].expand(len(batch), -1, *batch.size)
        else:
            shares = self.shares(batch, self.block(projected, images, lam))
        return Shown(
            self.without_graph(batch, clean, projected, drawn),
            targets(batch.labels, images, lam),
            sources=torch.stack(images, 1).long(),
            shares=shares,
        )

    def without_graph(self, batch: Batch, clean: Tensor, projected: Projected, drawn: Drawn) -> Tensor:
        """q's mixed batch."""
        images, lam = drawn.images[1].unbind(), drawn.weights[1].unbind()
        if drawn.plain:
            return weighted(clean, images, lam) if drawn.mixup is None else batch.mix(drawn.mixup)
        return self.mixed(batch, clean, images, self.block(projected, images, lam))

    def mixed(self, batch: Batch, clean: Tensor, images: Sequence[Tensor], values: Tensor) -> Tensor:
        """The mixed batch by the block's M [B,K,h,w], differentiable with respect to it."""
        if len(images) == 2:  # the first image is image i itself; a softmax of two is the sigmoid of their difference
            args = batch.images, images[1], values[:, 1] - values[:, 0], batch.mean, batch.std, batch.dtype, self.mode
            return mix_logits(*args, erase=batch.erase)[0]
        return weighted(clean, images, self.shares(batch, values).unbind(1))

    def shares(self, batch: Batch, values: Tensor) -> Tensor:
        """S of the block's M [B,K,h,w]: float32 [B,K,H,W]"""
        return upsample(values.flatten(0, 1), batch.size, self.mode).unflatten(0, values.shape[:2]).softmax(1)

    def after_step(self, model: nn.Module) -> None:
        super().after_step(model)
        self.steps += 1

    def get_extra_state(self) -> dict:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict) -> None:
        self.steps = state["steps"]


def weighted(clean: Tensor, images: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """sum_n w_n x_n of normalised images [B,3,H,W]; a weight is a scalar or float32 [B,H,W]."""
    total = 0
    for partner, w in zip(images, weights, strict=True):
        total = total + clean[partner.long()].float() * (w[:, None] if w.ndim else w)
    return total.to(clean.dtype).contiguous(memory_format=torch.channels_last)


def likeness(logits: Tensor, known: Tensor, images: Sequence[Tensor], lam: Sequence[Tensor]) -> Tensor:
    """mean over the batch of sum_n lam_n cos(logits, those of image n)."""
    total = 0
    for partner, w in zip(images, lam, strict=True):
        total = total + w * F.cosine_similarity(logits.float(), known[partner.long()].float(), 1)
    return total.mean()
