"""Targets: which labels a mixed image has and how much each counts; label smoothing and the losses, only here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.kernels.plan import Plan


@dataclass
class Targets:
    """labels int64 [B,M] and weights float32 [B,M]: sample i has label labels[i,k] to the degree weights[i,k].

    Weights need not sum to one. No dense [B, classes] target is built for cross-entropy, but by RecursiveMix.
    exact: no criterion smooths these labels. plan, and partner int32 [B]: what they follow from, of mixed images.
    """

    labels: Tensor
    weights: Tensor
    exact: bool = False
    plan: Plan | None = None
    partner: Tensor | None = None

    @classmethod
    def of(cls, labels: Tensor, plan: Plan | None = None) -> Targets:
        """The targets of images mixed by `plan` from images with `labels` int64 [B]; None: not mixed.

        Soft or multi-hot labels float [B, classes] give a label for each class.
        """
        if plan is not None:
            plan = plan.to(labels.device)
        if labels.is_floating_point():
            return cls.soft(labels, plan)
        if plan is None:
            return cls(labels[:, None], torch.ones_like(labels, dtype=torch.float32)[:, None])
        if plan.sources is not None:
            return cls(labels[plan.sources.long()], plan.weights, plan=plan, partner=plan.partner)
        pairs = torch.stack([labels, labels[plan.partner.long()]], 1)
        return cls(pairs, torch.stack([plan.own, plan.other], 1), plan=plan, partner=plan.partner)

    @classmethod
    def soft(cls, labels: Tensor, plan: Plan | None) -> Targets:
        """Of labels float [B, classes]: every class, to the degree that the mixed labels say."""
        mixed = labels.float()
        if plan is not None and plan.sources is not None:
            mixed = torch.einsum("bk,bkc->bc", plan.weights, mixed[plan.sources.long()])
        elif plan is not None:
            mixed = plan.own[:, None] * mixed + plan.other[:, None] * mixed[plan.partner.long()]
        every = torch.arange(labels.shape[1], device=labels.device).expand(labels.shape)
        return cls(every, mixed, plan=plan, partner=None if plan is None else plan.partner)

    def dense(self, classes: int, smoothing: float = 0.0) -> Tensor:
        """float32 [B, classes]; equal labels add up. smoothing e: (1-e) * target + e / classes of its sum."""
        zeros = self.weights.new_zeros(len(self.labels), classes)
        dense = zeros.scatter_add_(1, self.labels, self.weights)
        if smoothing:
            dense = dense * (1 - smoothing) + self.weights.sum(1, keepdim=True) * (smoothing / classes)
        return dense


class CrossEntropy(nn.Module):
    """Soft-target cross-entropy, mean over the batch of sum_k w_k * CE(z, y_k), weighted before the reduction.

    smoothing e: each label becomes (1-e) * onehot + e / classes (Szegedy et al. 2016, eq. 9), then is weighted.
    class_weights: a factor for each class's term, smoothed or not; the mean stays one over the batch, as torch's is for
    soft targets.
    """

    def __init__(self, smoothing: float = 0.0, class_weights: list[float] | None = None):
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("class_weights", of_classes(class_weights), persistent=False)

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        """logits [B, classes] of any float type -> float32 scalar."""
        logp = F.log_softmax(logits.float(), 1)
        if self.class_weights is not None:
            logp = logp * self.class_weights
        loss = -(logp.gather(1, targets.labels) * targets.weights).sum(1)
        if self.smoothing and not targets.exact:
            uniform = -logp.mean(1) * targets.weights.sum(1)
            loss = (1 - self.smoothing) * loss + self.smoothing * uniform
        return loss.mean()


class BinaryCrossEntropy(nn.Module):
    """One binary classifier a class (Wightman et al. 2021, "ResNet strikes back", section 3.1), mean over the batch.

    reduction "sum" adds the classes up, "mean" averages them (timm's default). With a threshold every class whose
    target is above it becomes 1 and the others 0; smoothing e comes before it: (1-e) * target + e / classes.
    class_weights: a factor for each class's classifier.
    """

    def __init__(
        self,
        smoothing: float = 0.0,
        threshold: float | None = None,
        reduction: str = "sum",
        class_weights: list[float] | None = None,
    ):
        super().__init__()
        self.register_buffer("class_weights", of_classes(class_weights), persistent=False)
        self.smoothing, self.threshold, self.reduction = smoothing, threshold, reduction

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        """logits [B, classes] of any float type -> float32 scalar."""
        dense = targets.dense(logits.shape[1], 0.0 if targets.exact else self.smoothing)
        if self.threshold is not None:
            dense = (dense > self.threshold).float()
        loss = F.binary_cross_entropy_with_logits(logits.float(), dense, self.class_weights, reduction="none")
        return (loss.sum(1) if self.reduction == "sum" else loss.mean(1)).mean()


class UserLoss(nn.Module):
    """A loss that is no class of this file, of logits [B, classes] and targets float32 [B, classes], smoothed by us."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], smoothing: float = 0.0):
        super().__init__()
        self.loss, self.smoothing = loss, smoothing

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        """logits [B, classes] of any float type -> a scalar."""
        return self.loss(logits, targets.dense(logits.shape[1], 0.0 if targets.exact else self.smoothing))


def of_classes(weights: list[float] | None) -> Tensor | None:
    return None if weights is None else torch.tensor(weights)


class Decoupled(nn.Module):
    """A criterion that also asks for each class of a mixture by itself, the other one left out (Liu et al., NeurIPS
    2023, "Harnessing Hard Mixed Samples with Decoupled Regularization", whose terms these are).

    Beside cross-entropy: loss + eta * mean of (w_a^power D(z; a|b) + w_b^power D(z; b|a)), w the label weights and
    D(z; i|j) = -z_i + log sum_{c != j} exp(z_c), which is cross-entropy in a world without class j; never smoothed.
    In place of binary cross-entropy: the same with min(1, (w / threshold)^sharpness) for both weights.
    A sample that shows one class, as both images are of it or one weighs nothing, has the criterion's own loss.
    """

    def __init__(
        self, criterion: nn.Module, eta: float = 0.1, power: float = 1.0, threshold: float = 1.0, sharpness: float = 1.0
    ):
        super().__init__()
        self.criterion, self.smoothing = criterion, criterion.smoothing
        self.eta, self.power, self.threshold, self.sharpness = eta, power, threshold, sharpness

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        """logits [B, classes] of any float type -> float32 scalar. Raises ValueError for more than two labels."""
        labels, weights = targets.labels, targets.weights
        if labels.shape[1] == 1:
            return self.criterion(logits, targets)
        if labels.shape[1] > 2:
            raise ValueError(
                f"a mixture of {labels.shape[1]} images cannot be decoupled; choose a method that mixes two"
            )
        two = (labels[:, :1] != labels[:, 1:]) & (weights > 0).all(1, keepdim=True)
        if isinstance(self.criterion, BinaryCrossEntropy):
            hot = (weights / self.threshold).pow(self.sharpness).clamp(max=1)
            return self.criterion(logits, replace(targets, weights=torch.where(two, hot, weights)))
        each = without(logits, labels.flip(1)) - logits.float().gather(1, labels)
        return self.criterion(logits, targets) + self.eta * (weights.pow(self.power) * two * each).sum(1).mean()


def without(logits: Tensor, labels: Tensor) -> Tensor:
    """log sum exp over all classes but one: of logits [B, classes] without class labels[i,k], float32 [B,M].

    Summed without it: subtracting it from the whole sum loses all digits where that class holds nearly all of it.
    """
    left_out = torch.arange(logits.shape[1], device=logits.device) == labels[:, :, None]
    return logits.float()[:, None].masked_fill(left_out, -torch.inf).logsumexp(2)
