"""Weather: snow, frost, fog."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastmix.engine.robustness.corruptions.filters import enlarged, smeared
from fastmix.engine.robustness.draws import Draws

CONSTANTS = {
    "snow": {  # of the flakes mean, deviation, enlargement, threshold, radius and deviation of the smear; of the image
        "imagenet": (  # the share that is not whitened
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "tiny": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        "cifar": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    },
    "frost_synthesised": {  # weights of the image and of the frost; pixels of a frost picture to one of ours
        "imagenet": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
        "tiny": ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
        "cifar": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    },
    "fog": {  # thickness; by what the height of the plasma falls at each halving
        "imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "tiny": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "cifar": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    },
}
GREY = (0.299, 0.587, 0.114)  # luma of BT.601
FROSTS = (  # means (red, green, blue) and deviation, in levels, of the five pictures of ImageNet-C; two are the same
    ((77.7, 149.1, 165.7), 20),
    ((200.8, 205.4, 214.5), 22),
    ((200.8, 205.4, 214.5), 22),
    ((137.6, 152.8, 165.2), 29),
    ((112.4, 123.4, 134.8), 43),
)
NEEDLES, SLENDER = 6, 6.0  # directions of needles of ice, and how much longer than wide they are


def snow(x: Tensor, constants: tuple, draws: Draws) -> Tensor:
    """The image whitened, and over it flakes: enlarged noise above a threshold, smeared in a direction from -135 to -45
    degrees, and the same turned by 180 degrees."""
    mean, deviation, factor, least, radius, sigma, share = constants
    size = x.shape[-1]
    flakes = enlarged(draws.normal(1, size, size) * deviation + mean, factor)
    flakes = flakes.masked_fill_(flakes < least, 0).clamp_(0, 1).mul_(255).floor_()
    angles = draws.uniform() * 90 - 135
    flakes = smeared(flakes, radius, sigma, angles)
    grey = (x * x.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    white = torch.maximum(x, grey * 1.5 + 127.5)
    return share * x + (1 - share) * white + flakes + flakes.flip(2, 3)


def frost(x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
    """a x + b frost. ImageNet-C takes crops of photographs of frost, which are not ours to hand out. Here frost is
    noise with the colours and deviations of those pictures, which falls with frequency as theirs, and needles of ice
    in several directions. What a network loses by it is not what it loses in ImageNet-C."""
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


def fog(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """A cloud is added, and the sum darkened to the brightest value that was there."""
    thickness, decay = constants
    size = x.shape[-1]
    brightest = x.amax((1, 2, 3), keepdim=True)
    cloud = plasma(1 << (size - 1).bit_length(), decay, draws)[:, None, :size, :size]
    return (x + 255 * thickness * cloud) * brightest / (brightest + 255 * thickness)


def plasma(side: int, decay: float, draws: Draws) -> Tensor:
    """A landscape of heights from 0 to 1, float32 [B,side,side], by diamonds and squares (Fournier, Fussell and
    Carpenter 1982) on a torus. side: a power of two. At each halving of the step a new point is the mean of its four
    neighbours, moved by up to the square of a height, which is then divided by `decay`."""
    land = torch.zeros(len(draws.rows), side, side, device=draws.rows.device)
    step, height = side, 100.0

    def placed(four: Tensor) -> Tensor:
        return four / 4 + height * height * (2 * draws.uniform(*four.shape[1:]) - 1)

    while step >= 2:
        half = step // 2
        corners = land[:, ::step, ::step]
        two = corners + corners.roll(-1, 1)
        land[:, half::step, half::step] = placed(two + two.roll(-1, 2))
        corners, middles = land[:, ::step, ::step], land[:, half::step, half::step]
        above = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        beside = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        land[:, ::step, half::step], land[:, half::step, ::step] = placed(above), placed(beside)
        step, height = half, height / decay
    land -= land.amin((1, 2), keepdim=True)
    return land / land.amax((1, 2), keepdim=True)
