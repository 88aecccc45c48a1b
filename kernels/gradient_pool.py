"""Saliency a block, from the gradient of a loss with respect to the pixels, in one read of it.

    u_c = mean over the pixels p of cell c of sqrt(mean over channels of g(p)^2)

Kim, Choo, Song 2020, "Puzzle Mix", arXiv:2009.06962: the saliency of a pixel, pooled by blocks. Pixel p lies in cell
p * cells // length (`kernels.plan.cell_edges`), so sides need not be a multiple of the grid. Sums are in fp32.

Bytes: the gradient once (2 or 4 a value), 4 written for each cell: 77 MB of 256 images of 224 pixels in bf16. About 8
flops a pixel, one of them a square root.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, jit, tl
from fastmix.kernels.plan import cell_edges
from fastmix.kernels.send import send

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ULPS = 8  # positive values, added up in another order

# ---- reference ----


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


# ---- Triton ----


@jit
def gradient_pool_kernel(gradient, out, height, width, gh, gw, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One program: one cell of one sample, ROWS x COLUMNS pixels at a time; COLUMNS >= the cell's width."""
    cell = tl.program_id(0) % (gh * gw)
    sample = (tl.program_id(0) // (gh * gw)).to(tl.int64)
    cy, cx = cell // gw, cell % gw
    top, bottom = (cy * height + gh - 1) // gh, ((cy + 1) * height + gh - 1) // gh
    left, right = (cx * width + gw - 1) // gw, ((cx + 1) * width + gw - 1) // gw
    x = left + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(top, bottom, ROWS):
        y = first + tl.arange(0, ROWS)[:, None]
        inside = (y < bottom) & (x < right)
        pixel = gradient + sample * (height * width * 3) + (y * width + x) * 3
        r = tl.load(pixel, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(pixel + 1, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(pixel + 2, mask=inside, other=0.0).to(tl.float32)
        total += tl.sqrt((r * r + g * g + b * b) * (1 / 3))
    mean = tl.sum(tl.sum(total, 1), 0) / ((bottom - top) * (right - left)).to(tl.float32)
    tl.store(out + sample * (gh * gw) + cell, mean)


# ---- launcher ----


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
                flat, out, height, width, *grid, **_tile(height, width, grid), num_warps=4
            )
    else:
        from fastmix.kernels.gradient_pool_cpu import gradient_pool_cpu

        gradient_pool_cpu(flat, out)
    return out


def _tile(height: int, width: int, grid: tuple[int, int]) -> dict[str, int]:
    """About 1,024 pixels, as wide as a cell."""
    tall, wide = (
        1 << (-(-length // cells) - 1).bit_length() for length, cells in zip((height, width), grid, strict=True)
    )
    return dict(ROWS=max(1, min(tall, 1024 // wide)), COLUMNS=wide)


def _check(gradient, grid) -> None:
    if gradient.dtype not in DTYPES or gradient.ndim != 4 or gradient.shape[1] != 3:
        kinds = "/".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise ValueError(f"gradient_pool: expected {kinds} [B,3,H,W], not {gradient.dtype} {list(gradient.shape)}")
    if len(grid) != 2 or not all(1 <= c <= length for c, length in zip(grid, gradient.shape[2:], strict=True)):
        size = f"{gradient.shape[2]} x {gradient.shape[3]}"
        raise ValueError(f"gradient_pool: a grid of {tuple(grid)} cells does not fit a gradient of {size} pixels")


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """A random gradient, some of it 0."""

    samples: int
    size: tuple[int, int]
    grid: tuple[int, int]

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        made = torch.Generator().manual_seed(seed)
        gradient = torch.randn(self.samples, *self.size, 3, generator=made) * 1e-3
        gradient = gradient * (torch.rand(self.samples, *self.size, 1, generator=made) < 0.8)
        return dict(gradient=gradient.to(dtype).permute(0, 3, 1, 2), grid=self.grid)


CASES = [Case(2, (32, 32), (4, 4)), Case(2, (23, 17), (3, 5)), Case(1, (40, 40), (1, 1)), Case(3, (7, 5), (7, 5))]

# ---- ahead-of-time targets ----


def _target(dtype: str, size: int, blocks: int) -> Target:
    types = dict(gradient=f"*{dtype}", out="*fp32") | dict.fromkeys(("height", "width", "gh", "gw"), "i32")
    wide = 2 if dtype == "bf16" else 4
    tile = _tile(size, size, (blocks, blocks))
    return Target(f"gradient_pool {dtype} {blocks}x{blocks}", gradient_pool_kernel, types, tile, 64, wide, 4)


AOT = [_target("bf16", 224, 2), _target("fp32", 224, 16)]
