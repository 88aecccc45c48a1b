"""Blur: out of focus, behind frosted glass, moved, zoomed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.engine.robustness.corruptions.filters import correlate, enlarged, gaussian_blur, smeared
from fastmix.engine.robustness.draws import Draws

CONSTANTS = {
    "defocus_blur": {  # radius of the disk, deviation of the Gaussian that softens its edge, in pixels
        "imagenet": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "tiny": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    },
    "glass_blur": {  # deviation of the blur before and after, farthest displacement in pixels, rounds
        "imagenet": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "tiny": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "cifar": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    },
    "motion_blur": {  # radius and deviation of the smear, in pixels
        "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "tiny": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    },
    "zoom_blur": {  # end and step of numpy.arange from 1: the factors
        "imagenet": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "tiny": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "cifar": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    },
}


def defocus(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """The mean over a disk, whose edge is softened."""
    return correlate(x, torch.from_numpy(disk(*constants)).to(x.device)[None], "reflect")


def disk(radius: float, softness: float) -> np.ndarray:
    """The mean over a disk as a kernel float32 [K,K], blurred by a Gaussian of 3x3 values, of radii above 8 of 5x5."""
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    across = np.arange(-reach, reach + 1)
    inside = (across**2 + across[:, None] ** 2 <= radius**2).astype(np.float64)
    weights = np.exp(-0.5 * (np.arange(-taps, taps + 1) / softness) ** 2)
    weights /= weights.sum()
    rows = np.pad(inside / inside.sum(), taps, mode="reflect")
    columns = sum(w * rows[k : k + len(across)] for k, w in enumerate(weights))
    return sum(w * columns[:, k : k + len(across)] for k, w in enumerate(weights)).astype(np.float32)


def glass(x: Tensor, constants: tuple[float, int, int], draws: Draws) -> Tensor:
    """Blurred, every pixel moved by up to so many pixels, blurred again.

    The authors go through the pixels from the last to the first and mean to swap each with a neighbour; their line
    copies the neighbour instead, so that one pixel may be seen several times. ImageNet-C has been made with it, and so
    it is here.
    """
    sigma, farthest, rounds = constants
    x = gaussian_blur(x, sigma).clamp_(0, 255).floor_()
    size = x.shape[-1]
    for _ in range(rounds):
        seen = copied(draws.whole(-farthest, farthest, 2, size, size), farthest)
        x = x.flatten(2).gather(2, seen[:, None].expand(-1, 3, -1)).view_as(x)
    return gaussian_blur(x, sigma)


def copied(moves: Tensor, farthest: int) -> Tensor:
    """The places that pixels show, int64 [B,S*S], after each in turn, from the last to the first, has taken its
    neighbour's value; moves int64 [B,2,S,S] down and to the right. Up to `farthest` from the border none moves.

    A neighbour that comes later in the picture has had its turn, and shows what it took; one that comes earlier shows
    itself. So a pixel's place is the end of a chain of neighbours, which is found by halving its length.
    """
    size = moves.shape[-1]
    own = torch.arange(size * size, device=moves.device)
    rows, columns = own // size, own % size
    turn = (torch.minimum(rows, columns) > farthest) & (torch.maximum(rows, columns) <= size - farthest)
    source = torch.where(turn, own + moves[:, 0].flatten(1) * size + moves[:, 1].flatten(1), own)
    ends = source <= own
    follow = torch.where(ends, own, source)  # a chain stays where it ends
    for _ in range((size * size).bit_length()):
        further = follow.gather(1, follow)
        if not follow.is_cuda and torch.equal(further, follow):
            break
        follow = further
    return source.gather(1, follow)


def motion(x: Tensor, constants: tuple[int, float], draws: Draws) -> Tensor:
    """Smeared in a direction from -45 to 45 degrees."""
    radius, sigma = constants
    angles = draws.uniform() * 90 - 45
    return smeared(x, radius, sigma, angles)


def zoom(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """The mean of the image and of enlargements of its middle, the factor 1 among them."""
    end, step = constants
    factors = np.arange(1, end, step)
    return sum((enlarged(x, float(factor)) for factor in factors), x) / (len(factors) + 1)
