"""Random arguments for the augmentation pass: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastmix.kernels.randaugment import operations as O


def tables(rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
    """A layer int32 [n,8] in which every operation occurs, if n is large enough, with parameters up to both ends."""
    factor = np.concatenate([[0, 1, 0.1, 1.9], rng.uniform(0, 2, n)])[:n].astype(np.float32)
    horizontal, vertical = O.blur(np.concatenate([[0, 2.0], rng.uniform(0, 2, n)])[:n])
    shifts = rng.uniform(-1.2, 1.2, (2, n)) * np.array(size)[:, None]
    kinds = [
        O.whole(O.COPY, n),
        O.posterize(rng.integers(0, 9, n)),
        O.whole(O.SOLARIZE, n, rng.integers(0, 257, n)),
        O.whole(O.SOLARIZE_ADD, n, rng.integers(0, 129, n)),
        *(O.real(k, n, factor) for k in (O.BRIGHTNESS, O.CONTRAST, O.COLOR, O.SHARPNESS)),
        O.whole(O.AUTOCONTRAST, n),
        O.whole(O.EQUALIZE, n),
        horizontal,
        vertical,
        O.rotate(rng.uniform(-180, 180, n), size),
        O.shear(rng.uniform(-0.5, 0.5, n), rng.uniform(-0.5, 0.5, n)),
        O.translate(*shifts),
        O.translate(*np.rint(shifts)),
    ]
    return np.stack(kinds)[rng.permutation(n) % len(kinds), np.arange(n)]


@dataclass(frozen=True)
class Case:
    """Random arguments of `randaugment`, a function of the seed: noise, flat images and ones of few values."""

    n: int
    size: tuple[int, int]
    interpolation: str = "bicubic"
    layers: int = 2

    def __str__(self) -> str:
        return f"{self.n}x{self.size[0]}x{self.size[1]} {self.interpolation} {self.layers} layers"

    def arguments(self, dtype: torch.dtype = torch.uint8, seed: int = 0) -> dict:
        """The keyword arguments of one call of `randaugment` or of its reference."""
        rng = np.random.default_rng(seed)
        low = rng.integers(0, 200, (self.n, 1, 1, 3))
        high = low + rng.choice([1, 2, 40, 56], (self.n, 1, 1, 3))
        images = torch.from_numpy(rng.integers(low, high, (self.n, *self.size, 3)).astype(np.uint8))
        images[::2] = torch.from_numpy(rng.integers(0, 256, images[::2].shape, dtype=np.uint8))
        table = torch.from_numpy(np.stack([tables(rng, self.n, self.size) for _ in range(self.layers)]))
        return dict(images=images, table=table, interpolation=self.interpolation, fill=(1, 120, 255))


CASES = [
    Case(1, (5, 7), layers=3),
    Case(1, (2, 1), "bilinear"),
    Case(48, (13, 20), "nearest"),
    Case(48, (16, 16), "bilinear"),
    Case(48, (12, 17)),
    Case(6, (150, 160)),
]
