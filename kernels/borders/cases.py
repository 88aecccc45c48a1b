"""Random images for border differences: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """Random images and partners."""

    samples: int
    size: tuple[int, int]
    blocks: int
    neighbours: int = 4

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)
        images = torch.from_numpy(rng.integers(0, 256, (self.samples, *self.size, 3), np.uint8))
        partner = torch.from_numpy(rng.integers(0, self.samples, self.samples).astype(np.int32))
        return dict(images=images, partner=partner, blocks=self.blocks, neighbours=self.neighbours)


CASES = [Case(3, (32, 32), 4), Case(2, (16, 16), 8), Case(2, (23, 17), 3), Case(2, (9, 13), 2, 3), Case(1, (5, 6), 5)]
