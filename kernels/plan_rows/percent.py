"""SnapMix's percent maps: how much of an activation map, resized to the image, lies in a box, without resizing it.

S = (R - min R) / sum (R - min R),    R = P_y A P_x',    sum of R over a box = a_y' A a_x

with the matrices P_y [H,h] and P_x [W,w] of bilinear resizing, where a sums the rows of P inside the box.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.host_to_device import constant

Box = tuple[Tensor, Tensor, Tensor, Tensor]  # y0, y1, x0, x1, half open, int64, of one or all samples


def share(activation: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """The part of each image's percent map that lies in its box, in [0,1]; by area where the map says nothing.

    float64 [B]; activation [B,h,w] of any float type; box of tensors [1] or [B]; size = (H, W).
    """
    a = activation.double()
    a = a - a.amin((1, 2), keepdim=True)  # no matter to the percent map, all the more to its rounding
    (y0, y1, x0, x1), (height, width) = box, size
    rows, columns, row_sums, column_sums = matrices(tuple(a.shape[1:]), size, a.device)

    def total(y: Tensor, x: Tensor) -> Tensor:
        return (y[:, None] @ a @ x[:, :, None]).flatten()

    lowest = (rows @ a @ columns.T).amin((1, 2))
    whole = total(row_sums[-1:], column_sums[-1:]) - height * width * lowest
    inside = total(row_sums[y1] - row_sums[y0], column_sums[x1] - column_sums[x0])
    area = torch.as_tensor((y1 - y0) * (x1 - x0)).double()
    part = (inside - area * lowest) / whole
    return torch.where(whole > 0, part, area / (height * width)).clamp(0, 1)


def matrices(cells: tuple[int, int], size: tuple[int, int], device: torch.device) -> list[Tensor]:
    """`between` and then `sums`, each along y and along x, on the device."""
    sides = list(zip(size, cells, strict=True))
    return [constant(make, *side, device=device) for make in (between, sums) for side in sides]


@cache
def resizing(length: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear resizing of `cells` to `length` pixels: some rows of its matrix P [length,cells], and the sums of the
    first 0, 1, ..., length rows, float64 [length+1,cells].

    The rows are those of the first and the last pixel between two neighbouring cells: between cells the resized map is
    bilinear, so it is least at such a pixel.
    """
    place = np.clip((np.arange(length) + 0.5) * cells / length - 0.5, 0, cells - 1)
    first = np.minimum(place.astype(int), max(cells - 2, 0))
    matrix = np.zeros((length, cells))
    np.add.at(matrix, (np.arange(length), first), 1 - (place - first))
    np.add.at(matrix, (np.arange(length), np.minimum(first + 1, cells - 1)), place - first)
    ends = np.diff(first, prepend=-1).astype(bool) | np.diff(first, append=cells).astype(bool)
    return matrix[ends], np.concatenate([np.zeros((1, cells)), matrix.cumsum(0)])


def between(length: int, cells: int) -> np.ndarray:
    """The rows of `resizing`."""
    return resizing(length, cells)[0]


def sums(length: int, cells: int) -> np.ndarray:
    """The sums of `resizing`."""
    return resizing(length, cells)[1]
