"""The mixing pass: uint8 NHWC -> (erase) -> mix -> normalise -> fp32/fp16/bf16, channels-last, in one pass.

    v_i(p) = m_i(p) x_i(p) + (1 - m_i(p)) x_partner(i)(p),    out_i(p,c) = (v_i(p,c) - 255 mean_c) / (255 std_c)

m comes from the plan (kernels/plan.py), pixel by pixel; the kinds may differ from sample to sample. All is fp32:
v = b + m (a - b) is exact for whole pixel values a, b and the plan's weights of 2**-16, so fused or not it is the same;
255 mean_c and 1 / (255 std_c) are rounded to fp32 once, then one subtraction and one multiplication follow. Hence the
reference, the Triton kernel and the numba twin agree bit for bit. (Noise of an erased source is no whole number: there
weight 1 selects a, and the Triton kernel is compiled without fusing.)

Bytes to move for each element: 1 read where m is 0 or 1, 2 where it is between, and 2 (fp16, bf16) or 4 (fp32) written;
RANKS reads 2/3 more (4/3 for an int32 bank), MAP what its maps hold. The NHWC output *is* the channels-last tensor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastmix.kernels import plan as P
from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl
from fastmix.kernels.erase import LEVELS, Erase
from fastmix.kernels.mix_cases import CASES  # noqa: F401
from fastmix.kernels.mix_check import check, check_rows, fits
from fastmix.kernels.mix_reference import constants, reference  # noqa: F401
from fastmix.kernels.plan import Plan

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# ---- Triton ----

BLEND, BOX, WINDOW, PROFILE, RANKS = map(constant, (P.BLEND, P.BOX, P.WINDOW, P.PROFILE, P.RANKS))
BLOCKS, CELLS, RESIZED, MAP = map(constant, (P.BLOCKS, P.CELLS, P.RESIZED, P.MAP))
ONE, COLUMNS, STEPS, NOISE = map(constant, (P.ONE, P.COLUMNS, P.STEPS, LEVELS))


@jit
def _erase(value, boxes, fill, image, y, x, c, mask, W: tl.constexpr):
    """The value of source pixel (y, x), channel c, of an image, or its noise where its box is."""
    box = boxes + image * 5
    inside = (y >= tl.load(box)) & (y < tl.load(box + 1)) & (x >= tl.load(box + 2)) & (x < tl.load(box + 3)) & mask
    h = ((y * W + x) * 3 + c).to(tl.uint32) ^ tl.load(box + 4).to(tl.uint32, bitcast=True)
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    level = ((h ^ (h >> 16)) & (NOISE - 1)).to(tl.int32)
    return tl.where(inside, tl.load(fill + c * NOISE + level, mask=inside, other=0), value)


@jit
def _pixel(images, boxes, fill, image, y, x, c, mask, H: tl.constexpr, W: tl.constexpr, ERASE: tl.constexpr):
    """Channel c of source pixel (y, x) of an image, erased where its box is."""
    place = images + image.to(tl.int64) * (H * W * 3) + ((y * W + x) * 3 + c)
    value = tl.load(place, mask=mask, other=0).to(tl.float32)
    if ERASE:
        value = _erase(value, boxes, fill, image, y, x, c, mask, W)
    return value


@jit
def _block(
    images, boxes, fill, source, rows, columns, cy, cx, y, x, c, mask,
    H: tl.constexpr, W: tl.constexpr, ERASE: tl.constexpr,
):  # fmt: skip
    """The pixels that a source cell shows at (y, x), which lies in cell (cy, cx)."""
    image = source // (rows * columns)
    cell = source - image * (rows * columns)
    sy = cell // columns
    sx = cell - sy * columns
    from_y = y + (sy * H + rows - 1) // rows - (cy * H + rows - 1) // rows
    from_x = x + (sx * W + columns - 1) // columns - (cx * W + columns - 1) // columns
    from_y, from_x = tl.minimum(from_y, H - 1), tl.minimum(from_x, W - 1)
    return _pixel(images, boxes, fill, image, from_y, from_x, c, mask, H, W, ERASE)


@jit
def _place(pixel, low, high, first, last, length: tl.constexpr):
    """The two source pixels between which a pixel of a stretched box lies, and STEPS x the second's share."""
    step = tl.maximum(pixel - low, 0) * ((last - first - 1) * STEPS) // tl.maximum(high - low - 1, 1)
    source = first + step // STEPS
    second = tl.minimum(tl.maximum(source + 1, 0), length - 1)
    return tl.minimum(tl.maximum(source, 0), length - 1), second, (step % STEPS).to(tl.float32)


@jit
def _stretch(
    images, row, boxes, fill, partner, y, x, c, mask, H: tl.constexpr, W: tl.constexpr, ERASE: tl.constexpr
):  # fmt: skip
    """What a stretched box shows at (y, x)."""
    top, bottom, down = _place(y, tl.load(row + 4), tl.load(row + 5), tl.load(row + 8), tl.load(row + 9), H)
    left, right, across = _place(x, tl.load(row + 6), tl.load(row + 7), tl.load(row + 10), tl.load(row + 11), W)
    over = _pixel(images, boxes, fill, partner, top, left, c, mask, H, W, ERASE) * (STEPS - across)
    over += _pixel(images, boxes, fill, partner, top, right, c, mask, H, W, ERASE) * across
    under = _pixel(images, boxes, fill, partner, bottom, left, c, mask, H, W, ERASE) * (STEPS - across)
    under += _pixel(images, boxes, fill, partner, bottom, right, c, mask, H, W, ERASE) * across
    return (over * (STEPS - down) + under * down) * (1 / (STEPS * STEPS))


@jit
def _between(pixel, cells, length: tl.constexpr):
    """The first of the two cells of a map around a pixel, and STEPS x the second's share."""
    place = (2 * pixel + 1) * (cells * STEPS) // (2 * length) - STEPS // 2
    place = tl.where(cells == length, pixel * STEPS, tl.minimum(tl.maximum(place, 0), (cells - 1) * STEPS))
    return place // STEPS, place % STEPS


@jit
def _mapped(first, rows, columns, y, x, valid, H: tl.constexpr, W: tl.constexpr):
    """The weight at (y, x) by a map of rows x columns cells, of which `first` is the first."""
    top, down = _between(y, rows, H)
    left, across = _between(x, columns, W)
    cell = first + top * columns + left
    below, beside = valid & (down > 0), valid & (across > 0)
    upper = tl.load(cell, mask=valid, other=0) * (STEPS - across)
    upper += tl.load(cell + 1, mask=beside, other=0) * across
    lower = tl.load(cell + columns, mask=below, other=0) * (STEPS - across)
    lower += tl.load(cell + columns + 1, mask=below & beside, other=0) * across
    weight = (upper * (STEPS - down) + lower * down + STEPS * STEPS // 2) // (STEPS * STEPS)
    return weight.to(tl.float32) * (1 / ONE)


@jit
def mix_kernel(
    images, table, profiles, bank, blocks, maps, boxes, fill, out,
    mean0, mean1, mean2, scale0, scale1, scale2, cells, map_rows, map_columns,
    H: tl.constexpr, W: tl.constexpr, HAS_BLOCKS: tl.constexpr, HAS_MAPS: tl.constexpr, STRETCHES: tl.constexpr,
    ERASE: tl.constexpr, V: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """One program: G groups of V neighbouring elements of one sample's flat H*W*3.

    No group crosses the end of a row, so what depends on the row, and which image must be read at all, is worked out
    once a group, and a group is read and written in one access.
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

    row = table + sample * COLUMNS
    kind = tl.load(row)
    partner = tl.load(row + 1)
    own = images + sample.to(tl.int64) * (H * W * 3)
    other = images + partner.to(tl.int64) * (H * W * 3)
    weight = tl.full([G, V], 1.0, tl.float32)

    if HAS_BLOCKS and kind == BLOCKS:
        rows, columns = tl.load(row + 4), tl.load(row + 5)
        cy, cx = y * rows // H, x * columns // W
        entry = blocks + (sample.to(tl.int64) * cells + (cy * columns + cx)) * 3
        weight = tl.load(entry + 2, mask=valid, other=0).to(tl.float32) * (1 / ONE)
        first, second = tl.load(entry, mask=valid, other=0), tl.load(entry + 1, mask=valid, other=0)
        shows_a, shows_b = valid & (weight > 0), valid & (weight < 1)
        a = _block(images, boxes, fill, first, rows, columns, cy, cx, y, x, c, shows_a, H, W, ERASE)
        b = _block(images, boxes, fill, second, rows, columns, cy, cx, y, x, c, shows_b, H, W, ERASE)
    else:
        if kind == BLEND:
            weight = weight * (tl.load(row + 4).to(tl.float32) * (1 / ONE))
        if (kind == BOX) | (kind == WINDOW) | (kind == RESIZED):
            inside_y = (y >= tl.load(row + 4)) & (y < tl.load(row + 5))
            inside_x = (column + lane >= 3 * tl.load(row + 6)) & (column + lane < 3 * tl.load(row + 7))
            weight = tl.where(inside_y & inside_x, 0.0, 1.0)
        if kind == PROFILE:
            profile = profiles + tl.load(row + 4) * (H + W)
            along_y = tl.load(profile + y, mask=valid, other=0).to(tl.int32)
            along_x = tl.load(profile + H + x, mask=valid, other=0).to(tl.int32)
            weight = 1 - (along_y * along_x).to(tl.float32) * (1 / ONE)
        if kind == RANKS:
            flip = tl.load(row + 6)
            rank_y, rank_x = tl.where((flip & 2) > 0, H - 1 - y, y), tl.where((flip & 1) > 0, W - 1 - x, x)
            ranks = bank + tl.load(row + 4).to(tl.int64) * (H * W)
            rank = tl.load(ranks + rank_y * W + rank_x, mask=valid, other=0).to(tl.int32)
            if bank.dtype.element_ty == tl.int16:
                rank = rank & 0xFFFF
            weight = tl.where(rank < tl.load(row + 5), 1.0, 0.0)
        if kind == CELLS:
            columns = tl.load(row + 5)
            cell = y * tl.load(row + 4) // H * columns + x * columns // W
            word = tl.load(row + 6 + cell // 32, mask=valid, other=0)
            weight = ((word >> (cell % 32)) & 1).to(tl.float32)
        if HAS_MAPS and kind == MAP:
            first = maps + tl.load(row + 4).to(tl.int64) * (map_rows * map_columns)
            weight = _mapped(first, map_rows, map_columns, y, x, valid, H, W)
        need_a = valid & (tl.max(weight, 1, keep_dims=True) > 0)
        need_b = valid & (tl.min(weight, 1, keep_dims=True) < 1)
        from_y, from_x = y, x
        a = tl.load(own + start + lane, mask=need_a, other=0).to(tl.float32)
        if kind == WINDOW:
            corner_y, corner_x = tl.load(row + 4), tl.load(row + 6)
            scale_y = tl.load(row + 10).to(tl.float32, bitcast=True)
            scale_x = tl.load(row + 11).to(tl.float32, bitcast=True)
            from_y = tl.load(row + 8) + tl.floor((y - corner_y).to(tl.float32) * scale_y).to(tl.int32)
            from_x = tl.load(row + 9) + tl.floor((x - corner_x).to(tl.float32) * scale_x).to(tl.int32)
            from_y = tl.minimum(tl.maximum(from_y, 0), H - 1)
            from_x = tl.minimum(tl.maximum(from_x, 0), W - 1)
            inside = valid & (weight < 1)
            b = tl.load(other + (from_y * W + from_x) * 3 + c, mask=inside, other=0).to(tl.float32)
        elif STRETCHES and kind == RESIZED:
            b = _stretch(images, row, boxes, fill, partner, y, x, c, valid & (weight < 1), H, W, ERASE)
        else:
            b = tl.load(other + start + lane, mask=need_b, other=0).to(tl.float32)
        if ERASE:
            a = _erase(a, boxes, fill, sample, y, x, c, need_a, W)
            if STRETCHES:
                need_b = need_b & (kind != RESIZED)  # of which _stretch has erased every source
            b = _erase(b, boxes, fill, partner, from_y, from_x, c, need_b, W)

    mixed = b + weight * (a - b)
    if ERASE:  # b + (a - b) is not a where noise is no whole number
        mixed = tl.where(weight == 1, a, mixed)
    # The channels of a group are a rotation of (0, 1, 2): chosen once a group, then known for each lane.
    mean_a = tl.where(phase == 0, mean0, tl.where(phase == 1, mean1, mean2))
    mean_b = tl.where(phase == 0, mean1, tl.where(phase == 1, mean2, mean0))
    mean_c = tl.where(phase == 0, mean2, tl.where(phase == 1, mean0, mean1))
    scale_a = tl.where(phase == 0, scale0, tl.where(phase == 1, scale1, scale2))
    scale_b = tl.where(phase == 0, scale1, tl.where(phase == 1, scale2, scale0))
    scale_c = tl.where(phase == 0, scale2, tl.where(phase == 1, scale0, scale1))
    mean = tl.where(lane % 3 == 0, mean_a, tl.where(lane % 3 == 1, mean_b, mean_c))
    scale = tl.where(lane % 3 == 0, scale_a, tl.where(lane % 3 == 1, scale_b, scale_c))
    result = (mixed - mean) * scale
    tl.store(out + sample.to(tl.int64) * (H * W * 3) + start + lane, result.to(out.dtype.element_ty), mask=valid)


# ---- launcher ----


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

    plan None: not mixed. mean and std are those of pixels in [0,1]. dtype: float32, float16 or bfloat16. out: a
    channels-last tensor [B,3,H,W] of that type to write and return instead of a new one (on the CPU fresh memory costs
    more than the pass). The images are never changed. Without a wait for the device; images that are not contiguous
    are copied first. Raises ValueError for arguments that do not fit each other, and on the CPU also for a plan that
    points outside the batch.
    """
    if dtype not in DTYPES:
        raise ValueError(f"mix: dtype is {dtype}; choose one of {', '.join(map(str, DTYPES))}")
    check(images, plan, erase)
    n, height, width, _ = images.shape
    if out is None:
        out = torch.empty((n, height, width, 3), dtype=dtype, device=images.device).permute(0, 3, 1, 2)
    flat = out.permute(0, 2, 3, 1) if out.ndim == 4 else out
    fits("out (channels-last)", flat, [dtype], (n, height, width, 3), images.device)
    shift, scale = constants(mean, std)
    if images.device.type == "cpu":
        check_rows(plan, n, (height, width))
    if images.is_cuda or INTERPRETED:
        _launch(images.contiguous(), plan, shift, scale, erase, flat)
    else:
        from fastmix.kernels.mix_cpu import mix_cpu

        mix_cpu(images.contiguous(), plan, shift, scale, erase, flat)
    return out


def _shape(width: int, itemsize: int, heavy: bool) -> tuple[int, int]:
    """Elements a thread (16 bytes to write, half as many where the registers would run out), and in one access."""
    each = 4 if heavy else 16 // itemsize
    return each, math.gcd(3 * width, each)


def _launch(images, plan, shift, scale, erase, out) -> None:
    n, height, width, _ = images.shape
    table = torch.zeros((n, P.COLUMNS), dtype=torch.int32, device=images.device) if plan is None else plan.table
    blocks, maps = (None, None) if plan is None else (plan.blocks, plan.maps)
    stretches = plan is not None and plan.stretches
    each, group = _shape(width, out.element_size(), blocks is not None or maps is not None or stretches)
    block = 1 << min(16, (height * width * 3 - 1).bit_length()) if INTERPRETED else 128 * each
    unused = table.view(torch.int16)
    with torch.cuda.device_of(images):
        mix_kernel[(n * -(-height * width * 3 // block),)](
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
            HAS_BLOCKS=blocks is not None,
            HAS_MAPS=maps is not None,
            STRETCHES=stretches,
            ERASE=erase is not None,
            V=group,
            G=max(1, block // group),
            num_warps=4,
            enable_fp_fusion=erase is None,
        )


# ---- ahead-of-time targets ----


def _target(name, dtype, size, registers, store, bank="*i16", **chosen: bool) -> Target:
    flags = dict.fromkeys(("HAS_BLOCKS", "HAS_MAPS", "STRETCHES", "ERASE"), False) | chosen
    each, group = _shape(size[1], 4 if dtype == "fp32" else 2, any(v for k, v in chosen.items() if k != "ERASE"))
    types = dict(images="*u8", table="*i32", profiles="*i16", bank=bank, blocks="*i32", maps="*i32", boxes="*i32")
    types |= dict.fromkeys(("mean0", "mean1", "mean2", "scale0", "scale1", "scale2"), "fp32")
    types |= {"fill": "*fp32", "out": f"*{dtype}"} | dict.fromkeys(("cells", "map_rows", "map_columns"), "i32")
    constants = dict(H=size[0], W=size[1], V=group, G=128 * each // group) | flags
    return Target(name, mix_kernel, types, constants, registers, group, store, fused=not flags["ERASE"])


AOT = [
    _target("mix bf16", "bf16", (224, 224), 64, 16),
    _target("mix fp16, int32 bank", "fp16", (288, 288), 64, 16, bank="*i32"),
    _target("mix fp32", "fp32", (224, 224), 64, 16),
    _target("mix bf16, erase", "bf16", (224, 224), 80, 16, ERASE=True),
    _target("mix bf16, blocks", "bf16", (224, 224), 64, 8, HAS_BLOCKS=True),
    _target("mix bf16, blocks, erase", "bf16", (224, 224), 80, 8, HAS_BLOCKS=True, ERASE=True),
    _target("mix bf16, maps", "bf16", (224, 224), 64, 8, HAS_MAPS=True),
    _target("mix bf16, maps, erase", "bf16", (224, 224), 80, 8, HAS_MAPS=True, ERASE=True),
    _target("mix bf16, stretches", "bf16", (224, 224), 64, 8, STRETCHES=True),
    _target("mix bf16, stretches, erase", "bf16", (224, 224), 80, 8, STRETCHES=True, ERASE=True),
    _target("mix bf16, odd size", "bf16", (225, 225), 80, 2),
]
