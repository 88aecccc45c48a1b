"""Random costs for Sinkhorn's iterations: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Case:
    """Random arguments with cost / eps up to 8: the further it goes, the more its rounding weighs in e**K."""

    samples: int
    n: int
    m: int
    iterations: int
    finish: str = "rows"

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        cost = torch.rand(self.samples, self.n, self.m, generator=torch.Generator().manual_seed(seed))
        return {"cost": 4 * cost, "eps": 0.5, "iterations": self.iterations, "finish": self.finish}


CASES = [
    Case(2, 49, 49, 5),
    Case(1, 1, 1, 1),
    Case(2, 7, 12, 3, "columns"),
    Case(2, 12, 7, 3),
    Case(1, 64, 64, 2, "columns"),
    Case(1, 70, 196, 2),
]
