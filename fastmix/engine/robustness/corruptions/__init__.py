"""The fifteen corruptions of ImageNet-C at five severities, made of a batch's pixels when they are needed.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019.
Constants are those of the authors' generators (github.com/hendrycks/robustness): of ImageNet-C at 224 pixels,
Tiny-ImageNet-C at 64, CIFAR-10-C at 32. Departures stand in the files, all of them in docs/robustness.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastmix.engine.robustness.corruptions import blur, digital, frost, noise, weather
from fastmix.engine.robustness.draws import Draws

CORRUPTIONS: dict[str, Callable[[Tensor, object, Draws], Tensor]] = {
    "gaussian_noise": noise.gaussian,
    "shot_noise": noise.shot,
    "impulse_noise": noise.impulse,
    "defocus_blur": blur.defocus,
    "glass_blur": blur.glass,
    "motion_blur": blur.motion,
    "zoom_blur": blur.zoom,
    "snow": weather.snow,
    "frost_synthesised": frost.synthesised,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg,
}
"""Functions of images float32 [B,3,S,S] in levels (0..255, whole), a severity's constants, and draws, to images of the
same kind, not rounded and not clamped."""
CONSTANTS = noise.CONSTANTS | blur.CONSTANTS | weather.CONSTANTS | frost.CONSTANTS | digital.CONSTANTS
"""By name and by the data set of a size, those of the severities 1 to 5."""
FROST = "frost"
"""The name of the corruption by the authors' pictures of frost, which the user gives; it is none of CORRUPTIONS."""
SIZES = {"cifar": 32, "tiny": 64, "imagenet": 224}
SEVERITIES = (1, 2, 3, 4, 5)


def like(size: int) -> str:
    """The data set whose constants images of that many pixels take: the one of the nearest size, by ratio."""
    return min(SIZES, key=lambda name: abs(np.log(size / SIZES[name])))


def corrupt(
    images: Tensor, name: str, severity: int, rows: np.ndarray, seed: int = 0, pictures: Sequence[Tensor] = ()
) -> Tensor:
    """Images uint8 [B,S,S,3] corrupted, of the same kind and on the same device; a function of (image, seed, row).

    name: of CORRUPTIONS, or FROST, with pictures of it as `frost.scaled` makes them. rows int64 [B]: where the images
    stand in their data set. Levels are cut off, not rounded, as the authors save them. Raises ValueError for an unknown
    name.
    """
    made = CORRUPTIONS | ({FROST: partial(frost.photographed, pictures=pictures)} if pictures else {})
    if name not in made:
        raise ValueError(f"'{name}' is no corruption; there are {', '.join(made)}")
    draws = Draws(seed, rows, f"{name} {severity}", images.device)
    constants = CONSTANTS[name][like(images.shape[1])][severity - 1]
    x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    x = made[name](x, constants, draws)
    return x.clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
