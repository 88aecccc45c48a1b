"""Random saliencies and masks for block transport: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """Random arguments; levels: how many different saliencies there are (0: no two alike)."""

    samples: int
    grid: tuple[int, int]
    eps: float = 0.8
    levels: int = 0

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)
        n = self.grid[0] * self.grid[1]
        values = rng.random((self.samples, n)) ** 3
        if self.levels:
            values = np.floor(values * self.levels) + 1
        values /= values.sum(1, keepdims=True)
        wanted = rng.random((self.samples, n)) < rng.random((self.samples, 1))
        saliency = torch.from_numpy(values).to(dtype)
        return dict(saliency=saliency, wanted=torch.from_numpy(wanted), grid=self.grid, eps=self.eps)


CASES = [Case(6, (2, 2)), Case(3, (4, 4)), Case(2, (3, 5), levels=2), Case(2, (4, 3), eps=0.02), Case(1, (1, 1))]
