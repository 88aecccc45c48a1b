"""Random erasing (Zhong et al. 2017): rectangles of the source images that show noise, drawn as one small table.

The noise is never stored: a 32-bit hash of (seed of the image, position, channel) picks one of 4096 quantiles of its
distribution, so that every implementation of the mix pass shows the same value at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVELS = 4096  # noise values to pick from; a power of two


@dataclass
class Erase:
    """Rectangles of the *source* images that show noise instead (random erasing, before the mix as in timm).

    boxes int32 [B,5]: y0 y1 x0 x1 (half open; empty = nothing) and a seed; fill float32 [3,4096]: noise values in
    pixel units (0..255), of which each pixel and channel takes the one that its hash picks.
    """

    boxes: Tensor
    fill: Tensor

    def to(self, device) -> Erase:
        """The same on `device`, copied without a sync; fill, which does not change, had better be there already."""
        device = torch.device(device)
        pin = device.type == "cuda" and self.boxes.device.type == "cpu"
        boxes = self.boxes.pin_memory() if pin else self.boxes
        return Erase(boxes.to(device, non_blocking=True), self.fill.to(device, non_blocking=True))

    def of(self, rows: slice) -> Erase:
        """That of some of the images."""
        return Erase(self.boxes[rows], self.fill)

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        n: int,
        size: tuple[int, int],
        prob: float,
        fill: Tensor,
        area: tuple[float, float] = (0.02, 1 / 3),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
        attempts: int = 10,
    ) -> Erase:
        """At most one rectangle for each of n images of size (H, W), as timm's RandomErasing draws them.

        An image is erased with probability `prob`: the share of its area is uniform in `area`, height / width
        log-uniform in `aspect`, the corner uniform; a rectangle that does not fit inside is drawn again, up to
        `attempts` times, then the image is left alone.
        """
        height, width = size
        target = rng.uniform(*area, (n, attempts)) * (height * width)
        ratio = np.exp(rng.uniform(*np.log(aspect), (n, attempts)))
        h, w = (np.rint(np.sqrt(v)).astype(np.int64) for v in (target * ratio, target / ratio))
        fits = (h < height) & (w < width)
        first = (np.arange(n), fits.argmax(1))
        erased = (rng.random(n) < prob) & fits.any(1)
        h, w = np.where(erased, h[first], 0), np.where(erased, w[first], 0)
        top, left = rng.integers(0, np.maximum(height - h, 0) + 1), rng.integers(0, np.maximum(width - w, 0) + 1)
        seed = rng.integers(-(2**31), 2**31, n)
        boxes = np.stack([top, top + h, left, left + w, seed], 1).astype(np.int32)
        return cls(torch.from_numpy(boxes), fill)


def noise(mean: tuple[float, float, float], std: tuple[float, float, float], whole: bool = False) -> Tensor:
    """Quantiles of a normal distribution a channel, in pixel units (0..255): the `fill` of Erase, float32 [3,4096].

    timm's mode "pixel", N(0,1) after normalising by mean_c and std_c, is mean = 255 * mean_c, std = 255 * std_c;
    std = 0 is a constant colour. whole: rounded and clipped to what a uint8 image can show.
    """
    quantile = torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    fill = torch.tensor(mean, dtype=torch.float64)[:, None] + torch.tensor(std, dtype=torch.float64)[:, None] * quantile
    return (fill.round().clamp(0, 255) if whole else fill).float()
