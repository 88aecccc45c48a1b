"""SmoothMix: a soft, edge-free spot of the partner."""

from __future__ import annotations

import numpy as np

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer, interval


class SmoothMix(InputMixer):
    """out = (1 - G) * x_i + G * x_j; label weight of y_i = 1 - mean(G).

    G(y, x) = exp(-(y - cy)**2 / 2 sy**2) * exp(-(x - cx)**2 / 2 sx**2), centre uniform over the image,
    (sy, sx) = s * (H, W) with s ~ U(spread). mean(G) is 0.43 on average; there is no Beta, so no alpha.
    Lee, Zaheer, Astrid, Lee, "SmoothMix: a Simple Yet Effective Data Augmentation to Train Robust Classifiers", CVPR
    Workshops 2020.

    Cost: each image is read twice and written once, as in mixup; a table of H + W entries instead of a mask.
    Departs from the authors' code: partners by a cyclic shift; the Gaussian's factors are rounded to 1/256, so that the
    label is the exact mean of the mask; on an image that is not square the spot follows the two sides.
    variant openmixup: a random permutation; the centre on pixel corners 0..H-1; and its labels, which are *swapped*:
    y_i gets mean(G), the share of the partner. Only for reproducing its published numbers.
    """

    drawn = "s"

    def __init__(self, spread: tuple[float, float] = (0.25, 0.5), granularity: str = "batch", variant: str = "paper"):
        super().__init__(granularity, variant)
        self.spread = interval(self.name, "spread", spread)

    def plan(self, batch: Batch) -> Plan:
        n, rng = self.draws(batch), batch.rng
        sigma = rng.uniform(*self.spread, n)
        profiles = []
        for length in batch.size:
            centre = rng.uniform(0, length, n) if self.variant == "paper" else rng.integers(0, length, n)
            distance = np.arange(length) + 0.5 - centre[:, None]
            profiles.append(np.exp(-0.5 * (distance / (sigma[:, None] * length)) ** 2))
        plan = Plan.profile(self.pair(batch), *profiles)
        if self.variant == "openmixup":
            plan.table[:, [2, 3]] = plan.table[:, [3, 2]]
        return plan
