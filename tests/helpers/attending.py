"""What the tests share of the methods that ask a ViT where it looks: small models, their attention by hand, batches."""

import copy
from functools import cache

import numpy as np
import torch
from torch import nn

from fastmix import Batch
from fastmix.models import load_timm
from helpers.mixing import noise

CLASSES = 5


@cache
def prototype(size: tuple[int, int], name: str, **args) -> nn.Module:
    small = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2} if name.startswith("vit") else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_timm().create_model(name, img_size=size, num_classes=CLASSES, **small, **args)
    with torch.no_grad():
        for block in (model.stages[-1] if hasattr(model, "stages") else model).blocks:
            for path in ("qkv", "q", "kv"):  # a new network looks everywhere alike
                if hasattr(block.attn, path):
                    getattr(block.attn, path).weight.mul_(20)
        model.get_classifier().weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    return model


def network(size: tuple[int, int] = (32, 32), name: str = "vit_tiny_patch16_224", **args) -> nn.Module:
    """A small network in train mode; always the same."""
    return copy.deepcopy(prototype(size, name, **args))


def batch_of(n: int, size: tuple[int, int] = (32, 32), seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    batch = noise(n, size, seed)
    batch.labels = torch.from_numpy(np.random.default_rng([seed, 3]).integers(0, CLASSES, n))
    batch.dtype = dtype
    return batch


@torch.no_grad()
def explicit_attention(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The last block's attention [B,heads,N,N] as an unfused copy of the model computes it, in eval mode."""
    model, found = copy.deepcopy(model).eval(), []
    model.blocks[-1].attn.fused_attn = False
    model.blocks[-1].attn.attn_drop.register_forward_hook(lambda module, given, out: found.append(given[0]))
    model(x)
    return found[0]
