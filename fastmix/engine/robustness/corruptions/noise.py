"""Noise: what a sensor with little light, few photons and dead pixels adds. Each value of a pixel has its own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastmix.engine.robustness.draws import Draws

CONSTANTS = {
    "gaussian_noise": {  # standard deviation, of values in [0,1]
        "imagenet": (0.08, 0.12, 0.18, 0.26, 0.38),
        "tiny": (0.04, 0.08, 0.12, 0.15, 0.18),
        "cifar": (0.04, 0.06, 0.08, 0.09, 0.10),
    },
    "shot_noise": {  # photons of white
        "imagenet": (60, 25, 12, 5, 3),
        "tiny": (250, 100, 50, 30, 15),
        "cifar": (500, 250, 100, 75, 50),
    },
    "impulse_noise": {  # share of values that become 0 or 255
        "imagenet": (0.03, 0.06, 0.09, 0.17, 0.27),
        "tiny": (0.01, 0.02, 0.05, 0.08, 0.14),
        "cifar": (0.01, 0.02, 0.03, 0.05, 0.07),
    },
}
QUANTILES = 1 << 14
"""Of the photons of a pixel, from which one is picked."""


def gaussian(x: Tensor, deviation: float, draws: Draws) -> Tensor:
    """x + 255 c n, n normal."""
    return x.add_(draws.normal(*x.shape[1:]), alpha=255 * deviation)


def shot(x: Tensor, white: float, draws: Draws) -> Tensor:
    """255 k / c, k Poisson of mean c x / 255. k is looked up: a pixel's uniform number picks one of 2^14 quantiles."""
    table = photons(white).to(x.device)
    place = (draws.uniform(*x.shape[1:]) * QUANTILES).int()
    return table[x.int().mul_(QUANTILES).add_(place).long()].float().mul_(255 / white)


def impulse(x: Tensor, share: float, draws: Draws) -> Tensor:
    """0 or 255, each with probability c / 2, in place of a value."""
    u = draws.uniform(*x.shape[1:])
    return x.masked_fill_(u < share / 2, 0).masked_fill_(u > 1 - share / 2, 255)


@lru_cache(maxsize=5)
def photons(white: float) -> Tensor:
    """Photons of a pixel of each level at the middle of each of QUANTILES equal parts of [0,1]: the least k whose
    cumulated probability reaches it. int16 [256 * QUANTILES]"""
    means = white * np.arange(256) / 255
    most = int(white + 8 * white**0.5 + 16)  # seen less than once in 10^9
    k = np.arange(1, most)
    with np.errstate(divide="ignore"):
        logs = k * np.log(means[:, None]) - np.log(k).cumsum() - means[:, None]
    below = np.cumsum(np.column_stack([np.exp(-means), np.exp(logs)]), 1)
    middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return torch.from_numpy(np.concatenate([np.searchsorted(row, middles) for row in below]).astype(np.int16))
