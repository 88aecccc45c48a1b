"""How much neighbouring blocks of two images differ along their common border (PuzzleMix's data terms).

    D_PQ(border) = mean over channels and bins of | mean of P's pixels before the border - mean of Q's behind it |

for P, Q = 1, the image itself, or 0, its partner; P is the upper or left block, Q the lower or right one. Kim, Choo,
Song 2020, "Puzzle Mix", arXiv:2009.06962, the smoothness of the data as in the authors' code. A bin is k pixels along
the border and k deep, k = min(neighbours, H // blocks) rows and min(neighbours, W // blocks) columns: pooling by k,
where k divides the blocks.

Sides that `blocks` does not divide have blocks of two lengths (`kernels.plan.cell_edges`); images that are not square
have blocks that are not. Bins begin where a block does; a last, narrower bin counts by its width. Then every D is a
whole number of pixel levels, divided once, so the order of the sums does not matter and all implementations give the
same.

Only strips at borders are read: of images of 224 pixels in 16 x 16 blocks, 4 deep, 15/28 for either direction, of the
image and of its partner, 83 MB for 256 images where the cache serves the second direction. Two integer additions a
byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, jit, tl
from fastmix.kernels.plan import cell_edges
from fastmix.kernels.send import send

DTYPES = (torch.float32,)

# ---- reference ----


def reference(images: Tensor, partner: Tensor, blocks: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """`borders` in plain torch, by cumulative sums."""
    deep = _deep(images, blocks, neighbours)
    right = _borders_along_y(images.transpose(1, 2), partner, blocks, deep[::-1])
    return _borders_along_y(images, partner, blocks, deep), right.transpose(2, 3).contiguous()


def _borders_along_y(images: Tensor, partner: Tensor, blocks: int, deep: tuple[int, int]) -> Tensor:
    """Borders between one row of blocks and the next, [B,4,b-1,b]."""
    (_, height, width, _), (k, along) = images.shape, deep
    edges = send(cell_edges(height, blocks)[1:-1], images.device)
    across = cell_edges(width, blocks)
    starts = send(_starts(width, blocks, along), images.device)
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


def _deep(images: Tensor, blocks: int, neighbours: int) -> tuple[int, int]:
    """Rows and columns of a bin."""
    return min(neighbours, images.shape[1] // blocks), min(neighbours, images.shape[2] // blocks)


def _starts(length: int, blocks: int, along: int) -> np.ndarray:
    """The first pixel of every bin along a side, and the end."""
    edges = cell_edges(length, blocks)
    cells = zip(edges[:-1], edges[1:], strict=True)
    return np.append(np.concatenate([np.arange(*cell, along) for cell in cells]), length)


# ---- Triton ----


@jit
def borders_kernel(
    images, partner, out, height, width, step_y, step_x, border_step, block_step, blocks, deep, along,
    CELLS: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """One program: one border across the image, between rows of blocks (or columns, with y and x exchanged).

    CELLS >= blocks rows of lanes, one a block along the border; M >= 3 x bins of a block, a lane a bin and channel.
    """
    sample = tl.program_id(0) // (blocks - 1)
    border = tl.program_id(0) % (blocks - 1)
    own = images + sample.to(tl.int64) * (height * width * 3)
    other = images + tl.load(partner + sample).to(tl.int64) * (height * width * 3)
    edge = ((border + 1) * height + blocks - 1) // blocks
    cell, lane = tl.arange(0, CELLS)[:, None], tl.arange(0, M)[None, :]
    first, last = (cell * width + blocks - 1) // blocks, ((cell + 1) * width + blocks - 1) // blocks
    x, c = first + lane // 3 * along, lane % 3
    before1, before0 = tl.zeros([CELLS, M], tl.int32), tl.zeros([CELLS, M], tl.int32)
    behind1, behind0 = tl.zeros([CELLS, M], tl.int32), tl.zeros([CELLS, M], tl.int32)
    for dy in range(deep):
        for dx in range(along):
            shown = (cell < blocks) & (x + dx < last)
            place = (x + dx) * step_x + c
            upper, lower = place + (edge - 1 - dy) * step_y, place + (edge + dy) * step_y
            before1 += tl.load(own + upper, mask=shown, other=0).to(tl.int32)
            before0 += tl.load(other + upper, mask=shown, other=0).to(tl.int32)
            behind1 += tl.load(own + lower, mask=shown, other=0).to(tl.int32)
            behind0 += tl.load(other + lower, mask=shown, other=0).to(tl.int32)
    levels = (765 * deep * tl.maximum(last - first, 1)).to(tl.float32)
    pairs = blocks * (blocks - 1)
    target = out + sample.to(tl.int64) * (4 * pairs) + border * border_step + cell * block_step
    inside = cell < blocks
    sum00 = tl.sum(tl.abs(before0 - behind0), 1, keep_dims=True).to(tl.float32)
    sum01 = tl.sum(tl.abs(before0 - behind1), 1, keep_dims=True).to(tl.float32)
    sum10 = tl.sum(tl.abs(before1 - behind0), 1, keep_dims=True).to(tl.float32)
    sum11 = tl.sum(tl.abs(before1 - behind1), 1, keep_dims=True).to(tl.float32)
    tl.store(target, tl.div_rn(sum00, levels), mask=inside)
    tl.store(target + pairs, tl.div_rn(sum01, levels), mask=inside)
    tl.store(target + 2 * pairs, tl.div_rn(sum10, levels), mask=inside)
    tl.store(target + 3 * pairs, tl.div_rn(sum11, levels), mask=inside)


# ---- launcher ----


def borders(images: Tensor, partner: Tensor, blocks: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """The border differences D_PQ of images uint8 [B,H,W,3], in b x b blocks, with partners int32 [B], in [0, 1].

    down float32 [B,4,b-1,b], between a block and the one below, and right float32 [B,4,b,b-1], between a block and the
    one to its right; D_PQ is at index 2 P + Q. Without a wait for the device; images that are not contiguous are copied
    first. Raises ValueError for arguments that do not fit each other.
    """
    _check(images, partner, blocks, neighbours)
    images, partner, n = images.contiguous(), partner.contiguous(), len(images)
    down = torch.empty((n, 4, blocks - 1, blocks), device=images.device)
    right = torch.empty((n, 4, blocks, blocks - 1), device=images.device)
    deep = _deep(images, blocks, neighbours)
    if images.is_cuda or INTERPRETED:
        _launch(images, partner, blocks, deep, down, right)
    else:
        from fastmix.kernels.borders_cpu import borders_cpu

        starts = tuple(_starts(length, blocks, k) for length, k in zip(images.shape[1:3], deep, strict=True))
        borders_cpu(images, partner, blocks, deep, starts, down, right)
    return down, right


def _launch(images, partner, blocks, deep, down, right) -> None:
    n, height, width, _ = images.shape
    sides = (
        (down, (height, width), (3 * width, 3), (blocks, 1), deep),
        (right, (width, height), (3, 3 * width), (1, blocks - 1), deep[::-1]),
    )
    with torch.cuda.device_of(images):
        for out, size, steps, places, depths in sides:
            arguments = images, partner, out, *size, *steps, *places, blocks, *depths
            borders_kernel[(n * (blocks - 1),)](*arguments, **_lanes(size[1], blocks, depths[1]), num_warps=4)


def _lanes(width: int, blocks: int, along: int) -> dict[str, int]:
    bins = -(-int(-(-width // blocks)) // along)
    return dict(CELLS=1 << (blocks - 1).bit_length(), M=1 << (3 * bins - 1).bit_length())


def _check(images, partner, blocks, neighbours) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"borders: images must be uint8 [B,H,W,3], not {images.dtype} {list(images.shape)}")
    if images[0].numel() >= 2**31:
        raise ValueError(f"borders: images of shape {list(images.shape)}: more than 2**31 values in one image")
    if partner.dtype != torch.int32 or partner.shape != images.shape[:1] or partner.device != images.device:
        where = f"int32 [{len(images)}] on {images.device}"
        raise ValueError(f"borders: partner must be {where}, not {partner.dtype} {list(partner.shape)}")
    if not 2 <= blocks <= min(images.shape[1:3]):
        size = f"{images.shape[1]} x {images.shape[2]}"
        raise ValueError(
            f"borders: {blocks} blocks a side; images of {size} pixels can have 2 to {min(images.shape[1:3])}"
        )
    if neighbours < 1:
        raise ValueError(f"borders: neighbours is {neighbours}; it must be at least 1")


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """Random images and partners."""

    samples: int
    size: tuple[int, int]
    blocks: int
    neighbours: int = 4

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)
        images = torch.from_numpy(rng.integers(0, 256, (self.samples, *self.size, 3), np.uint8))
        partner = torch.from_numpy(rng.integers(0, self.samples, self.samples).astype(np.int32))
        return dict(images=images, partner=partner, blocks=self.blocks, neighbours=self.neighbours)


CASES = [Case(3, (32, 32), 4), Case(2, (16, 16), 8), Case(2, (23, 17), 3), Case(2, (9, 13), 2, 3), Case(1, (5, 6), 5)]

# ---- ahead-of-time targets ----


def _target(size: int, blocks: int, registers: int) -> Target:
    along = min(4, size // blocks)
    numbers = ("height", "width", "step_y", "step_x", "border_step", "block_step", "blocks", "deep", "along")
    types = dict(images="*u8", partner="*i32", out="*fp32") | dict.fromkeys(numbers, "i32")
    return Target(f"borders {blocks}x{blocks}", borders_kernel, types, _lanes(size, blocks, along), registers, 1, 4)


AOT = [_target(224, 2, 64), _target(224, 16, 64)]
