"""Saliency by the spectral residual (Hou & Zhang, CVPR 2007), batched.

    R = log|F| - box3(log|F|),    s = blur(|IFFT(exp(R) F / |F|)|),    F = FFT of the grey image

box3 is the 3x3 mean with replicated borders, |F| = sqrt(re^2 + im^2 + 1e-10), blur a Gaussian of 7x7 taps and standard
deviation 3 with mirrored borders. Images larger than 128 are made 128 a side (bilinear, antialiased). As exp(log|F|) is
|F|, what is transformed back is exp(-box3(log|F|)) F.

The transform is torch's; grey, resizing, mean and blur are filters of rows and columns (`kernels.separable`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels.separable import separable
from fastmix.kernels.spectral.filters import averaged, blurred, shrunk

SIDE = 128  # at most, of the image that is transformed
LEVEL = 1e-5  # of the largest grey value: differences below are rounding
PART = 32  # images at a time on the CPU: beyond, memory is new each time, which takes as long as the rest


def spectral_residual(images: Tensor, shares: tuple[float, ...] = (1.0,)) -> Tensor:
    """The saliency, at least 0, of images float32 [B,C,H,W]: float32 [B,min(H,128),min(W,128)].

    shares: how much each channel counts in the grey image. An image of one level of grey has no residual, and its
    saliency is the same everywhere. Channels-last is the layout that is not copied.
    """
    if images.device.type == "cpu" and len(images) > PART:
        return torch.cat([spectral_residual(part, shares) for part in images.split(PART)])
    pixels = images.permute(0, 2, 3, 1).contiguous().flatten(2)
    height, width = (min(length, SIDE) for length in images.shape[2:])
    grey = separable(pixels, shrunk, (images.shape[2], height), (images.shape[3], width, shares))
    low, high = grey.amin((1, 2), keepdim=True), grey.amax((1, 2), keepdim=True)
    level = (high - low <= LEVEL * torch.maximum(high, -low)).float()
    spectrum = torch.fft.fft2(grey)
    log = _squares(spectrum, grey).add_(1e-10).log_()
    factor = separable(log, averaged, (height, -0.5), (width,)).exp_()
    size = _squares(torch.fft.ifft2(spectrum.mul_(factor)), factor).sqrt_()
    return blur(size.mul_(1 - level).add_(level), (height, width))


def blur(
    maps: Tensor, size: tuple[int, int], parts: tuple[int, int] | None = None, out: Tensor | None = None
) -> Tensor:
    """Float32 maps [B,h,w], brought to a size (H,W) (bilinear), blurred as above: float32 [B,H,W].

    parts: averaged over so many along each side, float32 [B,*parts]. out: as of `separable`.
    """
    down, across = zip(size, maps.shape[1:], parts or size, strict=True)
    return separable(maps, blurred, down, across, out)


def _squares(numbers: Tensor, out: Tensor) -> Tensor:
    """|z|^2 of complex numbers, in the memory of `out`."""
    if numbers.device.type != "cpu":
        return torch.mul(numbers.real, numbers.real, out=out).addcmul_(numbers.imag, numbers.imag)
    from fastmix.kernels.spectral.cpu import squares_cpu

    squares_cpu(numbers, out)
    return out
