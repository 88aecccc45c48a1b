"""ResizeMix: the whole partner, made small and pasted."""

from __future__ import annotations

import numpy as np

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer, interval, positive
from fastmix.mixers.cutmix import clipped_box


class ResizeMix(InputMixer):
    """out = x_j, shrunk by tau (nearest neighbour), inside a box of floor(tau H) x floor(tau W), x_i outside;
    label weight of y_i = 1 - box area / image area.

    tau ~ U(scope). The box is placed for each sample: a uniform centre, then shifted so that all of it is inside, which
    puts extra mass on the borders. E[share of the partner] = E[tau**2] = 0.243.
    Qin et al., "ResizeMix: Mixing Data with Preserved Object Information and True Labels", arXiv:2012.11101, 2020.

    Cost: one image is read (inside the box with a stride) and one written.
    alpha, where given: tau ~ Beta(alpha, alpha), replaced by a draw of U(scope) where it falls outside the scope
    (OpenMixup's `use_alpha`; 1.0 is the same law as no alpha).
    Departs from the authors' code: partners by a cyclic shift; a box has at least one pixel.
    variant openmixup: a random permutation; CutMix's box with sides 2*(floor(tau H)//2), one place for the batch,
    clipped at the border; the whole partner is squeezed into what is left of it, so it is distorted and smaller (its
    share is 0.173 instead of 0.243). An empty box, an error there, leaves the image as it is.
    """

    drawn = "τ"

    def __init__(
        self,
        alpha: float | None = None,
        scope: tuple[float, float] = (0.1, 0.8),
        granularity: str = "batch",
        variant: str = "paper",
    ):
        super().__init__(granularity, variant)
        self.alpha = None if alpha is None else positive(self.name, "alpha", alpha)
        self.scope = interval(self.name, "scope", scope, most=1.0)

    def tau(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """The factors by which the partners shrink. float64 [n]"""
        tau = rng.uniform(*self.scope, n)
        if self.alpha is None:
            return tau
        drawn = rng.beta(self.alpha, self.alpha, n)
        return np.where((drawn >= self.scope[0]) & (drawn <= self.scope[1]), drawn, tau)

    def plan(self, batch: Batch) -> Plan:
        (h, w), rng = batch.size, batch.rng
        tau = self.tau(rng, self.draws(batch))
        height, width = (h * tau).astype(int), (w * tau).astype(int)
        if self.variant == "openmixup":
            y0, y1, x0, x1 = clipped_box(rng, height, width, batch.size)
            scale_y, scale_x = h / np.maximum(y1 - y0, 1), w / np.maximum(x1 - x0, 1)
        else:
            height, width = np.maximum(height, 1), np.maximum(width, 1)
            y0 = np.clip(rng.integers(0, h, len(batch)) - height // 2, 0, h - height)
            x0 = np.clip(rng.integers(0, w, len(batch)) - width // 2, 0, w - width)
            y1, x1 = y0 + height, x0 + width
            scale_y = scale_x = 1 / tau
        return Plan.window(self.pair(batch), y0, y1, x0, x1, 0, 0, scale_y, scale_x, batch.size)
