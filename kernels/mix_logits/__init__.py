"""The mixing pass with a mask that learns: S, the partner's weight, from logits on a coarse grid (AutoMix, SAMix).

    S_i(p) = sigmoid(upsample(logits_i)(p)),    v_i(p) = x_i(p) + S_i(p) (x_partner(i)(p) - x_i(p))
    out_i(p,c) = (v_i(p,c) - 255 mean_c) / (255 std_c),    sum_s_i = sum_p S_i(p),    sum_s2_i = sum_p S_i(p)**2

upsample is `kernels.upsample`, nearest or bilinear, of the *logits*; with nearest both sums are taken on the grid, each
cell counting as many times as it has pixels. Gradients go to the logits alone, from all three outputs; nothing but the
inputs is kept for them (`kernels.mix_logits.gradient`).

Bytes to move for each element: 2 read and 2 (fp16, bf16) or 4 (fp32) written; no mask and no gathered copy exist.
Results agree among implementations to the rounding of exp, and in the sums to that of their order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.erase import Erase
from fastmix.kernels.mix import DTYPES
from fastmix.kernels.mix.check import check, fits
from fastmix.kernels.mix.reference import normalising
from fastmix.kernels.mix_logits.cases import CASES
from fastmix.kernels.mix_logits.gpu import AOT, mix_logits_kernel, program_shape
from fastmix.kernels.mix_logits.gradient import mix_logits_grad
from fastmix.kernels.mix_logits.reference import reference
from fastmix.kernels.plan import cell_mean
from fastmix.kernels.upsample import MODES

__all__ = ["AOT", "CASES", "DTYPES", "ULPS", "mix_logits", "reference"]

ULPS = 16


def mix_logits(
    images: Tensor,
    partner: Tensor,
    logits: Tensor,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: torch.dtype = torch.float32,
    mode: str = "nearest",
    *,
    erase: Erase | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The mixed, normalised batch [B,3,H,W], channels-last, and the sums over pixels of S and S**2, float32 [B] each.

    images uint8 [B,H,W,3], or of a float type and normalised; partner int32 [B]; logits float32 [B,h,w] of the
    *partner's* weight S, h <= H and w <= W; mean and std are those of pixels in [0,1], and do not count for floats;
    dtype: float32, float16 or bfloat16; mode: "nearest" or "bilinear" (align_corners False). Whole pixels are erased
    before they are mixed. Differentiable once with respect to the logits. Deterministic, and without a wait for the
    device. Raises ValueError for arguments that do not fit each other, and on the CPU also for a partner outside the
    batch.
    """
    if dtype not in DTYPES:
        raise ValueError(f"mix_logits: dtype is {dtype}; choose one of {', '.join(map(str, DTYPES))}")
    check(images, None, erase)
    n, height, width, _ = images.shape
    fits("partner", partner, [torch.int32], (n,), images.device, contiguous=False)
    fits("logits", logits, [torch.float32], (n, None, None), images.device, contiguous=False)
    rows, columns = logits.shape[1:]
    if mode not in MODES:
        raise ValueError(f"mix_logits: mode is {mode!r}; choose one of {', '.join(MODES)}")
    if not (0 < rows <= height and 0 < columns <= width):
        raise ValueError(f"mix_logits: {rows} x {columns} logits for images of {height} x {width}: give a coarser grid")
    if partner.device.type == "cpu" and not (0 <= partner.numpy().min() and partner.numpy().max() < n):
        raise ValueError(f"mix_logits: partner is {partner.tolist()}: outside of the batch of {n} images")
    return _MixLogits.apply(logits, images.contiguous(), partner.contiguous(), mean, std, dtype, mode, erase)


class _MixLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, images, partner, mean, std, dtype, mode, erase):
        ctx.save_for_backward(images, partner, logits, *(() if erase is None else (erase.boxes, erase.fill)))
        ctx.std, ctx.mode = std, mode
        n, height, width, _ = images.shape
        out = torch.empty((n, height, width, 3), dtype=dtype, device=images.device)
        shift, scale = normalising(images, mean, std)
        grid = logits.detach().contiguous()
        if images.is_cuda or INTERPRETED:
            sums = _launch(images, partner, grid, shift, scale, mode, erase, out)
        else:
            from fastmix.kernels.mix_logits.cpu import mix_logits_cpu

            sums = mix_logits_cpu(images, partner, grid, shift, scale, mode, erase, out)
        if mode == "nearest":
            s = grid.sigmoid()
            sums = (cell_mean(torch.cat([s, s * s]), (height, width)) * (height * width)).float().view(2, n)
        return out.permute(0, 3, 1, 2), *sums

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, grad_s, grad_s2):
        images, partner, logits, *erase = ctx.saved_tensors
        erase = Erase(*erase) if erase else None
        grad = mix_logits_grad(images, partner, logits, grad_out, grad_s, grad_s2, ctx.std, ctx.mode, erase=erase)
        return grad, *[None] * 7


def _launch(images, partner, logits, shift, scale, mode, erase, out) -> Tensor:
    """Fills out; the sums float32 [2,B], which only the bilinear kernel makes."""
    n, height, width, _ = images.shape
    each, group = program_shape(width, out.element_size(), mode == "bilinear")
    block = 1 << min(16, (height * width * 3 - 1).bit_length()) if INTERPRETED else 128 * each
    chunks = -(-height * width * 3 // block)
    sums = torch.empty((n, chunks, 2), device=images.device)
    with torch.cuda.device_of(images):
        mix_logits_kernel[(n * chunks,)](
            images,
            partner,
            logits,
            partner if erase is None else erase.boxes,
            logits if erase is None else erase.fill,
            out,
            sums,
            *shift.tolist(),
            *scale.tolist(),
            H=height,
            W=width,
            ROWS=logits.shape[1],
            COLUMNS=logits.shape[2],
            BILINEAR=mode == "bilinear",
            ERASE=erase is not None,
            V=group,
            G=max(1, block // group),
            num_warps=4,
        )
    return sums.sum(1).T
