"""Random arguments for the crop pass: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastmix.kernels.crop.table import offsets, rows


@dataclass(frozen=True)
class Case:
    """Random arguments of `crop`, a function of the seed.

    sizes: (height, width) of the images; size: of the results; windows: "random" floats inside the image, "all" of it,
    "pad", copied, hanging over the edge, or "reflect", mirrored there; layout: "interleaved", "planar" or "mixed";
    separate: a tensor an image.
    """

    sizes: tuple[tuple[int, int], ...]
    size: int
    windows: str = "random"
    interpolation: str = "bilinear"
    whole: bool = False
    layout: str = "interleaved"
    separate: bool = False

    def __str__(self) -> str:
        flags = " whole" * self.whole + " separate" * self.separate
        return f"{self.windows} {self.interpolation} {len(self.sizes)}x{self.size} {self.layout}{flags}"

    def images(self, seed: int = 0) -> list[np.ndarray]:
        """uint8 [h,w,3] each."""
        rng = np.random.default_rng(seed)
        return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in self.sizes]

    def wanted(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """windows (y, x, h, w) float64 [n,4] and flips bool [n]."""
        rng = np.random.default_rng([seed, 1])
        sides = np.array(self.sizes, np.float64)
        if self.windows == "pad":
            corner = rng.integers(-self.size - 1, sides.astype(int) + 2)
            extent = np.full_like(sides, self.size)
        elif self.windows == "reflect":
            corner = rng.integers(1 - sides.astype(int), 2 * sides.astype(int) - self.size)
            extent = np.full_like(sides, self.size)
        elif self.windows == "all":
            corner, extent = np.zeros_like(sides), sides
        else:
            extent = np.maximum(sides * rng.uniform(0.1, 1, sides.shape), np.minimum(sides, 1))
            corner = (sides - extent) * rng.random(sides.shape)
            at_pixels = rng.random((len(sides), 1)) < 0.3
            corner, extent = np.where(at_pixels, np.floor(corner), corner), np.where(at_pixels, np.ceil(extent), extent)
        return np.concatenate([corner, extent], 1), rng.random(len(sides)) < 0.5

    def planar(self) -> np.ndarray:
        """Which of the images are stored [3,h,w], bool [n]."""
        kinds = {"interleaved": [False], "planar": [True], "mixed": [False, True]}[self.layout]
        return np.resize(kinds, len(self.sizes))

    def arguments(self, dtype: torch.dtype = torch.uint8, seed: int = 0) -> dict:
        """The keyword arguments of one call of `crop` or of its reference."""
        planar = self.planar()
        stored = [
            torch.from_numpy(image).permute(2, 0, 1).contiguous() if p else torch.from_numpy(image)
            for image, p in zip(self.images(seed), planar, strict=True)
        ]
        if self.separate:
            pixels, places = stored, offsets(stored)
        else:
            pixels = torch.cat([image.reshape(-1) for image in stored])
            places = np.cumsum([0, *(image.numel() for image in stored[:-1])])
        heights, widths = np.array(self.sizes).T
        table = rows(
            heights, widths, *self.wanted(seed), self.size, places,
            planar=planar, interpolation=self.interpolation, whole=self.whole, reflect=self.windows == "reflect",
        )  # fmt: skip
        return dict(pixels=pixels, table=torch.from_numpy(table), size=self.size, interpolation=self.interpolation)


MANY = ((1, 1), (1, 9), (5, 2), (13, 20), (31, 17), (40, 40), (64, 3), (49, 60))
LARGE = ((14, 150), (150, 14))

CASES = [
    Case(sizes, size, windows, interpolation, whole, layout, separate)
    for interpolation in ("bilinear", "bicubic")
    for sizes, size, windows, whole, layout, separate in (
        (MANY, 7, "random", False, "mixed", False),
        (MANY, 16, "random", True, "mixed", True),
        (MANY, 33, "all", False, "interleaved", False),
        (MANY, 8, "pad", True, "planar", False),
        (((1, 1),), 5, "random", False, "planar", True),
        (((3, 5),), 1, "all", False, "interleaved", False),
        (LARGE, 12, "all", False, "mixed", True),
        (((4, 9), (8, 8), (5, 40)), 8, "reflect", False, "mixed", False),
    )
]
