"""Digital: light, contrast, a rubber sheet, large pixels, JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastmix.engine.robustness.corruptions.filters import gaussian_blur
from fastmix.engine.robustness.draws import Draws

CONSTANTS = {
    "brightness": {  # what is added to the value of HSV, in [0,1]
        "imagenet": (0.1, 0.2, 0.3, 0.4, 0.5),
        "tiny": (0.1, 0.2, 0.3, 0.4, 0.5),
        "cifar": (0.05, 0.1, 0.15, 0.2, 0.3),
    },
    "contrast": {  # the share of it that is left
        "imagenet": (0.4, 0.3, 0.2, 0.1, 0.05),
        "tiny": (0.4, 0.3, 0.2, 0.1, 0.05),
        "cifar": (0.75, 0.5, 0.4, 0.3, 0.15),
    },
    "elastic_transform": {  # height of the displacements, deviation of their blur, reach of the affine map's corners
        "imagenet": (  # in pixels: shares of 244, as the authors have it, not of 224
            (488, 170.8, 24.4),
            (488, 19.52, 48.8),
            (12.2, 2.44, 4.88),
            (17.08, 2.44, 4.88),
            (29.28, 2.44, 4.88),
        ),
        "tiny": ((0, 0, 5.12), (3.2, 19.2, 3.84), (6.4, 5.12, 3.84), (6.4, 1.92, 1.92), (10.24, 1.92, 1.28)),
        "cifar": ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
    },
    "pixelate": {  # the size of the reduced image
        "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25),
        "tiny": (0.9, 0.8, 0.7, 0.6, 0.5),
        "cifar": (0.95, 0.9, 0.85, 0.75, 0.65),
    },
    "jpeg_compression": {  # quality
        "imagenet": (25, 18, 15, 10, 7),
        "tiny": (65, 58, 50, 40, 25),
        "cifar": (80, 65, 58, 50, 40),
    },
}


def brightness(x: Tensor, added: float, draws: Draws) -> Tensor:
    """Hue and saturation stay, the value grows: all three channels by the ratio of their new largest to the old."""
    value = x.amax(1, keepdim=True)
    lighter = (value + 255 * added).clamp_(max=255)
    return torch.where(value > 0, x * (lighter / value.clamp(min=1)), lighter)


def contrast(x: Tensor, left: float, draws: Draws) -> Tensor:
    """The distance of each channel from its mean is reduced."""
    means = x.mean((2, 3), keepdim=True)
    return (x - means) * left + means


def elastic(x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
    """An affine map that moves three points, then displacements that are blurred noise; linear interpolation."""
    height, sigma, reach = constants
    size = x.shape[-1]
    across = torch.arange(size, dtype=torch.float32, device=x.device)
    ones = torch.ones(size, size, device=x.device)
    grid = torch.stack([ones * across, ones * across[:, None], ones])
    centre, arm = size // 2, size // 3
    corners = x.new_tensor([(centre + arm, centre + arm), (centre + arm, centre - arm), (centre - arm, centre - arm)])
    moved = corners + reach * (2 * draws.uniform(3, 2) - 1)
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1.0), corners.expand(len(x), -1, -1))  # [B,3,2]
    x = sampled(x, torch.einsum("bkc,kyx->bcyx", back, grid), 0)
    if not height:
        return x
    shift = gaussian_blur(2 * draws.uniform(2, size, size) - 1, sigma, 3, "reflect") * height
    return sampled(x, grid[:2] + shift, 0.5)


def sampled(x: Tensor, places: Tensor, edge: float) -> Tensor:
    """Linear interpolation at places (across, down) in pixels, [B,2,S,S]. Beyond the border the image is reflected,
    there where its pixels' centres lie (edge 0), or half a pixel farther out (0.5)."""
    size = x.shape[-1]
    beyond, span = places + edge, size - 1 + 2 * edge
    folded = span - (beyond.remainder(2 * span) - span).abs() - edge
    grid = folded.clamp(0, size - 1) * (2 / (size - 1)) - 1
    return F.grid_sample(x, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=True)


def pixelate(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Reduced and enlarged again by Pillow's box filter, which rounds after each direction."""
    size = x.shape[-1]
    small = int(size * share)
    for matrix in (boxes(size, small), boxes(small, size)):
        matrix = matrix.to(x.device)
        x = (matrix @ (x @ matrix.T).add_(0.5).floor_()).add_(0.5).floor_()
    return x


def boxes(old: int, new: int) -> Tensor:
    """A line of `old` pixels made `new` ones as a matrix float32 [new,old]: each is the mean of the pixels whose
    centres lie within its width, or the one that it lies in."""
    scale = old / new
    support = 0.5 * max(scale, 1.0)
    centres = (np.arange(new) + 0.5)[:, None] * scale
    away = np.arange(old) + 0.5 - centres
    inside = (away > -support) & (away <= support)
    return torch.from_numpy((inside / inside.sum(1, keepdims=True)).astype(np.float32))


def jpeg(x: Tensor, quality: int, draws: Draws) -> Tensor:
    """Written and read by Pillow. On the host."""
    pixels = x.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    seen = torch.from_numpy(np.stack([_through_jpeg(image, quality) for image in pixels]))
    return seen.to(x.device).permute(0, 3, 1, 2).float()


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    written = io.BytesIO()
    Image.fromarray(image).save(written, "JPEG", quality=quality)
    return np.asarray(Image.open(written))
