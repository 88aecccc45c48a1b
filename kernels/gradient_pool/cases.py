"""Random gradients for the pooling: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Case:
    """A random gradient, some of it 0."""

    samples: int
    size: tuple[int, int]
    grid: tuple[int, int]

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        made = torch.Generator().manual_seed(seed)
        gradient = torch.randn(self.samples, *self.size, 3, generator=made) * 1e-3
        gradient = gradient * (torch.rand(self.samples, *self.size, 1, generator=made) < 0.8)
        return dict(gradient=gradient.to(dtype).permute(0, 3, 1, 2), grid=self.grid)


CASES = [Case(2, (32, 32), (4, 4)), Case(2, (23, 17), (3, 5)), Case(1, (40, 40), (1, 1)), Case(3, (7, 5), (7, 5))]
