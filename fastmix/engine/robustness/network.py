"""A trained network as the tests see it: from levels of pixels to logits, and to what they depend on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.engine.evaluate import logits
from fastmix.engine.task import Task
from fastmix.models.saliency import input_gradient


@dataclass
class Network:
    """A model in eval mode, and the task that tells its normalisation and precision."""

    model: nn.Module
    task: Task
    classes: int

    def logits(self, images: Tensor, labels: Tensor) -> Tensor:
        """float32 [B,classes] of images uint8 [B,S,S,3], as in validation."""
        return logits(self.model, self.task, images, labels)

    def hits(self, images: Tensor, labels: Tensor) -> Tensor:
        """Whether the likeliest class of each image, uint8 [B,S,S,3], is its label, bool [B]."""
        return self.logits(images, labels).argmax(1) == labels

    def of_pixels(self, x: Tensor) -> Tensor:
        """Logits of pixels float32 [B,3,S,S] in [0,1], computed in float32 whatever the run's precision is."""
        mean, std = self._norm(x)
        return self.model((x - mean) / std).float()

    def slope(self, x: Tensor, labels: Tensor) -> Tensor:
        """The gradient of each image's cross-entropy by its pixels, float32 [B,3,S,S]; x as in `of_pixels`."""
        mean, std = self._norm(x)

        def loss(z: Tensor) -> Tensor:
            return F.cross_entropy(z.float(), labels, reduction="sum")

        return input_gradient(self.model, (x - mean) / std, loss) / std

    def _norm(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.tensor(v, device=x.device)[:, None, None] for v in (self.task.mean, self.task.std))


def pixels(images: Tensor) -> Tensor:
    """float32 [B,3,S,S] in [0,1] of uint8 [B,S,S,3]."""
    return images.permute(0, 3, 1, 2).float() / 255
