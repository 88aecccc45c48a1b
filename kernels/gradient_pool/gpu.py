"""Saliency a block on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, jit, tl


@jit(numbers=("height", "width", "gh", "gw"))
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


def tile_sizes(height: int, width: int, grid: tuple[int, int]) -> dict[str, int]:
    """About 1,024 pixels, as wide as a cell."""
    tall, wide = (
        1 << (-(-length // cells) - 1).bit_length() for length, cells in zip((height, width), grid, strict=True)
    )
    return dict(ROWS=max(1, min(tall, 1024 // wide)), COLUMNS=wide)


def _target(dtype: str, size: int, blocks: int) -> Target:
    types = dict(gradient=f"*{dtype}", out="*fp32") | dict.fromkeys(("height", "width", "gh", "gw"), "i32")
    wide = 2 if dtype == "bf16" else 4
    tile = tile_sizes(size, size, (blocks, blocks))
    return Target(f"gradient_pool {dtype} {blocks}x{blocks}", gradient_pool_kernel, types, tile, 64, wide, 4)


AOT = [_target("bf16", 224, 2), _target("fp32", 224, 16)]
