"""Fine-grained saliency (Montabone & Soto 2010, on- and off-centre differences): the most salient point of each image.

Y is the luminance in whole levels, averaged over cells of factor x factor pixels and blurred twice by the 3x3 binomial
(borders mirrored, each blur rounded). For neighbourhoods n = 12, 24, 28, 48, 56, 112 pixels, in cells,

    mean_n(p) = mean of Y over [p - n + 1, p + n + 1) both ways, cut to the image, without p itself
    on(p) = sum_n floor(max(Y(p) - mean_n(p), 0)),    off(p) = sum_n floor(max(mean_n(p) - Y(p), 0))
    S(p) = floor(255 on(p) / max on) + floor(255 off(p) / max off)

and the point is where S is largest. Nearly always that is 255, where on is largest and where off is: of equals the
larger on + off counts, then the first, row by row. A part that is 0 everywhere adds nothing; an image without any
difference is most salient in its middle. At factor 1 S is OpenCV's StaticSaliencyFineGrained on 8-bit images, except
that its last step runs over above 255 and ours has no such limit.

All numbers are whole, and every quotient is below 256 with a divisor below 2**17, where fp32 division, rounded to
nearest, and floor give the exact whole part. So the reference, the Triton kernel and the numba twin agree bit for bit.

Bytes to move: 3 HW read an image, 8 written. The cells (56 x 56 at 224 pixels) stay in one program: two running sums
make the integral image, and a neighbourhood is four look-ups in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.finegrained.cases import CASES
from fastmix.kernels.finegrained.gpu import AOT, finegrained_kernel, program_shape
from fastmix.kernels.finegrained.reference import DTYPES, LARGEST, LUMA, MOST, neighbourhoods, reference, usual_factor

__all__ = ["AOT", "CASES", "DTYPES", "finegrained", "reference"]


def finegrained(images: Tensor, factor: int | None = None) -> Tensor:
    """(y, x) of the most salient pixel of each image uint8 [B,H,W,3], int32 [B,2], on the images' device.

    It is the centre of the most salient cell of factor x factor pixels; None: `usual_factor`. An image without any
    difference gives its middle. Without a wait for the device. Raises ValueError for images of another type or shape
    and for a factor that leaves more than 128 cells a side.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.numel():
        raise ValueError(f"finegrained: images must be uint8 [B,H,W,3], not {images.dtype} {list(images.shape)}")
    n, height, width, _ = images.shape
    factor = usual_factor((height, width)) if factor is None else factor
    least = -(-max(height, width) // MOST)
    if not least <= factor <= LARGEST:
        raise ValueError(f"finegrained: factor is {factor}; images of {height} x {width} need {least} to {LARGEST}")
    images, out = images.contiguous(), torch.empty((n, 2), dtype=torch.int32, device=images.device)
    if images.is_cuda or INTERPRETED:
        with torch.cuda.device_of(images):
            finegrained_kernel[(n,)](images, out, **program_shape(height, width, factor), num_warps=8)
    else:
        from fastmix.kernels.finegrained.cpu import finegrained_cpu

        finegrained_cpu(images, factor, LUMA, neighbourhoods(factor), out)
    return out
