"""Frost: photographs of it, where the user has the authors' pictures, or something of their colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastmix.engine.robustness.draws import Draws
from fastmix.errors import words

WEIGHTS = {  # of the image and of the frost; pixels of a frost picture to one of ours
    "imagenet": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    "tiny": ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
    "cifar": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
}
CONSTANTS = {"frost": WEIGHTS, "frost_synthesised": WEIGHTS}
FROSTS = (  # means (red, green, blue) and deviation, in levels, of the five pictures of ImageNet-C; two are the same
    ((77.7, 149.1, 165.7), 20),
    ((200.8, 205.4, 214.5), 22),
    ((200.8, 205.4, 214.5), 22),
    ((137.6, 152.8, 165.2), 29),
    ((112.4, 123.4, 134.8), 43),
)
NEEDLES, SLENDER = 6, 6.0  # directions of needles of ice, and how much longer than wide they are


def photographed(x: Tensor, constants: tuple[float, float, float], draws: Draws, pictures: Sequence[Tensor]) -> Tensor:
    """a x + b frost, frost a crop anywhere in one of the pictures, which are as large as `scaled` made them."""
    a, b, _ = constants
    size = x.shape[-1]
    which, corners = draws.whole(0, len(pictures)).tolist(), draws.uniform(2).tolist()
    crops = []
    for k, corner in zip(which, corners, strict=True):
        top, left = (int(u * (side - size)) for u, side in zip(corner, pictures[k].shape[1:], strict=True))
        crops.append(pictures[k][:, top : top + size, left : left + size])
    return a * x + b * torch.stack(crops).to(x.device)


def read(folder: Path) -> list[Tensor]:
    """The pictures frost1 to frost5 (.png or .jpg) of a folder, float32 [3,H,W] in levels. Raises ValueError.

    They are those of github.com/hendrycks/robustness, and in the package imagecorruptions.
    """
    found = []
    for k in range(1, len(FROSTS) + 1):
        paths = [path for end in ("png", "jpg") if (path := folder / f"frost{k}.{end}").is_file()]
        if not paths:
            raise ValueError(f"{folder}: no frost{k}.png or frost{k}.jpg, of the five pictures of ImageNet-C")
        try:
            with Image.open(paths[0]) as image:
                found.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float())
        except OSError as error:
            raise ValueError(f"{paths[0]}: no picture ({words(error)})") from None
    return found


def scaled(pictures: Sequence[Tensor], size: int, scale: float) -> list[Tensor]:
    """The pictures for images of `size` pixels, reduced by linear interpolation between neighbours, as the authors do.

    Raises ValueError where one of them is smaller than an image.
    """
    found = []
    for k, picture in enumerate(pictures):
        if scale != 1:
            picture = F.interpolate(picture[None], scale_factor=scale, mode="bilinear")[0].round_()
        if min(picture.shape[1:]) <= size:
            tall, wide = picture.shape[1:]
            raise ValueError(f"frost{k + 1} has {wide} x {tall} pixels, too few for images of {size}: leave out frost")
        found.append(picture)
    return found


def synthesised(x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
    """a x + b frost, frost being noise with the colours and deviations of the authors' pictures, which are not ours to
    hand out; it falls with frequency as theirs, and has needles of ice in several directions. What a network loses by
    it is not what it loses in ImageNet-C."""
    a, b, scale = constants
    picture = draws.whole(0, len(FROSTS))
    colour = x.new_tensor([mean for mean, _ in FROSTS])[picture][:, :, None, None]
    deviation = x.new_tensor([spread for _, spread in FROSTS])[picture][:, None, None, None]
    filters = ice(x.shape[-1], scale).to(x.device)
    spectrum = torch.fft.rfft2(draws.normal(len(filters), *x.shape[2:]), norm="ortho") * filters
    layers = torch.fft.irfft2(spectrum, s=x.shape[2:], norm="ortho")
    needles = layers[:, 1:].amax(1) - 1.27  # the mean of the largest of six normal numbers
    ice_ = 0.7 * layers[:, 0] + 0.7 * needles / 0.65  # and its deviation
    return a * x + b * (colour + deviation * ice_[:, None]).clamp_(0, 255)


def ice(size: int, scale: float) -> Tensor:
    """Filters float32 [1 + NEEDLES,S,S//2+1] of white noise, each of unit power: amplitudes as one over the frequency,
    and needles in NEEDLES directions. scale: pixels of the image to one of the pictures."""
    v, u = torch.fft.fftfreq(size)[:, None] * scale, torch.fft.rfftfreq(size)[None] * scale
    filters = [1 / torch.hypot(u, v).clamp(min=scale / size)]
    for k in range(NEEDLES):
        angle = math.pi * k / NEEDLES
        along, across = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
        filters.append(1 / (1 + (along * 8 * SLENDER) ** 2 + (across * 8) ** 2))
    both = torch.full((size // 2 + 1,), 2.0)  # a half of the spectrum stands for both
    both[0] = 1
    if size % 2 == 0:
        both[-1] = 1
    stacked = torch.stack(filters)
    stacked[:, 0, 0] = 0
    power = (stacked**2 * both).sum((1, 2), keepdim=True) / size**2
    return stacked / power.sqrt()
