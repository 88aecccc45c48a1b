"""What the examples share: drawn shapes of ten classes as tensors, a small network, and its score."""

from __future__ import annotations

import io

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.utils.data import TensorDataset

from fastmix.pipelines.sources.shapes import SHAPES, jpeg

SIZE, CLASSES = 32, len(SHAPES)
EPOCHS, BATCH = 3, 10


def drawings(split: str = "train", count: int = 1000) -> TensorDataset:
    """Images uint8 [3,32,32] and labels: the drawings of `shapes:train`, or `shapes:val`."""
    images = [np.asarray(Image.open(io.BytesIO(jpeg(split, k, SIZE, 0)))) for k in range(count)]
    return TensorDataset(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.arange(count) % CLASSES)


def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=CLASSES)


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (images / 255 - mean) / std


@torch.no_grad()
def score(model: nn.Module) -> float:
    """Its top-1 on 500 other drawings, in percent."""
    images, labels = drawings("val", 500).tensors
    return 100 * (model.eval()(normalised(images)).argmax(1) == labels).float().mean().item()
