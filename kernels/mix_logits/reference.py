"""The mixing pass with logits in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels.erase import Erase
from fastmix.kernels.mix.reference import erased_pixels, normalising
from fastmix.kernels.upsample import upsample


def reference(
    images: Tensor,
    partner: Tensor,
    logits: Tensor,
    mean,
    std,
    dtype: torch.dtype = torch.float32,
    mode: str = "nearest",
    *,
    erase: Erase | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`mix_logits` in plain torch, in the precision of the logits: autograd gives its gradient."""
    shift, scale = (torch.from_numpy(v).to(logits) for v in normalising(images, mean, std))
    s = upsample(logits, images.shape[1:3], mode).sigmoid()
    own = erased_pixels(images, erase).to(logits.dtype)
    mixed = own + s[..., None] * (own[partner.long()] - own)
    return ((mixed - shift) * scale).to(dtype).permute(0, 3, 1, 2), s.sum((1, 2)), s.square().sum((1, 2))
