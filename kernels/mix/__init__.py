"""The mixing pass: uint8 NHWC -> (erase) -> mix -> normalise -> fp32/fp16/bf16, channels-last, in one pass.

    v_i(p) = m_i(p) x_i(p) + (1 - m_i(p)) x_partner(i)(p),    out_i(p,c) = (v_i(p,c) - 255 mean_c) / (255 std_c)

m comes from the plan (kernels/plan.py), pixel by pixel; the kinds may differ from sample to sample. All is fp32:
v = b + m (a - b) is exact for whole pixel values a, b and the plan's weights of 2**-16, so fused or not it is the same;
255 mean_c and 1 / (255 std_c) are rounded to fp32 once, then one subtraction and one multiplication follow. Hence the
reference, the Triton kernel and the numba twin agree bit for bit. (Noise of an erased source is no whole number: there
weight 1 selects a, and the Triton kernel is compiled without fusing.)

Images that are floats are normalised already: out = v, from fp32, fp16 or bf16, channels-last or not. v is then rounded
twice, the same way in all three.

Bytes to move for each element: 1 read where m is 0 or 1, 2 where it is between, and 2 (fp16, bf16) or 4 (fp32) written;
RANKS reads 2/3 more (4/3 for an int32 bank), MAP what its maps hold. The NHWC output *is* the channels-last tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels import plan as P
from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.erase import Erase
from fastmix.kernels.mix.builds import AOT, WARPS, build, program_shape
from fastmix.kernels.mix.cases import CASES
from fastmix.kernels.mix.check import check, check_rows, fits
from fastmix.kernels.mix.gpu import mix_kernel
from fastmix.kernels.mix.reference import constants, normalising, reference
from fastmix.kernels.plan import Plan

__all__ = ["AOT", "CASES", "DTYPES", "constants", "mix", "reference"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def mix(
    images: Tensor,
    plan: Plan | None,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: torch.dtype = torch.float32,
    *,
    erase: Erase | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The model's input [B,3,H,W], channels-last, from images uint8 [B,H,W,3]: erased, mixed by the plan, normalised.

    plan None: not mixed. mean and std are those of pixels in [0,1]. dtype: float32, float16 or bfloat16. out: a tensor
    [B,3,H,W] of that type and layout to write and return instead of a new one (on the CPU fresh memory costs more than
    the pass). The images are never changed. Without a wait for the device; images that are not contiguous are copied
    first.
    Images of a float type [B,H,W,3] are normalised already, and mixed alone: mean and std do not count, erase is
    refused. A view of [B,3,H,W] whose channels lie one after the other gives an output that lies so, too.
    Raises ValueError for arguments that do not fit each other, and on the CPU also for a plan that points outside the
    batch.
    """
    if dtype not in DTYPES:
        raise ValueError(f"mix: dtype is {dtype}; choose one of {', '.join(map(str, DTYPES))}")
    check(images, plan, erase)
    n, height, width, _ = images.shape
    planar = lies_planar(images)
    source = images.permute(0, 3, 1, 2) if planar else images.contiguous()
    if out is None:
        flat = torch.empty(source.shape, dtype=dtype, device=images.device)
        out = flat if planar else flat.permute(0, 3, 1, 2)
    else:
        flat = out if planar or out.ndim != 4 else out.permute(0, 2, 3, 1)
        fits("out" if planar else "out (channels-last)", flat, [dtype], tuple(source.shape), images.device)
    shift, scale = normalising(images, mean, std)
    if images.device.type == "cpu":
        check_rows(plan, n, (height, width))
    if images.is_cuda or INTERPRETED:
        _launch(source, (height, width), plan, shift, scale, erase, flat, planar)
    else:
        from fastmix.kernels.mix.cpu import mix_cpu

        mix_cpu(source, plan, shift, scale, erase, flat, planar)
    return out


def lies_planar(images: Tensor) -> bool:
    """Whether float images [B,H,W,3] are a view of contiguous [B,3,H,W]."""
    return images.dtype != torch.uint8 and not images.is_contiguous() and images.permute(0, 3, 1, 2).is_contiguous()


def _launch(images, size, plan, shift, scale, erase, out, planar) -> None:
    n, (height, width), whole = len(images), size, images.dtype == torch.uint8
    table = images.new_empty((1, P.COLUMNS), dtype=torch.int32) if plan is None else plan.table  # of PLAIN not read
    kinds = 1 << P.PLAIN if plan is None else _held(plan)
    address = images.data_ptr() if whole else 0  # bytes are read as whole numbers
    group, groups = program_shape(width, out.element_size(), kinds, erase is not None, address)
    if INTERPRETED:  # where the cost is by program
        groups = max(groups, (1 << min(16, (height * width * 3 - 1).bit_length())) // group)
    unused = table.view(torch.int16)
    blocks, maps = (None, None) if plan is None else (plan.blocks, plan.maps)
    with torch.cuda.device_of(images):
        mix_kernel[(n * -(-height * width * 3 // (groups * group)),)](
            images,
            table,
            unused if plan is None or plan.profiles is None else plan.profiles,
            unused if plan is None or plan.bank is None else plan.bank,
            table if blocks is None else blocks,
            table if maps is None else maps,
            table if erase is None else erase.boxes,
            table.view(torch.float32) if erase is None else erase.fill,
            out,
            *shift.tolist(),
            *scale.tolist(),
            0 if blocks is None else blocks.shape[1],
            *((0, 0) if maps is None else maps.shape[1:]),
            H=height,
            W=width,
            **build(kinds),
            ERASE=erase is not None,
            PLANAR=planar,
            V=group,
            G=groups,
            num_warps=WARPS,
            enable_fp_fusion=whole and erase is None,
        )


def _held(plan: Plan) -> int:
    """The kinds that rows may have, a bit each, but those whose tables the plan lacks."""
    lacking = {P.PROFILE: plan.profiles, P.RANKS: plan.bank, P.BLOCKS: plan.blocks, P.MAP: plan.maps}
    return plan.kinds & ~sum(1 << kind for kind, table in lacking.items() if table is None)
