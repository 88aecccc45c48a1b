"""Random distances for greedy pairing: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """Distances of random points, or whole numbers with many equals, or these below 0 and -0, or NaN here and there."""

    n: int
    kind: str = "points"

    def __str__(self) -> str:
        return f"{self.n} {self.kind}"

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        """The keyword arguments of one call of `farthest` or of its reference."""
        rng = np.random.default_rng(seed)
        points = rng.standard_normal((self.n, 3))
        distance = np.sqrt(((points[:, None] - points) ** 2).sum(2))
        if self.kind in ("equals", "below 0"):
            distance = np.minimum(distance.round(), 2)
        if self.kind == "below 0":
            distance *= np.where(rng.random(distance.shape) < 0.5, -1, -np.sign(distance))
        if self.kind == "nan":
            distance[rng.random(distance.shape) < 0.5] = np.nan
        return dict(distance=torch.from_numpy(distance.astype(np.float32)))


CASES = [
    Case(1),
    Case(2),
    Case(3),
    Case(33),
    Case(17, "equals"),
    Case(36, "equals"),
    Case(20, "below 0"),
    Case(9, "nan"),
]
