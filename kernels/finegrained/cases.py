"""Random images for fine-grained saliency: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """Images with a spot on noise; the first is flat, the second has two equal spots."""

    n: int
    size: tuple[int, int]
    factor: int | None = None

    def __str__(self) -> str:
        return f"{self.n}x{self.size[0]}x{self.size[1]} factor {self.factor}"

    def arguments(self, dtype: torch.dtype = torch.uint8, seed: int = 0) -> dict:
        """The keyword arguments of one call of `finegrained` or of its reference."""
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (self.n, *self.size, 3), dtype=np.uint8) // 2
        for image in images:
            y, x = (rng.integers(length) for length in self.size)
            image[y : y + self.size[0] // 4, x : x + self.size[1] // 4] += 100
        images[0] = 77
        images[1:2] = 0
        images[1:2, [1, self.size[0] - 2], self.size[1] // 2] = 200
        return dict(images=torch.from_numpy(images), factor=self.factor)


CASES = [
    Case(1, (3, 4)),
    Case(3, (2, 1)),
    Case(3, (9, 14), factor=2),
    Case(4, (33, 20)),
    Case(2, (40, 67), factor=3),
]
