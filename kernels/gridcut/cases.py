"""Random grid energies: what the tests check and the benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """Random arguments of `gridcut`, a function of the seed: unaries in 0..1, edge weights in 0..coupling."""

    samples: int
    labels: int
    grid: tuple[int, int]
    coupling: float = 0.5
    exact: bool | None = None

    def __str__(self) -> str:
        way = {None: "", True: " exact", False: " annealed"}[self.exact]
        return f"{self.samples}x{self.labels} on {self.grid[0]}x{self.grid[1]}, {self.coupling}{way}"

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)
        n, (rows, columns) = self.samples, self.grid
        unary = rng.random((n, self.labels, rows, columns))
        down = self.coupling * rng.random((n, rows - 1, columns))
        right = self.coupling * rng.random((n, rows, columns - 1))
        arrays = {"unary": unary, "down": down, "right": right}
        return {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()} | {"exact": self.exact}


CASES = [
    Case(3, 2, (2, 2)),
    Case(2, 3, (4, 4)),
    Case(2, 4, (3, 2), 2.0),
    Case(1, 2, (3, 8), 0.2),
    Case(2, 3, (2, 3), exact=False),
    Case(1, 2, (5, 6), 0.2, exact=False),
    Case(1, 4, (3, 3), 1.0, exact=False),
    Case(1, 3, (16, 16)),
]
