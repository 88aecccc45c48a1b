"""Images of which patches are missing, or lie elsewhere: how much a network needs all of an image, and its order.

Naseer, Ranasinghe, Khan, Hayat, Khan and Yang, "Intriguing properties of vision transformers", NeurIPS 2021.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.engine.robustness.draws import Draws
from fastmix.engine.robustness.network import Network, pixels

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)
KINDS = ("random", "salient", "non_salient")
GRIDS = (2, 4, 8, 14)


def grid(size: int) -> int:
    """Patches a side: 14, the 16 pixels of a ViT at 224, or 8 for images below 112 pixels."""
    return 14 if size >= 112 else 8


def grids(size: int) -> list[int]:
    """The grids whose parts have the same size in images of so many pixels."""
    return [g for g in GRIDS if size % g == 0]


def saliency(network: Network, images: Tensor) -> Tensor:
    """What the patches matter, float32 [B,G*G]: the mean of |gradient| of the loss of the likeliest class.

    The authors take the attention of a second network, a ViT that DINO has trained; here it is the network's own.
    """
    x = pixels(images)
    slope = network.slope(x, network.of_pixels(x).argmax(1))
    return F.adaptive_avg_pool2d(slope.abs().sum(1), grid(x.shape[-1])).flatten(1)


def ranking(kind: str, salient: Tensor | None, draws: Draws, count: int) -> Tensor:
    """The patches in the order in which they go, int64 [B,count]."""
    if kind == "random":
        return draws.order(count)
    return salient.argsort(dim=1, descending=kind == "salient", stable=True)


def dropped(images: Tensor, order: Tensor, ratio: float) -> Tensor:
    """Images uint8 [B,S,S,3] whose first patches in the order are black: a share of all, rounded to whole patches."""
    size, side = images.shape[1], round(order.shape[1] ** 0.5)
    gone = torch.zeros(order.shape, dtype=torch.bool, device=images.device)
    gone.scatter_(1, order[:, : round(ratio * order.shape[1])], True)
    place = torch.arange(size, device=images.device) * side // size  # the patch of a line
    masked = gone.view(-1, side, side)[:, place][:, :, place]
    return images.masked_fill(masked[..., None], 0)


def shuffled(images: Tensor, parts: int, draws: Draws) -> Tensor:
    """Images uint8 [B,S,S,3] of which the parts x parts patches are in random order; S is a multiple of `parts`."""
    size = images.shape[1]
    side = size // parts
    patches = images.view(-1, parts, side, parts, side, 3).transpose(2, 3).reshape(-1, parts**2, side * side * 3)
    order = draws.order(parts**2)[..., None].expand_as(patches)
    return patches.gather(1, order).view(-1, parts, parts, side, side, 3).transpose(2, 3).reshape(images.shape)
