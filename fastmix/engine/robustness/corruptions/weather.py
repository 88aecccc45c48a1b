"""Weather: snow and fog; frost is in frost.py."""

from __future__ import annotations

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
    "fog": {  # thickness; by what the height of the plasma falls at each halving
        "imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "tiny": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "cifar": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    },
}
GREY = (0.299, 0.587, 0.114)  # luma of BT.601


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
