"""What the methods have in common that follow the gradient of the loss with respect to the pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.gradient_pool import gradient_pool
from fastmix.mixers.base import WEIGHT, whole, within
from fastmix.mixers.guided import GuidedMixer
from fastmix.models.saliency import gradient, input_gradient
from fastmix.targets import CrossEntropy, Targets


class GradientMixer(GuidedMixer):
    """A guided method whose guide is the gradient [B,3,h,w] of the clean batch's loss.

    The loss is the cross-entropy of the labels, summed over the batch, in eval mode. The clean images are erased as the
    mixed ones are.

    clean_lam      above 0: clean_lam x the mean loss of the clean batch is added to the training loss. Then one pass in
                   train mode serves both, as in the authors' code of PuzzleMix and Co-Mixup; nothing is compiled
    saliency_size  the clean images are first resized (bilinear) to this shorter side: a cheaper gradient, not that of
                   the papers, and only for networks that take any size
    variant openmixup: the gradient is that of the training criterion, with its smoothing or as binary cross-entropy.

    Cost: a forward pass and a backward pass without the gradients of the weights, about 2/3 of a training step; with
    clean_lam a forward and a backward pass, and that backward pass for the pixels alone.
    """

    terms = "clean", "mixed"

    def __init__(
        self,
        clean_lam: float = 0.0,
        saliency_size: int | None = None,
        granularity: str = "batch",
        variant: str = "paper",
    ):
        super().__init__(granularity, variant)
        self.clean_lam = within(self.name, "clean_lam", clean_lam, WEIGHT)
        if clean_lam and saliency_size is not None:
            raise ValueError(f"{self.name}: clean_lam trains on the clean images at full size; leave saliency_size out")
        self.saliency_size = (
            None if saliency_size is None else whole(self.name, "saliency_size", saliency_size, 8, 4096)
        )

    @property
    def changes_input_only(self) -> bool:
        return not self.clean_lam

    def clean_loss(self, logits: Tensor, batch: Batch, criterion: nn.Module) -> Tensor:
        """The mean loss of the clean batch."""
        chosen = criterion if self.variant == "openmixup" else CrossEntropy()
        return chosen(logits, Targets.of(batch.labels))

    def guide(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        x, scale = batch.mix(), (self.saliency_size or min(batch.size)) / min(batch.size)
        if scale < 1:
            size = [round(length * scale) for length in batch.size]
            x = F.interpolate(x, size, mode="bilinear").contiguous(memory_format=torch.channels_last)
        return input_gradient(model, x, lambda logits: self.clean_loss(logits, batch, criterion) * len(batch))

    def loss(self, model: nn.Module, batch: Batch, settled, criterion: nn.Module) -> Tensor:
        if not self.clean_lam or settled is None:
            return super().loss(model, batch, settled, criterion)
        x = batch.mix().detach().requires_grad_()
        # A compiled backward pass runs once, and a compiled forward pass marks the statistics as changed, to which the
        # clean pass refers: so both are eager.
        with torch.compiler.set_stance("force_eager"):
            clean = self.clean_loss(model(x), batch, criterion)
            plan = self.put(batch, gradient(clean * len(batch), x, keep=True), settled)
            mixed = criterion(model(batch.mix(plan)), Targets.of(batch.labels, plan))
        return self.term("clean", self.clean_lam * clean) + self.term("mixed", mixed)


def saliency(gradient: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each cell in an image's saliency, float32 [B,gh,gw]; all alike where the gradient is 0."""
    pooled = gradient_pool(gradient, grid)
    total = pooled.sum((1, 2), keepdim=True)
    return torch.where(total > 0, pooled / total, 1 / (grid[0] * grid[1]))
