"""Random arguments for the joint solver of Co-Mixup: what the tests check and the benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """Random arguments of `comixup`, a function of the seed: a lump of saliency or two in each input."""

    sizes: tuple[int, ...]
    grid: tuple[int, int]
    iterations: int = 3
    beta: float = 0.32
    gamma: float = 1.0
    resolve: bool = True

    def __str__(self) -> str:
        options = f" beta {self.beta} gamma {self.gamma}" + " resolve" * self.resolve
        return f"{'+'.join(map(str, self.sizes))} on {self.grid[0]}x{self.grid[1]} x{self.iterations}{options}"

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        """The keyword arguments of one call of `comixup` or of its reference."""
        rng = np.random.default_rng(seed)
        groups, m, (gh, gw) = len(self.sizes), max(self.sizes), self.grid
        y, x = (((np.arange(side) + 0.5) / side) for side in self.grid)
        saliency = 0.02 * rng.random((groups, m, gh, gw))
        for _ in range(2):
            cy, cx, width, height = rng.random((4, groups, m, 1, 1))
            away = (y[:, None] - cy) ** 2 + (x - cx) ** 2
            saliency += height * np.exp(-away / (0.1 + 0.4 * width) ** 2)
        saliency = saliency.reshape(groups, m, gh * gw)
        saliency /= saliency.sum(2, keepdims=True)
        prior = rng.dirichlet(np.full(m, 2.0), groups)[..., None]
        cost = -saliency - 0.05 / (gh * gw) * np.log(prior + 1e-8)
        place = rng.random((groups, m))
        far = np.abs(place[:, :, None] - place[:, None])
        compatibility = 0.999 * np.eye(m) + 0.001 * m * far / np.maximum(far.sum((1, 2), keepdims=True), 1e-9)
        start = rng.integers(0, np.array(self.sizes)[:, None, None], (groups, m, gh * gw))
        return dict(
            cost=torch.from_numpy(cost).to(dtype),
            compatibility=torch.from_numpy(compatibility).to(dtype),
            start=torch.from_numpy(start),
            sizes=torch.tensor(self.sizes, dtype=torch.int32),
            grid=self.grid,
            beta=self.beta,
            gamma=self.gamma,
            iterations=self.iterations,
            resolve=self.resolve,
        )


CASES = [
    Case((3,), (2, 3), iterations=2, gamma=0.05),
    Case((2, 1), (2, 2), iterations=2),
]
