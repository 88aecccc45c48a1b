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

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.borders.cases import CASES
from fastmix.kernels.borders.gpu import AOT, borders_kernel, lanes
from fastmix.kernels.borders.reference import DTYPES, deep_of, reference

__all__ = ["AOT", "CASES", "DTYPES", "borders", "reference"]


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
    deep = deep_of(images, blocks, neighbours)
    if images.is_cuda or INTERPRETED:
        _launch(images, partner, blocks, deep, down, right)
    else:
        from fastmix.kernels.borders.cpu import borders_cpu

        borders_cpu(images, partner, blocks, deep, down, right)
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
            borders_kernel[(n * (blocks - 1),)](*arguments, **lanes(size[1], blocks, depths[1]), num_warps=4)


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
