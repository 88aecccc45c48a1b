"""Saliency a block in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels.host_to_device import send
from fastmix.kernels.plan import cell_edges

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def reference(gradient: Tensor, grid: tuple[int, int]) -> Tensor:
    """`gradient_pool` in plain torch, in float64."""
    pixels = gradient.double().square().mean(1).sqrt()
    y, x = (_shares(length, cells, gradient.device) for length, cells in zip(pixels.shape[1:], grid, strict=True))
    return (y @ pixels @ x.T).float()


def _shares(length: int, cells: int, device) -> Tensor:
    """How much each pixel along a side counts in each cell's mean. float64 [cells,length]"""
    edges = send(cell_edges(length, cells), device)
    pixel = torch.arange(length, device=device)
    inside = ((pixel >= edges[:-1, None]) & (pixel < edges[1:, None])).double()
    return inside / inside.sum(1, keepdim=True)
