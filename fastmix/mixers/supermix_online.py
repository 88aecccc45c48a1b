"""SuperMix: smooth masks, optimised until a teacher sees both images in the mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.host_to_device import constant
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows import plan_rows
from fastmix.kernels.plan_rows.rules import Weights
from fastmix.mixers.base import WEIGHT, check, positive, whole, within
from fastmix.mixers.guided import GuidedMixer
from fastmix.mixers.settled import placed
from fastmix.mixers.shown import Shown
from fastmix.models.saliency import SMALL
from fastmix.models.teacher import Teacher, resized
from fastmix.targets import Targets

SHORTEST, LONGEST = 1e-4, 2000.0  # steps


@dataclass
class Drawn:
    """The partner of each image, int32 [B], and the share of the image itself that is asked for, float32 [B]."""

    partner: Tensor
    lam: Tensor


class SuperMix(GuidedMixer):
    """out = M x_i + (1 - M) x_j, M = s(a) / (s(a) + s(b)), where s is the sigmoid and a, b are masks of `side` cells a
    side, interpolated bilinearly; label weight of y_i = lam ~ Beta(alpha, alpha), the share that is asked for.

    a and b begin at 0 and follow, `steps` times, the gradient of KL(t | teacher(out)) + sparsity * mean(M (1 - M)) with
    t = lam at the teacher's class of x_i and 1 - lam at that of x_j: see `optimise`. A sample is finished, and its
    masks stay, when the teacher's first two classes are these two.
    Dabouei, Soleymani, Taherkhani, Nasrabadi, "SuperMix: Supervising the Mixing Data Augmentation", CVPR 2021.

    teacher  a timm model; `weights` is a local file with its weights. It sees the run's own normalisation, and images
             of `size` pixels a side (none: as they are)
    side, sigma  16 and 2 for ImageNet, 8 and 1 for CIFAR
    labels   "given": those of the data; "teacher": what the teacher sees in x_i and x_j, if its classes are the model's
    granularity  "sample", as in the authors' code: each image its own lam

    Cost: a forward pass of the teacher, then `steps` forward passes and as many backward ones to its input, whether
    samples are finished or not. With the published 50 steps that is far more than the training step;
    `python -m fastmix.supermix` makes such images once, into a file. Then two images are read and one is written.
    Departs from the authors' code: that makes images offline, in at most 50 steps, stops once 30 % of a batch are
    finished and throws the others away, which favours easy pairs; here steps are few, and unfinished samples are used
    as they are. Partners by a cyclic shift; two sources only; a blur of odd length; one pass a step instead of two; two
    images of one class are finished when the teacher's first class is that.
    """

    def __init__(
        self,
        alpha: float = 3.0,
        teacher: str = "resnet34",
        weights: str | None = None,
        side: int = 16,
        sigma: float = 2.0,
        sparsity: float = 25.0,
        steps: int = 4,
        size: int | None = None,
        labels: str = "given",
        granularity: str = "sample",
    ):
        super().__init__(granularity)
        self.alpha = positive(self.name, "alpha", alpha)
        self.side = whole(self.name, "side", side, most=256)
        self.sigma = positive(self.name, "sigma", sigma)
        self.sparsity = within(self.name, "sparsity", sparsity, WEIGHT)
        self.steps = whole(self.name, "steps", steps, most=1000)
        self.size = None if size is None else (whole(self.name, "size", size, 32, 4096),) * 2
        check(self.name, "labels", labels, ("given", "teacher"))
        self.labels = labels
        self.teacher = Teacher(self.name, teacher, weights)

    @property
    def changes_input_only(self) -> bool:
        return self.labels == "given"

    def draw(self, batch: Batch, grid: tuple[int, int] | None) -> Drawn:
        partner, lam = self.pair(batch), batch.rng.beta(self.alpha, self.alpha, self.draws(batch))
        return Drawn(torch.from_numpy(partner), torch.from_numpy(np.resize(lam, len(batch)).astype(np.float32)))

    def masks(self, batch: Batch, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Raw masks float32 [B,2,side,side], and the teacher's classes int64 [B]."""
        x, other = resized(batch.mix(), self.size or batch.size), drawn.partner.long()
        with torch.no_grad():
            classes = self.teacher.logits(x).argmax(1)
        ask, pairs = self.teacher.logits, torch.stack([classes, classes[other]], 1)
        raw, _ = optimise(ask, x, x[other], pairs, drawn.lam, self.side, self.sigma, self.sparsity, self.steps)
        return raw, classes

    def put(self, batch: Batch, raw: Tensor, drawn: Drawn) -> Plan:
        return plan_rows(Weights(weight(raw, batch.size), drawn.lam), drawn.partner, batch.size)

    def decide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Plan:
        return self.seen(model, batch, placed(self.settle(model, batch, criterion), batch.images.device))[0]

    def loss(self, model: nn.Module, batch: Batch, drawn: Drawn, criterion: nn.Module) -> Tensor:
        plan, labels = self.seen(model, batch, drawn)
        return criterion(model(batch.mix(plan)), Targets.of(labels, plan))

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        plan, labels = self.seen(model, batch, placed(self.settle(model, batch, criterion), batch.images.device))
        return Shown(batch.mix(plan), Targets.of(labels, plan), plan)

    def seen(self, model: nn.Module, batch: Batch, drawn: Drawn) -> tuple[Plan, Tensor]:
        """The plan, and the labels of the clean images: those of the data, or what the teacher sees."""
        if self.labels == "teacher" and getattr(model, "num_classes", self.teacher.classes) != self.teacher.classes:
            found = f"the model has {model.num_classes} classes and teacher {self.teacher.name} {self.teacher.classes}"
            raise ValueError(f"{self.name}: labels is 'teacher', but {found}; choose labels=given")
        raw, classes = self.masks(batch, drawn)
        return self.put(batch, raw, drawn), batch.labels if self.labels == "given" else classes


def optimise(
    classify: Callable[[Tensor], Tensor],
    first: Tensor,
    second: Tensor,
    classes: Tensor,
    lam: Tensor,
    side: int,
    sigma: float,
    sparsity: float,
    steps: int,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Raw masks float32 [B,2,side,side], and which samples were finished before the last step, bool [B].

    classify: images -> logits [B, C]; first and second: images [B,3,H,W]; classes int64 [B,2]; lam float32 [B]; start:
    raw masks of earlier steps, to go on from (none: zeros, which no sample is finished with).
    A step takes from the masks |loss| / <g, g_s> times g_s, where g is their gradient and g_s that gradient blurred by
    a Gaussian of `sigma` cells, the factor kept within [1e-4, 2000]. Without a wait for the device.
    """
    raw = torch.zeros(len(lam), 2, side, side, device=first.device) if start is None else start.detach()
    done = torch.zeros(len(lam), dtype=torch.bool, device=first.device)
    blur = constant(gaussian, side, sigma, device=first.device)
    for step in range(steps):
        raw.requires_grad_()
        with torch.enable_grad():
            own = weight(raw, first.shape[2:])[:, None]
            logits = classify(own * first + (1 - own) * second)
            loss = divergence(logits, classes, lam) + sparsity * (own * (1 - own)).mean((1, 2, 3))
            (slope,) = torch.autograd.grad(loss.sum() * SMALL, raw)
        slope, loss = torch.nan_to_num(slope / SMALL, 0.0, 0.0, 0.0), loss.detach()
        if step or start is not None:
            done = done | recognised(logits.detach(), classes)
        with torch.autocast(first.device.type, enabled=False):
            smooth = blur @ slope @ blur
        length = (loss.abs() / ((slope * smooth).sum((1, 2, 3)) + 1e-10)).clamp(SHORTEST, LONGEST)
        raw = raw.detach() - (length * ~done)[:, None, None, None] * smooth
    return raw.detach(), done


def weight(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """M of raw masks [B,2,h,w] on images of a size: float32 [B,H,W]; the weights of both sources sum to one."""
    a, b = F.interpolate(raw, tuple(size), mode="bilinear", align_corners=False).unbind(1)
    return (F.logsigmoid(a) - F.logsigmoid(b)).sigmoid()  # s(a) / (s(a) + s(b)), also where both vanish


def divergence(logits: Tensor, classes: Tensor, lam: Tensor) -> Tensor:
    """KL(t | softmax(logits)), float32 [B]; t = lam at classes[:,0], 1 - lam at classes[:,1], or 1 if they are one."""
    logp = F.log_softmax(logits.float(), 1).gather(1, classes)
    share = torch.stack([lam, 1 - lam], 1)
    entropy = torch.special.entr(share).sum(1) * (classes[:, 0] != classes[:, 1])
    return -(share * logp).sum(1) - entropy


def recognised(logits: Tensor, classes: Tensor) -> Tensor:
    """Whether the first classes of the logits are those of the sample, in any order, as many as they are. bool [B]"""
    top = logits.topk(2, 1).indices
    both = (top.sort(1).values == classes.sort(1).values).all(1)
    return torch.where(classes[:, 0] == classes[:, 1], top[:, 0] == classes[:, 0], both)


def gaussian(cells: int, sigma: float) -> Tensor:
    """The blur along a side as a matrix, float32 [cells,cells]: int(5 sigma) taps, or one more; zeros outside."""
    reach = int(5 * sigma) // 2
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    cell = torch.arange(cells)
    apart = cell[:, None] - cell
    inside = apart.abs() <= reach
    return torch.where(inside, (taps / taps.sum())[(apart + reach).clamp(0, 2 * reach)], 0.0).float()
