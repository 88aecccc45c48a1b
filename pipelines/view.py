"""View: how an image becomes an input of the model, size x size pixels; the same for every loader."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray

from fastmix.pipelines import sampling
from fastmix.pipelines.jpeg.decode import DECODES
from fastmix.pipelines.resize import INTERPOLATIONS

CROPS = ("rrc", "pad", "centre", "none")  # in the order of sampling.RRC, ...
PAD_MODES = ("zeros", "reflect")


@dataclass(frozen=True)
class View:
    """The crop, the flip and the resize of an image; a function of (seed, epoch, row) and of the image's size.

    size           int            pixels of both sides of the result
    crop           "rrc"          random resized crop: area share in `scale`, aspect w/h in `ratio`
                   "pad"          size x size pixels, anywhere in the image with a border of `pad` pixels around it
                   "centre"       short side to `resize` (None: as it is), then the size x size pixels of the centre
                   "none"         the whole image, stretched to size x size
    pad_mode       "zeros" or "reflect": the border is black, or mirrors the image without repeating its edge, which
                   then must have more than `pad` pixels a side
    flip           float          probability of a mirror image
    interpolation  "bilinear" or "bicubic", antialiased (see resize.py)
    decode         "exact", or "fast": a JPEG is first scaled in the DCT domain where the window has at least twice the
                   pixels that are needed; or "gpu": by nvJPEG

    Raises ValueError, naming the option, for a value out of range.
    """

    size: int
    crop: str = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    pad_mode: str = "zeros"
    resize: int | None = None
    flip: float = 0.0
    interpolation: str = "bilinear"
    decode: str = "exact"

    def __post_init__(self):
        words = {"crop": CROPS, "pad_mode": PAD_MODES, "interpolation": tuple(INTERPOLATIONS), "decode": DECODES}
        for option, allowed in words.items():
            if getattr(self, option) not in allowed:
                raise ValueError(f"{option} is {getattr(self, option)!r}; choose one of {', '.join(allowed)}")
        if self.size < 1:
            raise ValueError(f"size is {self.size}; it must be at least 1 pixel")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize is {self.resize}, smaller than the crop of {self.size} pixels; enlarge it")
        if self.pad < 0:
            raise ValueError(f"pad is {self.pad}; it must be at least 0 pixels")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; it must be a low and a high share of the area in (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {self.ratio}; it must be a low and a high aspect, above 0")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}; it must be a probability")

    def at(self, res: int | None) -> View:
        """The same view at another resolution; a resize before the crop keeps its proportion to it."""
        if res is None or res == self.size:
            return self
        if self.crop == "pad" or (self.crop == "centre" and self.resize is None):
            raise ValueError(f"crop {self.crop!r} takes pixels as they are; it has no other resolution")
        return replace(self, size=res, resize=self.resize and round(self.resize * res / self.size))

    @property
    def whole(self) -> bool:
        """Whether the resize filter sees the pixels around the window: the image is resized before it is cropped."""
        return self.crop == "centre"

    @property
    def reflects(self) -> bool:
        """Whether the image is mirrored at its edges where a window reaches beyond them."""
        return self.crop == "pad" and self.pad_mode == "reflect"

    def smallest(self) -> int:
        """The shortest side that an image may have, in pixels."""
        if self.crop == "pad":
            return max(self.size - 2 * self.pad, self.pad + 1 if self.reflects else 1)
        return self.size if self.crop == "centre" and self.resize is None else 1

    @property
    def window(self) -> sampling.Crop:
        """The crop, for compiled code."""
        kind = CROPS.index(self.crop)
        return sampling.Crop(kind, self.size, *map(float, self.ratio), self.pad, self.resize or 0, self.smallest())

    def draws(self, seed: int, epoch: int, rows: ndarray) -> ndarray:
        """What chance decides for these rows, before their images are known: float64 [n,k], see sampling.draws."""
        return sampling.draws(self.window, self.scale, seed, epoch, rows)

    def windows(
        self, heights: ndarray, widths: ndarray, seed: int, epoch: int, rows: ndarray
    ) -> tuple[ndarray, ndarray]:
        """Windows (y, x, h, w) in pixels, float64 [n,4], and flips, bool [n]; of images of these sizes, int64 [n]."""
        draws = self.draws(seed, epoch, rows)
        sides = (np.ascontiguousarray(side, np.int64) for side in (heights, widths))
        return sampling.windows(self.window, *sides, draws), draws[:, 0] < self.flip
