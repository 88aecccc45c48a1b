"""Block transport in plain torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.host_to_device import constant

DTYPES = (torch.float32,)
MOST = 16  # blocks along a side


def reference(saliency: Tensor, wanted: Tensor, grid: tuple[int, int], eps: float) -> Tensor:
    """`transport` in plain torch, with all costs [B,n,n] at once."""
    device, n = saliency.device, grid[0] * grid[1]
    y, x = torch.arange(n, device=device) // grid[1], torch.arange(n, device=device) % grid[1]
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    gain = torch.where(wanted[:, None], saliency[:, :, None], 0)
    cost = squared.float() * scale_of(grid, eps) - gain
    lost = torch.zeros_like(cost)
    for _ in range(max(grid)):
        now = cost + lost
        suits = torch.zeros_like(lost).scatter_(2, now.argmin(2, keepdim=True), 1)
        bids = torch.where(suits > 0, now, torch.inf)
        wins = torch.zeros_like(lost).scatter_(1, bids.argmin(1, keepdim=True), 1) * suits
        lost += suits - wins
    return torch.where(wins.any(1), wins.argmax(1), torch.arange(n, device=device)).int()


def scale_of(grid: tuple[int, int], eps: float) -> float:
    """The cost of a squared distance of one block, rounded to fp32."""
    return float(np.float32(eps / max(max(grid) - 1, 1) ** 2))


def offsets(grid: tuple[int, int]) -> np.ndarray:
    """Every way from one block to another, (squared distance, rows, columns), from near to far. int32 [K,3]

    Of equally far targets the first in row-major order comes first.
    """
    rows, columns = np.mgrid[1 - grid[0] : grid[0], 1 - grid[1] : grid[1]].reshape(2, -1)
    ways = np.stack([rows**2 + columns**2, rows, columns], 1).astype(np.int32)
    return ways[np.lexsort(ways.T[::-1])]


def offsets_on(grid: tuple[int, int], device: torch.device) -> Tensor:
    return constant(offsets, grid, device=device)
