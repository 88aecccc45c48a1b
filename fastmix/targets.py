"""Targets: which labels a mixed image has and how much each counts; label smoothing and the losses, only here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.kernels.plan import Plan


@dataclass
class Targets:
    """labels int64 [B,M] and weights float32 [B,M]: sample i has label labels[i,k] to the degree weights[i,k].

    Weights need not sum to one. A dense [B, classes] target is never built for cross-entropy.
    """

    labels: Tensor
    weights: Tensor

    @classmethod
    def of(cls, labels: Tensor, plan: Plan | None = None) -> Targets:
        """The targets of images mixed by `plan` from images with `labels` int64 [B]; None: not mixed."""
        if plan is None:
            return cls(labels[:, None], torch.ones_like(labels, dtype=torch.float32)[:, None])
        plan = plan.to(labels.device)
        if plan.sources is not None:
            return cls(labels[plan.sources.long()], plan.weights)
        pairs = torch.stack([labels, labels[plan.partner.long()]], 1)
        return cls(pairs, torch.stack([plan.own, plan.other], 1))

    def dense(self, classes: int) -> Tensor:
        """float32 [B, classes]; equal labels add up."""
        zeros = self.weights.new_zeros(len(self.labels), classes)
        return zeros.scatter_add_(1, self.labels, self.weights)


class CrossEntropy(nn.Module):
    """Soft-target cross-entropy, mean over the batch of sum_k w_k * CE(z, y_k), weighted before the reduction.

    smoothing e: each label becomes (1-e) * onehot + e / classes (Szegedy et al. 2016, eq. 9), then is weighted.
    """

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        """logits [B, classes] of any float type -> float32 scalar."""
        logp = F.log_softmax(logits.float(), 1)
        loss = -(logp.gather(1, targets.labels) * targets.weights).sum(1)
        if self.smoothing:
            uniform = -logp.mean(1) * targets.weights.sum(1)
            loss = (1 - self.smoothing) * loss + self.smoothing * uniform
        return loss.mean()


class BinaryCrossEntropy(nn.Module):
    """One binary classifier a class (Wightman et al. 2021, "ResNet strikes back", section 3.1), mean over the batch.

    reduction "sum" adds the classes up, "mean" averages them (timm's default). With a threshold every class whose
    target is above it becomes 1 and the others 0; smoothing e comes before it: (1-e) * target + e / classes.
    """

    def __init__(self, smoothing: float = 0.0, threshold: float | None = None, reduction: str = "sum"):
        super().__init__()
        self.smoothing, self.threshold, self.reduction = smoothing, threshold, reduction

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        """logits [B, classes] of any float type -> float32 scalar."""
        classes = logits.shape[1]
        dense = targets.dense(classes)
        if self.smoothing:
            dense = dense * (1 - self.smoothing) + targets.weights.sum(1, keepdim=True) * (self.smoothing / classes)
        if self.threshold is not None:
            dense = (dense > self.threshold).float()
        loss = F.binary_cross_entropy_with_logits(logits.float(), dense, reduction="none")
        return (loss.sum(1) if self.reduction == "sum" else loss.mean(1)).mean()
