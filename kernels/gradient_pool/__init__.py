"""Saliency a block, from the gradient of a loss with respect to the pixels, in one read of it.

    u_c = mean over the pixels p of cell c of sqrt(mean over channels of g(p)^2)

Kim, Choo, Song 2020, "Puzzle Mix", arXiv:2009.06962: the saliency of a pixel, pooled by blocks. Pixel p lies in cell
p * cells // length (`kernels.plan.cell_edges`), so sides need not be a multiple of the grid. Sums are in fp32.

Bytes: the gradient once (2 or 4 a value), 4 written for each cell: 77 MB of 256 images of 224 pixels in bf16. About 8
flops a pixel, one of them a square root.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.gradient_pool.cases import CASES
from fastmix.kernels.gradient_pool.gpu import AOT, gradient_pool_kernel, tile_sizes
from fastmix.kernels.gradient_pool.reference import DTYPES, reference

__all__ = ["AOT", "CASES", "DTYPES", "ULPS", "gradient_pool", "reference"]

ULPS = 8  # positive values, added up in another order


def gradient_pool(gradient: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean of the channels' root mean square in each cell: float32 [B,gh,gw] from a gradient [B,3,H,W].

    float32, float16 or bfloat16; a gradient that is not channels-last is copied first. Squares of values below 1e-19
    vanish. Without a wait for the device. Raises ValueError for other types and shapes, and for a grid finer than the
    pixels.
    """
    _check(gradient, grid)
    n, _, height, width = gradient.shape
    flat = gradient.permute(0, 2, 3, 1).contiguous()
    out = torch.empty((n, *grid), device=gradient.device)
    if gradient.is_cuda or INTERPRETED:
        with torch.cuda.device_of(gradient):
            gradient_pool_kernel[(n * grid[0] * grid[1],)](
                flat, out, height, width, *grid, **tile_sizes(height, width, grid), num_warps=4
            )
    else:
        from fastmix.kernels.gradient_pool.cpu import gradient_pool_cpu

        gradient_pool_cpu(flat, out)
    return out


def _check(gradient, grid) -> None:
    if gradient.dtype not in DTYPES or gradient.ndim != 4 or gradient.shape[1] != 3:
        kinds = "/".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise ValueError(f"gradient_pool: expected {kinds} [B,3,H,W], not {gradient.dtype} {list(gradient.shape)}")
    if len(grid) != 2 or not all(1 <= c <= length for c, length in zip(grid, gradient.shape[2:], strict=True)):
        size = f"{gradient.shape[2]} x {gradient.shape[3]}"
        raise ValueError(f"gradient_pool: a grid of {tuple(grid)} cells does not fit a gradient of {size} pixels")
