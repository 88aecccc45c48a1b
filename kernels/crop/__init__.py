"""The crop pass: images of any sizes, uint8 -> windows, resized and mirrored, uint8 [B,S,S,3], in one launch.

    out(i,j) = sum_k v_k sum_l u_l in(a_i + k, b_j + l) / (sum_k v_k sum_l u_l),   v_k = f((a_i + k + 0.5 - c_i) / s),
    c_i = start + (i + 0.5) * extent / S,   s = max(extent / S, 1)

and u likewise along the rows. f is the triangle (`bilinear`) or Keys' cubic with a = -0.5 (`bicubic`; Keys 1981, eq.
4), widened by the scale where an image shrinks: the filter of the loaders' resize, here in fp32 with places counted
from the window's corner, and so at most 1 level from it. A filter that reaches half a pixel copies; where no tap lies
inside the image the result is 0, or, if the table says so for a copy, the image mirrored at its edge pixels. Every
operation is rounded by itself (no fusing, IEEE division), so the reference and the Triton kernel agree bit for bit.

Bytes to move: the windows' pixels, read once from memory, and 3 S^2 written an image. What takes longer is the work on
the taps: ceil(2 r s) each way, r = 1 (bilinear) or 2, each a byte from the cache and about 9 instructions. Where the
images lie, and whether a pixel's channels lie together, may differ from image to image: the table tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.crop.cases import CASES
from fastmix.kernels.crop.gpu import AOT, TILE, crop_kernel
from fastmix.kernels.crop.reference import DTYPES, reference
from fastmix.kernels.crop.table import SUPPORTS, WORDS

__all__ = ["AOT", "CASES", "DTYPES", "crop", "reference"]


def crop(
    pixels: Tensor | Sequence[Tensor],
    table: Tensor,
    size: int,
    interpolation: str = "bilinear",
    *,
    out: Tensor | None = None,
) -> Tensor:
    """The windows that a table describes, uint8 [B,size,size,3].

    pixels: a flat uint8 tensor that holds all images; or one tensor an image, in the table's order, with `offsets` of
    them in the table. table: `rows`, int32 [B,WORDS] on the pixels' device, made with the same size and interpolation.
    out: a contiguous tensor to write and return. On a GPU one launch, without a wait; the caller keeps the pixels until
    it is done. Raises ValueError for arguments that do not fit. A table that points outside the pixels is not noticed.
    """
    first = pixels if isinstance(pixels, Tensor) else pixels[0]
    n, device = len(table), first.device
    if first.dtype != torch.uint8 or not first.is_contiguous() or not (isinstance(pixels, Tensor) or len(pixels) == n):
        raise ValueError("crop: pixels must be a contiguous uint8 tensor, or one for each row of the table")
    if table.dtype != torch.int32 or table.shape != (n, WORDS) or not table.is_contiguous() or table.device != device:
        found = f"{table.dtype} {list(table.shape)} on {table.device}"
        raise ValueError(f"crop: the table must be int32 [B,{WORDS}], contiguous, on {device}, not {found}")
    if interpolation not in SUPPORTS:
        raise ValueError(f"crop: interpolation is {interpolation!r}; choose one of {', '.join(SUPPORTS)}")
    if out is None:
        out = torch.empty(n, size, size, 3, dtype=torch.uint8, device=device)
    if (out.dtype, out.shape, out.device) != (torch.uint8, (n, size, size, 3), device) or not out.is_contiguous():
        found = f"{out.dtype} {list(out.shape)} on {out.device}"
        raise ValueError(f"crop: out must be uint8 [{n},{size},{size},3], contiguous, on {device}, not {found}")
    if not first.is_cuda and not INTERPRETED:
        return out.copy_(reference(pixels, table, size, interpolation))
    down, across = (1 << (side - 1).bit_length() if INTERPRETED else TILE for side in (size, 3 * size))
    grid = n * -(-size // down) * -(-3 * size // across)
    if grid:
        with torch.cuda.device_of(first):
            crop_kernel[(grid,)](
                first,
                table.view(torch.int64),
                table,
                out,
                S=size,
                CUBIC=interpolation == "bicubic",
                R=down,
                C=across,
                num_warps=4,
                enable_fp_fusion=False,
            )
    return out
