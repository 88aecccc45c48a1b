"""GridMix, as benchmarked: a grid of holes through which the partner shows."""

from __future__ import annotations

import numpy as np

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer, interval, positive, whole


def stripes(length: int, start: np.ndarray, extent: np.ndarray, cell: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """1 where 0 <= p - start < extent and (p - start) mod cell < hole, for p in 0..length-1. bool [n, length]"""
    offset = np.arange(length) - start[:, None]
    return (offset >= 0) & (offset < extent[:, None]) & (offset % cell[:, None] < hole[:, None])


def wrapped_stripes(length: int, start, extent, cell, hole) -> np.ndarray:
    """The same holes written as Python slices, whose negative ends count from the far edge. bool [n, length]"""
    mask, pixel = np.zeros((len(start), length), bool), np.arange(length)
    for k in range(int((extent // cell).max()) + 1):
        begin = np.minimum(k * cell, extent)
        ends = [start + begin, start + np.minimum(begin + hole, extent)]
        low, high = (np.clip(np.where(e < 0, e + length, e), 0, length)[:, None] for e in ends)
        mask |= (pixel >= low) & (pixel < high)
    return mask


class GridMix(InputMixer):
    """out = x_j in the holes of a grid, x_i elsewhere; label weight of y_i = 1 - hole area / image area.

    lam ~ Beta(alpha, alpha); a crop of area HW * U(area) and height/width ~ U(aspect), placed uniformly, is divided
    into square cells, `holes` of them across (uniform over whole numbers); each cell shows the partner in a square hole
    of side cell * sqrt(1 - lam), at least 1 pixel and at most cell - 1. The mask is a product of a row and a column
    pattern:
        [0 <= y-y0 < ch] [0 <= x-x0 < cw] [(y-y0) mod cell < hole] [(x-x0) mod cell < hole]
    Dobrynin, "GridMixup" (2020); OpenMixup reports it as GridMix. The paper of that name (Baek, Bang, Shim, Pattern
    Recognition 2021) is another method: `gridmix_cells`.

    Cost: one image is read and one written; a table of H + W entries instead of a mask.
    Departs from the authors' code: a crop larger than the image is cut to it; partners by a cyclic shift; lam from a
    Beta distribution, as in OpenMixup, where the author draws U(0.1, 0.9).
    variant openmixup: a random permutation; crops larger than the image (56 % of the draws with the default ranges)
    start at a negative place, and holes there are written with negative indices: they land at the far edge or vanish.
    """

    def __init__(
        self,
        alpha: float = 0.2,
        holes: tuple[int, int] = (2, 6),
        area: tuple[float, float] = (0.5, 1.0),
        aspect: tuple[float, float] = (0.5, 2.0),
        granularity: str = "batch",
        variant: str = "paper",
    ):
        super().__init__(granularity, variant)
        self.alpha = positive(self.name, "alpha", alpha)
        self.holes = tuple(whole(self.name, "holes", k, most=256) for k in interval(self.name, "holes", holes))
        self.area = interval(self.name, "area", area, most=1.0)
        self.aspect = interval(self.name, "aspect", aspect)

    def plan(self, batch: Batch) -> Plan:
        (h, w), n, rng = batch.size, self.draws(batch), batch.rng
        lam = rng.beta(self.alpha, self.alpha, n)
        across = rng.integers(self.holes[0], self.holes[1] + 1, n)
        aspect = rng.uniform(*self.aspect, n)
        crop_w = np.sqrt(np.floor(h * w * rng.uniform(*self.area, n)) / aspect).astype(int)
        crop_h = (crop_w * aspect).astype(int)
        if self.variant == "paper":
            crop_h, crop_w = np.minimum(crop_h, h), np.minimum(crop_w, w)
        y = ((h - crop_h) * rng.random(n)).astype(int)
        x = ((w - crop_w) * rng.random(n)).astype(int)
        cell = np.maximum(-(-crop_w // across), 1)
        hole = np.clip((cell * np.sqrt(1 - lam)).astype(int), 1, cell - 1)
        pattern = stripes if self.variant == "paper" else wrapped_stripes
        return Plan.profile(self.pair(batch), pattern(h, y, crop_h, cell, hole), pattern(w, x, crop_w, cell, hole))
