"""What several corruptions share: convolutions, Gaussian blur, enlargement. All take float32 [B,C,S,S]."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def correlate(x: Tensor, kernel: Tensor, border: str) -> Tensor:
    """Sum over k of kernel[k] x[p + k - K // 2], kernel float32 [1 or B,K,K], K odd; border as torch's F.pad names it.

    By Fourier transforms: the kernels have hundreds of values.
    """
    side, size = kernel.shape[-1], x.shape[2:]
    padded = F.pad(x, (side // 2,) * 4, border)
    around = padded.shape[2:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=around).conj()[:, None]
    return torch.fft.irfft2(spectrum, s=around)[:, :, : size[0], : size[1]]


def gaussian_blur(x: Tensor, sigma: float, truncate: float = 4.0, border: str = "nearest") -> Tensor:
    """Blurred by a Gaussian that is cut off at `truncate` deviations, rounded to whole pixels.

    border, as scipy names it: nearest (aaa abc), or reflect (cba abc), which may go forth and back several times.
    """
    blur = _blur(x.shape[-1], sigma, truncate, border).to(x.device)
    return blur @ x @ blur.T


@lru_cache(maxsize=64)
def _blur(n: int, sigma: float, truncate: float, border: str) -> Tensor:
    """The blur of a line of n pixels as a matrix float32 [n,n]: what lies beyond the border counts where it is seen."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    seen = np.arange(n)[:, None] + offsets
    seen = seen.clip(0, n - 1) if border == "nearest" else np.minimum(seen % (2 * n), (-1 - seen) % (2 * n))
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], seen), weights / weights.sum())
    return torch.from_numpy(matrix.astype(np.float32))


def enlarged(x: Tensor, factor: float) -> Tensor:
    """The middle of the images enlarged by the factor, linearly, to their size."""
    size = x.shape[-1]
    part = math.ceil(size / factor)
    first = (size - part) // 2
    middle = x[:, :, first : first + part, first : first + part]
    side = round(part * factor)
    large = F.interpolate(middle, size=(side, side), mode="bilinear", align_corners=True)
    first = (side - size) // 2
    return large[:, :, first : first + size, first : first + size]


def smeared(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Levels smeared in each direction (degrees, float32 [B]; 0 is to the right, 90 down), as ImageMagick does.

    Of the 2 radius + 1 pixels from here on in that direction, each at its nearest place, the Gaussian-weighted mean: it
    looks one way only. Sums are rounded to a 257th of a level, its 16 bits, and then cut off to whole levels.
    """
    return correlate(x, motion_kernels(radius, sigma, angles), "replicate").add_(0.5 / 257).floor_()


def motion_kernels(radius: int, sigma: float, angles: Tensor) -> Tensor:
    """The weights of `smeared` for `correlate`, float32 [B,K,K]."""
    count = 2 * radius + 1
    steps = torch.arange(count, dtype=torch.float64, device=angles.device)
    weights = torch.exp(-(steps**2) / (2 * sigma**2)).float()
    turned = torch.deg2rad(angles.double())[:, None]
    dx, dy = ((steps * part - 0.5).ceil().long() + count - 1 for part in (turned.cos(), turned.sin()))
    side = 2 * count - 1
    kernels = torch.zeros(len(angles), side * side, device=angles.device)
    kernels.scatter_add_(1, dy * side + dx, (weights / weights.sum()).expand(len(angles), -1))
    return kernels.view(-1, side, side)
