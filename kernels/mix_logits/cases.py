"""Random arguments for the mix pass with logits and for its gradient: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastmix.kernels.erase import Erase, noise
from fastmix.kernels.upsample import MODES

STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """Arguments of `mix_logits`, a function of the seed.

    The mean is below 0, so that results are away from 0 and a unit in the last place means the same for all.
    """

    n: int
    size: tuple[int, int]
    grid: tuple[int, int]
    mode: str
    erase: bool = False

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (self.n, *self.size, 3), dtype=np.uint8)
        return self._sources(rng, images) | dict(mean=(-1.0, -1.1, -0.9), dtype=dtype)

    def _sources(self, rng, images) -> dict:
        return dict(
            images=torch.from_numpy(images),
            partner=torch.from_numpy(np.roll(np.arange(self.n, dtype=np.int32), 1)),
            logits=torch.from_numpy(rng.normal(0, 1, (self.n, *self.grid)).astype(np.float32)),
            std=STD,
            mode=self.mode,
            erase=Erase.draw(rng, self.n, self.size, 0.75, noise((120,) * 3, (9, 8, 7))) if self.erase else None,
        )


@dataclass(frozen=True)
class GradCase(Case):
    """Arguments of `mix_logits_grad`, a function of the seed.

    Without erasing all terms of a sum have one sign, so that units in the last place measure the order of additions
    and not how far terms cancel.
    """

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)
        levels = 256 // self.n  # of each image, none of which another one shows
        images = levels * np.arange(self.n)[:, None, None, None] + rng.integers(0, levels, (self.n, *self.size, 3))
        sources = self._sources(rng, images.astype(np.uint8))
        sign = torch.where(sources["partner"] < torch.arange(self.n), -1.0, 1.0)  # of the differences
        g = torch.from_numpy(rng.random((self.n, *self.size, 3))).to(dtype).permute(0, 3, 1, 2)
        return sources | dict(grad_out=g, grad_s=0.3 * sign, grad_s2=0.2 * sign)


SHAPES = [
    (n, size, grid, mode, erase)
    for mode in MODES
    for n, size, grid, erase in (
        (1, (5, 7), (2, 3), False),
        (4, (6, 8), (3, 4), False),
        (2, (13, 10), (5, 10), False),
        (3, (7, 16), (1, 5), True),
    )
]
CASES = [Case(*shape) for shape in SHAPES]
GRAD_CASES = [GradCase(*shape) for shape in SHAPES]
