"""How a coarse grid of values covers the pixels of an image: the nearest cell, or bilinearly between cells' centres.

Along a side of L pixels and n cells, pixel p takes

    nearest    cell p n // L
    bilinear   at place t = max((2 p + 1) n / 2 L - 1/2, 0): (1 - t + f) of cell f = floor(t), the rest of cell f + 1

which is torch's bilinear interpolation with align_corners=False. Places are whole numbers of 1 / 2 L cell, so both
shares are exact.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels._triton import jit, tl
from fastmix.kernels.host_to_device import constant

MODES = ("nearest", "bilinear")


def places(length: int, cells: int, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel along a side: its two cells, int64 [length] each, and the second's share, float64 [length]."""
    pixel = np.arange(length, dtype=np.int64)
    if mode == "nearest":
        return pixel * cells // length, pixel * cells // length, np.zeros(length)
    first, rest = np.divmod(np.maximum((2 * pixel + 1) * cells - length, 0), 2 * length)
    return first, np.minimum(first + 1, cells - 1), rest / (2 * length)


def matrix(length: int, cells: int, mode: str) -> np.ndarray:
    """float64 [length,cells]: how much of each cell a pixel takes."""
    first, second, share = places(length, cells, mode)
    unit = np.eye(cells)
    return unit[first] * (1 - share)[:, None] + unit[second] * share[:, None]


def matrices(grid: Tensor, size: tuple[int, int], mode: str) -> tuple[Tensor, ...]:
    """Those of both sides of [B,h,w], of its type, where it lies."""
    sides = zip(size, grid.shape[1:], strict=True)
    return tuple(constant(matrix, *side, mode, device=grid.device).to(grid.dtype) for side in sides)


def upsample(grid: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """[B,h,w] to [B,H,W], in plain torch."""
    rows, columns = matrices(grid, size, mode)
    return torch.einsum("yr,brc,xc->byx", rows, grid, columns)


@jit
def around(pixel, LENGTH: tl.constexpr, CELLS: tl.constexpr):
    """Bilinear: the first of the two cells around a pixel, and the second's share. The second may lie outside."""
    place = tl.maximum((2 * pixel + 1) * CELLS - LENGTH, 0)
    first = place // (2 * LENGTH)
    return first, (place - first * (2 * LENGTH)).to(tl.float32) * (1 / (2 * LENGTH))


@jit
def upsampled(
    grid, y, x, mask,
    H: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BILINEAR: tl.constexpr,
):  # fmt: skip
    """The value that a grid of ROWS x COLUMNS cells has at pixel (y, x) of H x W."""
    if BILINEAR:
        top, down = around(y, H, ROWS)
        left, across = around(x, W, COLUMNS)
        over, under = grid + top * COLUMNS, grid + tl.minimum(top + 1, ROWS - 1) * COLUMNS
        right = tl.minimum(left + 1, COLUMNS - 1)
        upper = tl.load(over + left, mask=mask, other=0) * (1 - across)
        upper += tl.load(over + right, mask=mask, other=0) * across
        lower = tl.load(under + left, mask=mask, other=0) * (1 - across)
        lower += tl.load(under + right, mask=mask, other=0) * across
        value = upper * (1 - down) + lower * down
    else:
        value = tl.load(grid + (y * ROWS // H * COLUMNS + x * COLUMNS // W), mask=mask, other=0)
    return value
