"""What a transformer sees in the clean images: its attention and its logits, for methods that mix by them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmix.models.saliency import evaluated
from fastmix.models.sites import Attention, class_attention, install, stride


def need_class_token(mixer: str, model: nn.Module) -> None:
    """Installs the model's hooks; raises ValueError, naming the mixer, for a model without a class token."""
    try:
        with class_attention(model):
            install(model)
    except ValueError as error:
        raise ValueError(f"{mixer}: {error}") from None


def look(model: nn.Module, x: Tensor) -> tuple[Attention, Tensor]:
    """The last block's attention and the logits [B,classes] for x [B,3,H,W], in eval mode and without gradients."""
    with evaluated(model), torch.no_grad(), class_attention(model) as attention:
        return attention, model(x)


def patches(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patches of the last block, for images of that size (H, W)."""
    side = stride(model)
    return size[0] // side, size[1] // side
