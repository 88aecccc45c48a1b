"""The mixing pass with logits on a GPU: the Triton kernel."""

from __future__ import annotations

import math

from fastmix.kernels._triton import Target, jit, tl
from fastmix.kernels.mix.gpu import erased, of_channel
from fastmix.kernels.upsample import upsampled


@jit
def mix_logits_kernel(
    images, partners, logits, boxes, fill, out, sums,
    mean0, mean1, mean2, scale0, scale1, scale2,
    H: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BILINEAR: tl.constexpr,
    ERASE: tl.constexpr, V: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """One program: G groups of V neighbouring elements of one sample, none of which crosses the end of a row.

    Where bilinear, its part of both sums goes to sums [programs,2].
    """
    CHUNKS: tl.constexpr = (H * W * 3 + G * V - 1) // (G * V)
    sample = tl.program_id(0) // CHUNKS
    start = (tl.program_id(0) % CHUNKS) * (G * V) + tl.arange(0, G)[:, None] * V
    lane = tl.arange(0, V)[None, :]
    valid = start < H * W * 3
    y = start // (W * 3)
    column = start - y * (W * 3)
    phase = column % 3
    x = column // 3 + (phase + lane) // 3
    c = (phase + lane) % 3

    partner = tl.load(partners + sample)
    own = images + sample.to(tl.int64) * (H * W * 3)
    other = images + partner.to(tl.int64) * (H * W * 3)
    a = tl.load(own + start + lane, mask=valid, other=0).to(tl.float32)
    b = tl.load(other + start + lane, mask=valid, other=0).to(tl.float32)
    if ERASE:
        a = erased(a, boxes, fill, sample, start + lane, valid, W)
        b = erased(b, boxes, fill, partner, start + lane, valid, W)
    s = tl.sigmoid(upsampled(logits + sample * (ROWS * COLUMNS), y, x, valid, H, W, ROWS, COLUMNS, BILINEAR))
    if BILINEAR:
        counted = tl.where(valid & (c == 0), s, 0.0)
        tl.store(sums + 2 * tl.program_id(0), tl.sum(tl.sum(counted, 1), 0))
        tl.store(sums + 2 * tl.program_id(0) + 1, tl.sum(tl.sum(counted * s, 1), 0))
    mean = of_channel(phase, lane, mean0, mean1, mean2)
    result = (a + s * (b - a) - mean) * of_channel(phase, lane, scale0, scale1, scale2)
    tl.store(out + sample.to(tl.int64) * (H * W * 3) + start + lane, result.to(out.dtype.element_ty), mask=valid)


def program_shape(width: int, itemsize: int, bilinear: bool) -> tuple[int, int]:
    """Elements a thread (16 bytes to write, half as many where the registers would run out), and in one access."""
    each = 4 if bilinear else 16 // itemsize
    return each, math.gcd(3 * width, each)


def _target(name, size, mode, registers, erase=False) -> Target:
    each, group = program_shape(size[1], 2, mode == "bilinear")
    types = dict(images="*u8", partners="*i32", logits="*fp32", boxes="*i32", fill="*fp32", out="*bf16", sums="*fp32")
    types |= dict.fromkeys(("mean0", "mean1", "mean2", "scale0", "scale1", "scale2"), "fp32")
    chosen = dict(H=size[0], W=size[1], ROWS=14, COLUMNS=14, BILINEAR=mode == "bilinear", ERASE=erase)
    chosen |= dict(V=group, G=128 * each // group)
    return Target(name, mix_logits_kernel, types, chosen, registers, group, 2 * group)


AOT = [
    _target("mix_logits bf16 nearest", (224, 224), "nearest", 64),
    _target("mix_logits bf16 bilinear, erase", (224, 224), "bilinear", 80, erase=True),
]
