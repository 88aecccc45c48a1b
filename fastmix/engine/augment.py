"""Augmentations of single images: what is drawn for a batch. `fastmix.kernels.randaugment` applies it on the device.

A policy draws a table int32 [layers,n,8] (see kernels/randaugment/operations.py) for n images of one size, from the
step's generator, whole batch at once. An Augmentation is a row of policies with what is common to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fastmix.batch import Buffers
from fastmix.config import Config
from fastmix.kernels.randaugment import operations as O
from fastmix.kernels.randaugment import randaugment

HIGHEST = 10  # magnitude


class Policy(Protocol):
    def draw(self, rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
        """int32 [layers,n,8] for n images of size (H, W)."""


def _enhanced(operation: int, least: float = 0.0) -> Callable:
    return lambda m, sign, size: O.real(operation, len(m), np.maximum(0.1 - least, 1 + sign * (least + 0.09 * m)))


# timm's set "increasing", in its order: rows for magnitudes m [k] in 0..10 and signs [k]
INCREASING: dict[str, Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]] = {
    "AutoContrast": lambda m, sign, size: O.whole(O.AUTOCONTRAST, len(m)),
    "Equalize": lambda m, sign, size: O.whole(O.EQUALIZE, len(m)),
    "Invert": lambda m, sign, size: O.whole(O.SOLARIZE, len(m), 0),
    "Rotate": lambda m, sign, size: O.rotate(sign * 3 * m, size),
    "PosterizeIncreasing": lambda m, sign, size: O.posterize(4 - (m / 10 * 4).astype(int)),
    "SolarizeIncreasing": lambda m, sign, size: O.whole(O.SOLARIZE, len(m), 256 - (m / 10 * 256).astype(int)),
    "SolarizeAdd": lambda m, sign, size: O.whole(O.SOLARIZE_ADD, len(m), (m / 10 * 110).astype(int)),
    "ColorIncreasing": _enhanced(O.COLOR),
    "ContrastIncreasing": _enhanced(O.CONTRAST),
    "BrightnessIncreasing": _enhanced(O.BRIGHTNESS),
    "SharpnessIncreasing": _enhanced(O.SHARPNESS),
    "ShearX": lambda m, sign, size: O.shear(sign * 0.03 * m, 0),
    "ShearY": lambda m, sign, size: O.shear(0, sign * 0.03 * m),
    "TranslateXRel": lambda m, sign, size: O.translate(sign * 0.045 * m * size[1], 0),
    "TranslateYRel": lambda m, sign, size: O.translate(0, sign * 0.045 * m * size[0]),
}
MMCLS = INCREASING | {"PosterizeIncreasing": lambda m, sign, size: O.posterize((4 - m / 10 * 4).astype(int))}
FIXMATCH = {name: rows for name, rows in INCREASING.items() if name not in ("Invert", "SolarizeAdd")} | {
    "Identity": lambda m, sign, size: O.whole(O.COPY, len(m)),
    "PosterizeIncreasing": lambda m, sign, size: O.posterize((4 + m / 10 * 4).astype(int)),
    "ColorIncreasing": _enhanced(O.COLOR, 0.05),
    "ContrastIncreasing": _enhanced(O.CONTRAST, 0.05),
    "BrightnessIncreasing": _enhanced(O.BRIGHTNESS, 0.05),
    "SharpnessIncreasing": _enhanced(O.SHARPNESS, 0.05),
    "TranslateXRel": lambda m, sign, size: O.translate(sign * 0.03 * m * size[1], 0),
    "TranslateYRel": lambda m, sign, size: O.translate(0, sign * 0.03 * m * size[0]),
}
VARIANTS = {"timm": INCREASING, "mmcls": MMCLS, "fixmatch": FIXMATCH}


@dataclass
class RandAugment:
    """RandAugment (Cubuk et al. 2020) as timm's rand-m9-mstd0.5-inc1: n of 15 operations, drawn with replacement.

    Each is applied with probability `prob`, its magnitude normal around `magnitude` with deviation `std`, clipped to
    0..10 (std infinite: uniform from 0 to `magnitude`), and its direction, where it has two, by an even chance.
    variant mmcls keeps one bit less in most posterizations, down to none from magnitude 7.5 on, which makes the image
    black; timm keeps one below 10. variant fixmatch has the 14 operations of FixMatch (Sohn et al. 2020) as the
    benchmark's CIFAR-100 runs them: nothing instead of Invert and SolarizeAdd, at least 4 bits and more with the
    magnitude, factors 1 +- (0.05 .. 0.95), shifts up to 0.3. Raises ValueError for values outside their range.
    """

    n: int = 2
    magnitude: float = 9.0
    std: float = 0.5
    prob: float = 0.5
    variant: str = "timm"

    def __post_init__(self):
        if self.n < 1 or not 0 <= self.magnitude <= HIGHEST or not self.std >= 0 or not 0 <= self.prob <= 1:
            raise ValueError(f"{self}: n must be at least 1, magnitude in 0..{HIGHEST}, std from 0 on, prob in 0..1")
        if self.variant not in VARIANTS:
            raise ValueError(f"RandAugment: variant is {self.variant!r}; choose one of {', '.join(VARIANTS)}")

    def draw(self, rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
        shape = (self.n, n)
        operations = list(VARIANTS[self.variant].values())
        choice, applied = rng.integers(0, len(operations), shape), rng.random(shape) < self.prob
        if math.isinf(self.std):
            magnitude = rng.uniform(0, self.magnitude, shape)
        else:
            magnitude = rng.normal(self.magnitude, self.std, shape).clip(0, HIGHEST)
        sign = rng.choice([-1.0, 1.0], shape)
        table = np.zeros((*shape, O.COLUMNS), np.int32)
        for k, rows in enumerate(operations):
            here = applied & (choice == k)
            table[here] = rows(magnitude[here], sign[here], size)
        return table


@dataclass
class ThreeAugment:
    """3-Augment (Touvron et al. 2022, DeiT III): grey, solarised at 128, or blurred by a radius uniform in 0.1..2.

    Its third part, colour jitter, is ColorJitter(0.3, 0.3, 0.3) after it.
    """

    def draw(self, rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
        choice = rng.integers(0, 3, n)[:, None]
        horizontal, vertical = O.blur(rng.uniform(0.1, 2.0, n))
        grey, solarized = O.real(O.COLOR, n, 0), O.whole(O.SOLARIZE, n, 128)
        first = np.where(choice == 0, grey, np.where(choice == 1, solarized, horizontal))
        return np.stack([first, np.where(choice == 2, vertical, O.whole(O.COPY, n))])


@dataclass
class ColorJitter:
    """torchvision's ColorJitter: brightness, contrast and saturation in random order, by factors uniform in 1 +- each.

    A factor is at least 0. One that is 0 here is left out. Raises ValueError for negative ones.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise ValueError(f"{self}: each must be at least 0")

    def draw(self, rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
        strengths = {O.BRIGHTNESS: self.brightness, O.CONTRAST: self.contrast, O.COLOR: self.saturation}
        layers = [O.real(k, n, rng.uniform(max(0, 1 - s), 1 + s, n)) for k, s in strengths.items() if s > 0]
        order = rng.random((len(layers), n)).argsort(0)
        return np.array(layers, np.int32).reshape(-1, n, O.COLUMNS)[order, np.arange(n)]


@dataclass
class Augmentation:
    """Policies one after the other; how geometric operations interpolate, and the colour outside of the image."""

    policies: list[Policy]
    interpolation: str = "bicubic"
    fill: tuple[int, int, int] = (124, 116, 104)

    def draw(self, rng: np.random.Generator, n: int, size: tuple[int, int]) -> Tensor:
        """int32 [layers,n,8] for n images of size (H, W)."""
        return torch.from_numpy(np.concatenate([policy.draw(rng, n, size) for policy in self.policies]))

    def __call__(self, images: Tensor, rng: np.random.Generator, buffers: Buffers | None = None) -> Tensor:
        """New images uint8 [B,H,W,3] from such images; on the CPU in two of the buffers, if given."""
        n, height, width, _ = images.shape
        table, out = self.draw(rng, n, (height, width)), None
        if images.is_cuda:
            table = table.pin_memory().to(images.device, non_blocking=True)
        elif buffers is not None:
            out = tuple(buffers.next((n, 3, height, width), torch.uint8).permute(0, 2, 3, 1) for _ in range(2))
        return randaugment(images, table, self.interpolation, self.fill, out=out)


def augmentation(cfg: Config) -> Augmentation | None:
    """What the config's `augment` says; None: nothing. Raises ValueError for values outside their range."""
    augment, policies = cfg.augment, []
    if augment.kind == "randaugment":
        policies.append(RandAugment(augment.n, augment.magnitude, augment.std, augment.prob, augment.variant))
    if augment.kind == "three":
        policies.append(ThreeAugment())
    if any(augment.jitter):
        policies.append(ColorJitter(*augment.jitter))
    fill = augment.fill or tuple(round(255 * v) for v in cfg.data.mean)
    return Augmentation(policies, augment.interpolation, fill) if policies else None
