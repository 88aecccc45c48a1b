"""The gradient of `mix_logits` with respect to its logits, from the inputs alone.

    s_i(p) = S_i(p) (1 - S_i(p)) (sum_c g_i(p,c) (x_partner(i)(p,c) - x_i(p,c)) / (255 std_c) + gs_i + 2 gs2_i S_i(p))
    grad_i(cell) = sum_p u(p, cell) s_i(p)

g, gs and gs2 are the gradients of the three outputs, u is the upsampling: 1 in the pixel's cell (nearest) or the
product of the bilinear shares. S is computed again. u is separable: a program sums the rows of pixels that touch a row
of cells, then the columns of each cell. The order is fixed, so the result is the same every time.

Bytes to read for each element: 2, and 2 (fp16, bf16) or 4 (fp32) of g; twice as many with bilinear, where each row of
pixels touches two of cells, but half of that comes from the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, jit, tl
from fastmix.kernels.erase import Erase
from fastmix.kernels.mix import DTYPES
from fastmix.kernels.mix.check import fits
from fastmix.kernels.mix.gpu import erased
from fastmix.kernels.mix.reference import erased_pixels, normalising
from fastmix.kernels.mix_logits.cases import GRAD_CASES as CASES  # noqa: F401
from fastmix.kernels.upsample import around, matrices, upsample, upsampled

ULPS = 64

# ---- reference ----


def reference(
    images: Tensor,
    partner: Tensor,
    logits: Tensor,
    grad_out: Tensor,
    grad_s: Tensor,
    grad_s2: Tensor,
    std,
    mode: str = "nearest",
    *,
    erase: Erase | None = None,
) -> Tensor:
    """`mix_logits_grad` in plain torch, in the precision of the logits."""
    scale = torch.from_numpy(normalising(images, (0, 0, 0), std)[1]).to(logits)
    size = images.shape[1:3]
    s = upsample(logits, size, mode).sigmoid()
    own = erased_pixels(images, erase).to(logits.dtype)
    through_pixels = torch.einsum("bcyx,byxc,c->byx", grad_out.to(logits.dtype), own[partner.long()] - own, scale)
    through_sums = grad_s[:, None, None] + 2 * grad_s2[:, None, None] * s
    rows, columns = matrices(logits, size, mode)
    return torch.einsum("yr,byx,xc->brc", rows, s * (1 - s) * (through_pixels + through_sums), columns)


# ---- Triton ----


@jit
def mix_logits_grad_kernel(
    images, partners, logits, grad_out, grad_s, grad_s2, boxes, fill, grad,
    scale0, scale1, scale2,
    H: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BILINEAR: tl.constexpr,
    ERASE: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """One program: one row of cells of one sample; N >= 3 W lanes hold a row of pixels."""
    sample = tl.program_id(0) // ROWS
    row = tl.program_id(0) % ROWS
    lane = tl.arange(0, N)
    valid = lane < 3 * W
    x, c = lane // 3, lane % 3
    partner = tl.load(partners + sample)
    start = sample.to(tl.int64) * (H * W * 3)
    own, other = images + start, images + partner.to(tl.int64) * (H * W * 3)
    grid = logits + sample * (ROWS * COLUMNS)
    scale = tl.where(c == 0, scale0, tl.where(c == 1, scale1, scale2))
    with_s, with_s2 = tl.load(grad_s + sample), 2 * tl.load(grad_s2 + sample)
    if BILINEAR:
        first = tl.maximum(((2 * row - 1) * H - ROWS) // (2 * ROWS), 0)
        last = tl.minimum(((2 * row + 3) * H + ROWS - 1) // (2 * ROWS), H)
        left, across = around(x, W, COLUMNS)
        right = tl.minimum(left + 1, COLUMNS - 1)
    else:
        first, last = (row * H + ROWS - 1) // ROWS, ((row + 1) * H + ROWS - 1) // ROWS
        left, across = x * COLUMNS // W, 0.0
        right = left
    total = tl.zeros([N], tl.float32)
    for y in range(first, last):
        place = y * (3 * W) + lane
        a = tl.load(own + place, mask=valid, other=0).to(tl.float32)
        b = tl.load(other + place, mask=valid, other=0).to(tl.float32)
        g = tl.load(grad_out + start + place, mask=valid, other=0).to(tl.float32)
        if ERASE:
            a = erased(a, boxes, fill, sample, place, valid, W)
            b = erased(b, boxes, fill, partner, place, valid, W)
        s = tl.sigmoid(upsampled(grid, y, x, valid, H, W, ROWS, COLUMNS, BILINEAR))
        # A pixel's share of the gradients of the sums goes with its first channel. Chosen here, row by row: before the
        # loop it would take registers that not every GPU has left.
        of_sums = tl.where(c == 0, with_s2 * s, 0.0)
        part = s * (1 - s) * (g * (b - a) * scale + tl.where(c == 0, with_s, 0.0) + of_sums)
        if BILINEAR:
            top, down = around(y, H, ROWS)
            bottom = tl.minimum(top + 1, ROWS - 1)
            part *= tl.where(top == row, 1 - down, 0.0) + tl.where(bottom == row, down, 0.0)
        total += part
    for column in range(COLUMNS):
        share = tl.where(left == column, 1 - across, 0.0) + tl.where(right == column, across, 0.0)
        tl.store(grad + tl.program_id(0) * COLUMNS + column, tl.sum(tl.where(valid, total * share, 0.0), 0))


# ---- launcher ----


def mix_logits_grad(
    images: Tensor,
    partner: Tensor,
    logits: Tensor,
    grad_out: Tensor,
    grad_s: Tensor,
    grad_s2: Tensor,
    std: tuple[float, float, float],
    mode: str = "nearest",
    *,
    erase: Erase | None = None,
) -> Tensor:
    """float32 [B,h,w], from the arguments of `kernels.mix_logits.mix_logits` and the gradients of what it returns.

    grad_out [B,3,H,W] of float32, float16 or bfloat16, copied unless it is channels-last; grad_s, grad_s2 float32 [B].
    Deterministic, and without a wait for the device. Raises ValueError for gradients that do not fit.
    """
    n, height, width, _ = images.shape
    fits("grad_out", grad_out, DTYPES, (n, 3, height, width), images.device, contiguous=False)
    scale = normalising(images, (0, 0, 0), std)[1]
    images, partner, logits = images.contiguous(), partner.contiguous(), logits.contiguous()
    grad_out, grad_s, grad_s2 = grad_out.permute(0, 2, 3, 1).contiguous(), grad_s.contiguous(), grad_s2.contiguous()
    grad = torch.empty_like(logits)
    if images.is_cuda or INTERPRETED:
        _launch(images, partner, logits, grad_out, grad_s, grad_s2, scale, mode, erase, grad)
    else:
        from fastmix.kernels.mix_logits.cpu import mix_logits_grad_cpu

        mix_logits_grad_cpu(images, partner, logits, grad_out, grad_s, grad_s2, scale, mode, erase, grad)
    return grad


def _shape(width: int, mode: str) -> tuple[int, int]:
    """Lanes, and warps: 8 elements a thread, or 4 where the registers would run out."""
    lanes = max(32, 1 << (3 * width - 1).bit_length())
    return lanes, min(max(lanes // (256 if mode == "nearest" else 128), 1), 16)


def _launch(images, partner, logits, grad_out, grad_s, grad_s2, scale, mode, erase, grad) -> None:
    n, height, width, _ = images.shape
    rows, columns = logits.shape[1:]
    lanes, warps = _shape(width, mode)
    with torch.cuda.device_of(images):
        mix_logits_grad_kernel[(n * rows,)](
            images,
            partner,
            logits,
            grad_out,
            grad_s,
            grad_s2,
            partner if erase is None else erase.boxes,
            logits if erase is None else erase.fill,
            grad,
            *scale.tolist(),
            H=height,
            W=width,
            ROWS=rows,
            COLUMNS=columns,
            BILINEAR=mode == "bilinear",
            ERASE=erase is not None,
            N=lanes,
            num_warps=warps,
        )


# ---- ahead-of-time targets ----


def _target(name, size, mode, registers, erase=False) -> Target:
    lanes, warps = _shape(size[1], mode)
    types = dict(images="*u8", partners="*i32", logits="*fp32", grad_out="*bf16", grad_s="*fp32", grad_s2="*fp32")
    types |= dict(boxes="*i32", fill="*fp32", grad="*fp32") | dict.fromkeys(("scale0", "scale1", "scale2"), "fp32")
    chosen = dict(H=size[0], W=size[1], ROWS=14, COLUMNS=14, BILINEAR=mode == "bilinear", ERASE=erase, N=lanes)
    load = 16 if mode == "nearest" else 8
    return Target(name, mix_logits_grad_kernel, types, chosen, registers, load, 4, num_warps=warps)


AOT = [
    _target("mix_logits_grad bf16 nearest", (224, 224), "nearest", 96),
    _target("mix_logits_grad bf16 bilinear, erase", (224, 224), "bilinear", 128, erase=True),
]
