"""Border differences in plain torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.host_to_device import send
from fastmix.kernels.plan import cell_edges

DTYPES = (torch.float32,)


def reference(images: Tensor, partner: Tensor, blocks: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """`borders` in plain torch, by cumulative sums."""
    deep = deep_of(images, blocks, neighbours)
    right = _borders_along_y(images.transpose(1, 2), partner, blocks, deep[::-1])
    return _borders_along_y(images, partner, blocks, deep), right.transpose(2, 3).contiguous()


def _borders_along_y(images: Tensor, partner: Tensor, blocks: int, deep: tuple[int, int]) -> Tensor:
    """Borders between one row of blocks and the next, [B,4,b-1,b]."""
    (_, height, width, _), (k, along) = images.shape, deep
    edges = send(cell_edges(height, blocks)[1:-1], images.device)
    across = cell_edges(width, blocks)
    starts = send(starts_of(width, blocks, along), images.device)
    rows = _cumulative(images.long(), 1)
    columns = _cumulative(torch.stack([rows[:, edges] - rows[:, edges - k], rows[:, edges + k] - rows[:, edges]]), 3)
    before, behind = columns[:, :, :, starts[1:]] - columns[:, :, :, starts[:-1]]  # [B,b-1,bins,3]
    cells = torch.searchsorted(starts, send(across, images.device))
    pairs = []
    for p in (partner.long(), slice(None)):
        for q in (partner.long(), slice(None)):
            levels = _cumulative((before[p] - behind[q]).abs().sum(3), 2)
            pairs.append(levels[:, :, cells[1:]] - levels[:, :, cells[:-1]])
    wide = send(np.diff(across), images.device)
    return torch.stack(pairs, 1).float() / (765 * k * wide).float()


def _cumulative(values: Tensor, axis: int) -> Tensor:
    """Sums of the values before each place, and of all, along an axis."""
    sums = values.cumsum(axis)
    return torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis)


def deep_of(images: Tensor, blocks: int, neighbours: int) -> tuple[int, int]:
    """Rows and columns of a bin."""
    return min(neighbours, images.shape[1] // blocks), min(neighbours, images.shape[2] // blocks)


def starts_of(length: int, blocks: int, along: int) -> np.ndarray:
    """The first pixel of every bin along a side, and the end."""
    edges = cell_edges(length, blocks)
    cells = zip(edges[:-1], edges[1:], strict=True)
    return np.append(np.concatenate([np.arange(*cell, along) for cell in cells]), length)
