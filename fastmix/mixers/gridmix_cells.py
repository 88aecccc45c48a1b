"""GridMix, as published: each cell of a regular grid from one of the two images."""

from __future__ import annotations

import numpy as np

from fastmix.batch import Batch
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import InputMixer, positive, whole


class GridMixCells(InputMixer):
    """The image is divided into cells x cells; round(lam * cells**2) of them, chosen at random, stay the image's own,
    the others show x_j; label weight of y_i = area of its cells. lam ~ Beta(alpha, alpha).

    Baek, Bang, Shim, "GridMix: Strong regularization through local context mapping", Pattern Recognition 109, 2021.

    Cost: one image is read and one written; a bit a cell instead of a mask.
    Departs from the paper: a reconstruction of its mask only. Its auxiliary loss, which classifies each patch, is left
    out (it needs a head of its own on the feature map); 4 cells a side and the exact count of cells are our reading.
    """

    def __init__(self, alpha: float = 1.0, cells: int = 4, granularity: str = "batch"):
        super().__init__(granularity)
        self.alpha = positive(self.name, "alpha", alpha)
        self.cells = whole(self.name, "cells", cells, most=256)

    def plan(self, batch: Batch) -> Plan:
        n, q = self.draws(batch), self.cells
        kept = np.rint(batch.rng.beta(self.alpha, self.alpha, n) * q * q)
        order = batch.rng.random((n, q * q)).argsort(1)
        own = (order < kept[:, None]).reshape(n, q, q)
        return Plan.cells(self.pair(batch), own, batch.size)
