"""Saliency by the spectral residual (Hou & Zhang, CVPR 2007), batched: torch's FFT, no kernel of our own.

    R = log|F| - box3(log|F|),    s = blur(|IFFT(exp(R) F / |F|)|),    F = FFT of the grey image

box3 is the 3x3 mean with replicated borders, |F| = sqrt(re^2 + im^2 + 1e-10), blur a Gaussian of 7x7 taps and standard
deviation 3 with mirrored borders. Images larger than 128 are made 128 a side (bilinear, antialiased), and s is brought
back to their size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.kernels.host_to_device import constant

SIDE = 128  # at most, of the image that is transformed
TAPS, SIGMA = 7, 3.0


def spectral_residual(grey: Tensor) -> Tensor:
    """The saliency of each pixel, at least 0, of float32 images [B,H,W]: float32 [B,H,W].

    It is 1 everywhere in an image of one level, which has no residual.
    """
    size = grey.shape[1:]
    small = tuple(min(length, SIDE) for length in size)
    image = grey
    if small != tuple(size):
        image = F.interpolate(image[:, None], small, mode="bilinear", antialias=True)[:, 0]
    spectrum = torch.fft.fft2(image)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-10).sqrt()
    log = magnitude.log()
    residual = log - F.avg_pool2d(F.pad(log[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    saliency = blur(torch.fft.ifft2(spectrum.mul_(residual.exp_().div_(magnitude))).abs())
    if small != tuple(size):
        saliency = F.interpolate(saliency[:, None], size, mode="bilinear")[:, 0]
    low, high = grey.flatten(1).aminmax(dim=1)
    return saliency.masked_fill_((low == high)[:, None, None], 1.0)


def blur(maps: Tensor) -> Tensor:
    """Float32 maps [B,H,W] blurred by a Gaussian of 7x7 taps and standard deviation 3, borders mirrored (once).

    As a product with a matrix on either side: a convolution of one channel is slower on the CPU and no faster on a GPU.
    """
    down, across = (constant(_gaussian, length, device=maps.device) for length in maps.shape[1:])
    with torch.autocast(maps.device.type, enabled=False):
        return down @ maps @ across.T


def _gaussian(length: int) -> Tensor:
    """The filter along a side as a matrix [length,length]: from what stands at j to what comes out at i."""
    i, j = torch.arange(length)[:, None], torch.arange(length)
    total = torch.zeros(length, length)
    for place, exists in ((j, j >= 0), (-j, j > 0), (2 * (length - 1) - j, j < length - 1)):
        step = i - place
        total += (-0.5 * (step / SIGMA).square()).exp() * (exists & (step.abs() <= TAPS // 2))
    return total / total.sum(1, keepdim=True)
