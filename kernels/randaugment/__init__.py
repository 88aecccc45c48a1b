"""The augmentation pass: uint8 NHWC -> uint8 NHWC, an operation a sample and layer, one launch a layer.

    out_i = f_{operation(i)}(x_i; parameters(i)),      the table of kernels/randaugment/operations.py

The arithmetic is Pillow's: whole numbers, or fp32 in a fixed order without fused multiply-adds (fp64 for the 256 values
of AUTOCONTRAST), then truncated. Hence the reference, the Triton kernel and the numba twin agree bit for bit.

Geometric operations sample as Image.transform does: NEAREST, BILINEAR, or BICUBIC (Keys' cubic with a = -1), clamped to
the image; a place outside of it shows the fill colour, unblended. Pillow computes places in fp64 (nearest: in 1/65536
pixel), here they are fp32.

Bytes to move for each element: 1 read and 1 written. Operations that need the whole image first (CONTRAST,
AUTOCONTRAST, EQUALIZE) read it again from the cache, once in every program that writes a part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.randaugment import operations as O
from fastmix.kernels.randaugment.cases import CASES
from fastmix.kernels.randaugment.gpu import AOT, block_sizes, randaugment_kernel
from fastmix.kernels.randaugment.reference import DTYPES, INTERPOLATIONS, reference

__all__ = ["AOT", "CASES", "DTYPES", "INTERPOLATIONS", "randaugment", "reference"]


def randaugment(
    images: Tensor,
    table: Tensor,
    interpolation: str = "bicubic",
    fill: tuple[int, int, int] = (124, 116, 104),
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Images uint8 [B,H,W,3], each changed by its operation of every layer of the table int32 [layers,B,8].

    interpolation (nearest, bilinear, bicubic) and fill (RGB, 0..255) are those of AFFINE. out: two tensors like the
    images that the layers may write in turns, and one of which is returned, instead of new ones. The images are never
    changed; without a layer they are returned themselves. Without a wait for the device; images that are not
    contiguous are copied first. Raises ValueError for arguments that do not fit each other, and on the CPU also for an
    unknown operation.
    """
    _check(images, table, interpolation, fill, out)
    for k, rows in enumerate(table):
        source = images.contiguous()
        target = torch.empty_like(source) if out is None else out[k % 2]
        if images.is_cuda or INTERPRETED:
            _launch(source, rows, interpolation, fill, target)
        else:
            from fastmix.kernels.randaugment.cpu import randaugment_cpu

            randaugment_cpu(source, rows, INTERPOLATIONS.index(interpolation), fill, target)
        images = target
    return images


def _launch(images, rows, interpolation, fill, out) -> None:
    n, height, width, _ = images.shape
    blocks = block_sizes(height * width * 3)
    if INTERPRETED:
        blocks = dict.fromkeys(blocks, 1 << min(16, (height * width * 3 - 1).bit_length()))
    with torch.cuda.device_of(images):
        randaugment_kernel[(n * -(-height * width * 3 // blocks["PART"]),)](
            images,
            rows,
            torch.empty((n, 3, 256), dtype=torch.uint8, device=images.device),
            out,
            *map(float, fill),
            H=height,
            W=width,
            INTERPOLATION=INTERPOLATIONS.index(interpolation),
            **blocks,
            num_warps=8,
            enable_fp_fusion=False,
        )


def _check(images, table, interpolation, fill, out) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.numel():
        raise ValueError(f"randaugment: images must be uint8 [B,H,W,3], not {images.dtype} {list(images.shape)}")
    if images[0].numel() >= 2**30:
        raise ValueError(f"randaugment: images of shape {list(images.shape)}: more than 2**30 values in one image")
    shape = (len(table), len(images), O.COLUMNS)
    if table.dtype != torch.int32 or table.shape != shape or not table.is_contiguous() or table.device != images.device:
        wanted = f"int32 [layers,{len(images)},{O.COLUMNS}], contiguous, on {images.device}"
        raise ValueError(f"randaugment: the table must be {wanted}, not {table.dtype} {list(table.shape)}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"randaugment: interpolation is {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}")
    if len(fill) != 3 or not all(0 <= v <= 255 and v == int(v) for v in fill):
        raise ValueError(f"randaugment: fill is {fill}; it must be 3 whole numbers from 0 to 255")
    for tensor in out or ():
        same = tensor.shape == images.shape and tensor.dtype == torch.uint8 and tensor.device == images.device
        if not same or not tensor.is_contiguous():
            raise ValueError(f"randaugment: out must be two contiguous tensors uint8 {list(images.shape)}")
    if table.device.type == "cpu" and table.numel() and not 0 <= table[..., 0].min() <= table[..., 0].max() <= O.AFFINE:
        raise ValueError(f"randaugment: the table has operations outside 0..{O.AFFINE}")
