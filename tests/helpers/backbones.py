"""The documented backbones, and small ones of each to try."""

from __future__ import annotations

import re

import torch
from torch import nn

from fastmix.models import load_timm
from helpers import ROOT

TEXT = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([\d,]+) \| ([\d.]+) \((\d+)\) \| ([^|]+) \|$", re.M)
ROWS = {name: (int(n.replace(",", "")), gmac, int(size), where) for name, n, gmac, size, where in ROW.findall(TEXT)}


ALIKE = {"deit_base_patch16_224", "deit_small_patch16_224", "resnet101", "resnext101_32x4d", "resnet34", "pvt_small"}
ALIKE |= {"resnet18_quarter_cifar", "convnext_tiny_cifar", "resnext50_32x4d"}
NAMES = sorted(set(ROWS) - ALIKE)  # one of each family and of each kind of block
TOKENS = [name for name in ROWS if name.startswith(("deit", "pvt"))]
SIZED = ("deit", "swin", "pvt")  # these are told the size of the images
# Options of timm's ResNets for tests that compare the gradients of two computations: with ReLUs and maxima a last bit,
# which differs between processors and numbers of threads, decides which units take part, and the gradients jump.
SMOOTH = {"act_layer": "gelu", "replace_stem_pool": True}


def make(name: str, size: tuple[int, int] | None = None, **args) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sized = {"img_size": size} if size and name.startswith(SIZED) else {}
        return load_timm().create_model(name, num_classes=5, **sized, **args).eval()


def size_of(name: str) -> tuple[int, int]:
    """A size of images at which a backbone ends in a map of 2 x 3."""
    return (16, 24) if name.endswith("_cifar") else (64, 96)


def images(n: int, h: int, w: int) -> torch.Tensor:
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(1))
