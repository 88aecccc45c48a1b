"""CutMix: a rectangle of the partner."""

from __future__ import annotations

import numpy as np

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan, box_around
from fastmix.mixers.base import InputMixer, positive


def clipped_box(rng: np.random.Generator, height: np.ndarray, width: np.ndarray, size: tuple[int, int]) -> tuple:
    """Such boxes around uniform pixels: y0, y1, x0, x1, int [n]."""
    centre = tuple(rng.integers(0, length, len(height)) for length in size)
    return box_around(centre, (height, width), size)


class CutMix(InputMixer):
    """out = x_j inside a box, x_i outside; label weight of y_i = 1 - box area / image area, after clipping.

    lam ~ Beta(alpha, alpha); the box has sides H sqrt(1 - lam) and W sqrt(1 - lam) around a uniform pixel and is
    clipped to the image, so with r = sqrt(1 - lam) the expected share of the partner is (r - r**2 / 4)**2,
    below 1 - lam. An odd side loses a pixel, as in the authors' code (timm keeps it).
    Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.

    Cost: one image is read and one written; no pixel is read twice.
    Departs from the authors' code: partners by a cyclic shift instead of a random permutation.
    variant openmixup: a random permutation, drawn again up to 10 times while an image meets itself.
    """

    redraws = 10

    def __init__(self, alpha: float = 1.0, granularity: str = "batch", variant: str = "paper"):
        super().__init__(granularity, variant)
        self.alpha = positive(self.name, "alpha", alpha)

    def plan(self, batch: Batch) -> Plan:
        h, w = batch.size
        ratio = np.sqrt(1 - batch.rng.beta(self.alpha, self.alpha, self.draws(batch)))
        box = clipped_box(batch.rng, (h * ratio).astype(int), (w * ratio).astype(int), batch.size)
        return Plan.box(self.pair(batch), *box, batch.size)
