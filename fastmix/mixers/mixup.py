"""MixUp: a convex combination of two images and of their labels."""

from __future__ import annotations

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer, positive


class MixUp(InputMixer):
    """out = lam * x_i + (1 - lam) * x_j, lam ~ Beta(alpha, alpha); label lam * y_i + (1 - lam) * y_j.

    Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018.

    Cost: each image is read twice and written once.
    Departs from the authors' code: partners by a cyclic shift instead of a random permutation, which pairs an image
    with itself once a batch on average; lam is rounded to 2**-16, image and label alike.
    variant openmixup: the random permutation.
    """

    def __init__(self, alpha: float = 0.2, granularity: str = "batch", variant: str = "paper"):
        super().__init__(granularity, variant)
        self.alpha = positive(self.name, "alpha", alpha)

    def plan(self, batch: Batch) -> Plan:
        lam = batch.rng.beta(self.alpha, self.alpha, self.draws(batch))
        return Plan.blend(self.pair(batch), lam)
