"""The mixing pass: uint8 NHWC -> (erase) -> mix -> normalise -> fp32/fp16/bf16, channels-last, in one pass.

    v_i(p) = m_i(p) x_i(p) + (1 - m_i(p)) x_partner(i)(p),    out_i(p,c) = (v_i(p,c) - 255 mean_c) / (255 std_c)

m comes from the plan (kernels/plan.py), pixel by pixel; the kinds may differ from sample to sample. All is fp32:
v = b + m (a - b) is exact for whole pixel values a, b and the plan's weights of 2**-16, so fused or not it is the same;
255 mean_c and 1 / (255 std_c) are rounded to fp32 once, then one subtraction and one multiplication follow. Hence the
reference, the Triton kernel and the numba twin agree bit for bit. (Noise of an erased source is no whole number: there
weight 1 selects a, and the Triton kernel is compiled without fusing.)

Bytes to move for each element: 1 read where m is 0 or 1, 2 where it is between, and 2 (fp16, bf16) or 4 (fp32) written;
RANKS reads 2/3 more (4/3 for an int32 bank). The NHWC output *is* the channels-last tensor.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels import plan as P
from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl
from fastmix.kernels.erase import LEVELS, Erase
from fastmix.kernels.mix_cases import CASES  # noqa: F401
from fastmix.kernels.plan import Plan

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def constants(mean, std) -> tuple[np.ndarray, np.ndarray]:
    """float32 [3] each: 255 mean_c, which is subtracted, and 1 / (255 std_c), by which is multiplied."""
    mean, std = (np.asarray(v, np.float64) for v in (mean, std))
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
        raise ValueError(f"mix: mean and std must be 3 numbers each, std above 0, not {mean} and {std}")
    return (mean * 255).astype(np.float32), (1 / (std * 255)).astype(np.float32)


# ---- reference ----


def reference(
    images: Tensor, plan: Plan | None, mean, std, dtype: torch.dtype = torch.float32, *, erase: Erase | None = None
) -> Tensor:
    """`mix` in plain torch: builds every mask and, for every pixel, the places of its two sources."""
    n, height, width, _ = images.shape
    pixels = _erased(images, erase).view(-1, 3)
    sample, y, x = (torch.arange(k, device=images.device) for k in (n, height, width))
    place = (sample[:, None, None] * height + y[:, None]) * width + x  # [B,H,W] own pixel
    weight, first, second = torch.full_like(place, P.ONE), place.clone(), place.clone()
    for kind, area in _AREAS.items():
        rows = torch.nonzero(plan.kind == kind).flatten() if plan is not None else []
        if len(rows):
            table = plan.table[rows]
            other = (table[:, 1, None, None].long() * height + y[:, None]) * width + x
            weight[rows], first[rows], second[rows] = area(plan, rows, table, place[rows], other, y[:, None], x)
    a, b = pixels[first], pixels[second]
    rows = torch.nonzero(plan.kind == P.RESIZED).flatten() if plan is not None else []
    if len(rows):
        b[rows] = _stretched(plan.table[rows].long(), pixels.view(n, height, width, 3), y[:, None], x)
    weight = (weight * 2.0**-16).float()[..., None]
    mixed = torch.where(weight == 1, a, b + weight * (a - b))
    shift, scale = (torch.from_numpy(v).to(images.device) for v in constants(mean, std))
    return ((mixed - shift) * scale).to(dtype).permute(0, 3, 1, 2)


def _erased(images: Tensor, erase: Erase | None) -> Tensor:
    n, height, width, _ = images.shape
    pixels = images.float()
    if erase is None:
        return pixels
    y0, y1, x0, x1, seed = erase.boxes.long()[:, :, None, None, None].unbind(1)
    y, x, c = (torch.arange(k, device=images.device) for k in (height, width, 3))
    y, x = y[:, None, None], x[:, None]
    h = ((y * width + x) * 3 + c) ^ (seed & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):  # a wrapped int64 product has the right low half
        h = (h ^ (h >> shift)) * factor & 0xFFFFFFFF
    noise = erase.fill[c.expand(h.shape), (h ^ (h >> 16)) & (LEVELS - 1)]
    return torch.where((y >= y0) & (y < y1) & (x >= x0) & (x < x1), noise, pixels)


# Each of these gives, for rows [n] of the plan: the own weight in 2**-16, and the places of both sources, [n,H,W].


def _plain(plan, rows, table, own, other, y, x):
    return P.ONE, own, own


def _blend(plan, rows, table, own, other, y, x):
    return table[:, 4, None, None].long(), own, other


def _box(plan, rows, table, own, other, y, x):
    y0, y1, x0, x1 = table[:, 4:8, None, None].unbind(1)
    return P.ONE * (1 - ((y >= y0) & (y < y1) & (x >= x0) & (x < x1)).long()), own, other


def _window(plan, rows, table, own, other, y, x):
    y0, _, x0, _, source_y, source_x = table[:, 4:10, None, None].unbind(1)
    scale_y, scale_x = table.view(torch.float32)[:, 10:, None, None].unbind(1)
    height, width = own.shape[1:]
    from_y = (source_y + ((y - y0) * scale_y).floor().long()).clamp(0, height - 1)
    from_x = (source_x + ((x - x0) * scale_x).floor().long()).clamp(0, width - 1)
    partner = table[:, 1, None, None].long()
    return _box(plan, rows, table, own, other, y, x)[0], own, (partner * height + from_y) * width + from_x


def _profile(plan, rows, table, own, other, y, x):
    height = own.shape[1]
    profile = plan.profiles[table[:, 4].long()].long()
    return P.ONE - profile[:, :height, None] * profile[:, None, height:], own, other


def _ranks(plan, rows, table, own, other, y, x):
    rank = plan.bank[table[:, 4].long()].long()
    if plan.bank.dtype == torch.int16:
        rank = rank & 0xFFFF
    flip = table[:, 6, None, None]
    rank = torch.where((flip & 1) > 0, rank.flip(2), rank)
    rank = torch.where((flip & 2) > 0, rank.flip(1), rank)
    return P.ONE * (rank < table[:, 5, None, None]).long(), own, other


def _blocks(plan, rows, table, own, other, y, x):
    height, width = own.shape[1:]
    gh, gw = table[:, 4:6, None, None].long().unbind(1)
    cy, cx = y * gh // height, x * gw // width
    cell = (cy * gw + cx).flatten(1)
    entry = plan.blocks[rows].long().gather(1, cell[..., None].expand(-1, -1, 3)).view(len(rows), height, width, 3)

    def source(index):
        image, source_cell = index // (gh * gw), index % (gh * gw)
        sy, sx = source_cell // gw, source_cell % gw
        from_y = (y + _start(sy, height, gh) - _start(cy, height, gh)).clamp(max=height - 1)
        from_x = (x + _start(sx, width, gw) - _start(cx, width, gw)).clamp(max=width - 1)
        return (image * height + from_y) * width + from_x

    return entry[..., 2], source(entry[..., 0]), source(entry[..., 1])


def _cells(plan, rows, table, own, other, y, x):
    height, width = own.shape[1:]
    gh, gw = table[:, 4:6, None, None].long().unbind(1)
    cell = (y * gh // height * gw + x * gw // width).flatten(1)
    word = table.gather(1, 6 + cell // 32).view(own.shape)
    return P.ONE * (word >> (cell % 32).view(own.shape) & 1).long(), own, other


def _map(plan, rows, table, own, other, y, x):
    maps = plan.maps[table[:, 4].long()].long()
    sides = (P.map_places(length, cells) for length, cells in zip(own.shape[1:], maps.shape[1:], strict=True))
    (top, bottom, down), (left, right, across) = ([torch.from_numpy(v).to(own.device) for v in side] for side in sides)
    rows = maps[:, top] * (P.STEPS - down)[:, None] + maps[:, bottom] * down[:, None]
    weight = rows[:, :, left] * (P.STEPS - across) + rows[:, :, right] * across
    return (weight + P.STEPS**2 // 2) // P.STEPS**2, own, other


def _stretched(table, images, y, x):
    """What the boxes of RESIZED rows show, float [n,H,W,3]: outside of the boxes nothing that is used."""
    n, height, width, _ = images.shape
    partner, edges = table[:, 1, None, None], table[:, 4:, None, None].unbind(1)

    def place(pixel, low, high, first, last, length):
        step = (pixel - low).clamp(min=0) * (last - first - 1) * P.STEPS // (high - low - 1).clamp(min=1)
        cell = first + step // P.STEPS
        return cell.clamp(0, length - 1), (cell + 1).clamp(0, length - 1), (step % P.STEPS)[..., None].float()

    top, bottom, down = place(y, *edges[:2], *edges[4:6], height)
    left, right, across = place(x, *edges[2:4], *edges[6:8], width)
    over, under = (
        images[partner, y, left] * (P.STEPS - across) + images[partner, y, right] * across for y in (top, bottom)
    )
    return (over * (P.STEPS - down) + under * down) * (1 / P.STEPS**2)


def _start(cell, length, cells):
    return (cell * length + cells - 1) // cells


_AREAS = {
    P.PLAIN: _plain,
    P.BLEND: _blend,
    P.BOX: _box,
    P.WINDOW: _window,
    P.PROFILE: _profile,
    P.RANKS: _ranks,
    P.BLOCKS: _blocks,
    P.CELLS: _cells,
    P.RESIZED: _box,
    P.MAP: _map,
}

# ---- Triton ----

BLEND, BOX, WINDOW, PROFILE, RANKS, BLOCKS = map(constant, (P.BLEND, P.BOX, P.WINDOW, P.PROFILE, P.RANKS, P.BLOCKS))
ONE, COLUMNS, NOISE = map(constant, (P.ONE, P.COLUMNS, LEVELS))


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
    place = images + image.to(tl.int64) * (H * W * 3) + ((from_y * W + from_x) * 3 + c)
    value = tl.load(place, mask=mask, other=0).to(tl.float32)
    if ERASE:
        value = _erase(value, boxes, fill, image, from_y, from_x, c, mask, W)
    return value


@jit
def mix_kernel(
    images, table, profiles, bank, blocks, boxes, fill, out,
    mean0, mean1, mean2, scale0, scale1, scale2, cells,
    H: tl.constexpr, W: tl.constexpr, CELLS: tl.constexpr, ERASE: tl.constexpr, V: tl.constexpr, G: tl.constexpr,
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

    if CELLS and kind == BLOCKS:
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
        if (kind == BOX) | (kind == WINDOW):
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
        else:
            b = tl.load(other + start + lane, mask=need_b, other=0).to(tl.float32)
        if ERASE:
            a = _erase(a, boxes, fill, sample, y, x, c, need_a, W)
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
    _check(images, plan, dtype, erase)
    n, height, width, _ = images.shape
    if out is None:
        out = torch.empty((n, height, width, 3), dtype=dtype, device=images.device).permute(0, 3, 1, 2)
    flat = out.permute(0, 2, 3, 1) if out.ndim == 4 else out
    _fits("out (channels-last)", flat, [dtype], (n, height, width, 3), images.device)
    shift, scale = constants(mean, std)
    if images.device.type == "cpu":
        _check_rows(plan, n)
    if images.is_cuda or INTERPRETED:
        _launch(images.contiguous(), plan, shift, scale, erase, flat)
    else:
        from fastmix.kernels.mix_cpu import mix_cpu

        mix_cpu(images.contiguous(), plan, shift, scale, erase, flat)
    return out


def _shape(width: int, itemsize: int, cells: bool) -> tuple[int, int]:
    """Elements a thread (16 bytes to write, half as many where the registers would run out), and in one access."""
    each = 4 if cells else 16 // itemsize
    return each, math.gcd(3 * width, each)


def _launch(images, plan, shift, scale, erase, out) -> None:
    n, height, width, _ = images.shape
    table = torch.zeros((n, P.COLUMNS), dtype=torch.int32, device=images.device) if plan is None else plan.table
    cells = plan is not None and plan.blocks is not None
    each, group = _shape(width, out.element_size(), cells)
    block = 1 << min(16, (height * width * 3 - 1).bit_length()) if INTERPRETED else 128 * each
    unused = table.view(torch.int16)
    with torch.cuda.device_of(images):
        mix_kernel[(n * -(-height * width * 3 // block),)](
            images,
            table,
            unused if plan is None or plan.profiles is None else plan.profiles,
            unused if plan is None or plan.bank is None else plan.bank,
            plan.blocks if cells else table,
            table if erase is None else erase.boxes,
            table.view(torch.float32) if erase is None else erase.fill,
            out,
            *shift.tolist(),
            *scale.tolist(),
            plan.blocks.shape[1] if cells else 0,
            H=height,
            W=width,
            CELLS=cells,
            ERASE=erase is not None,
            V=group,
            G=max(1, block // group),
            num_warps=4,
            enable_fp_fusion=erase is None,
        )


def _check(images, plan, dtype, erase) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"mix: dtype is {dtype}; choose one of {', '.join(map(str, DTYPES))}")
    _fits("images", images, [torch.uint8], (None, None, None, 3), images.device, contiguous=False)
    n, height, width, _ = images.shape
    if not 0 < height * width * 3 < 2**31 or n == 0:
        raise ValueError(f"mix: images of shape {tuple(images.shape)}: empty, or more than 2**31 values in one image")
    where = images.device
    if plan is not None:
        _fits("plan.table", plan.table, [torch.int32], (n, P.COLUMNS), where)
        if plan.profiles is not None:
            _fits("plan.profiles", plan.profiles, [torch.int16], (None, height + width), where)
        if plan.bank is not None:
            _fits("plan.bank", plan.bank, [torch.int16, torch.int32], (None, height, width), where)
        if plan.blocks is not None:
            _fits("plan.blocks", plan.blocks, [torch.int32], (n, None, 3), where)
        if plan.maps is not None:
            _fits("plan.maps", plan.maps, [torch.int32], (None, None, None), where)
    if erase is not None:
        _fits("erase.boxes", erase.boxes, [torch.int32], (n, 5), where)
        _fits("erase.fill", erase.fill, [torch.float32], (3, LEVELS), where)


def _fits(name, tensor, dtypes, shape, device, contiguous=True) -> None:
    same = tensor.ndim == len(shape) and all(s in (None, t) for s, t in zip(shape, tensor.shape, strict=True))
    if same and tensor.dtype in dtypes and tensor.device == device and (tensor.is_contiguous() or not contiguous):
        return
    kind = "/".join(str(d).removeprefix("torch.") for d in dtypes)
    wanted = ",".join("*" if s is None else str(s) for s in shape)
    found = f"{tensor.dtype} {list(tensor.shape)} with strides {list(tensor.stride())} on {tensor.device}"
    raise ValueError(f"mix: {name} must be {kind} [{wanted}]{', contiguous,' * contiguous} on {device}, not {found}")


def _check_rows(plan: Plan | None, n: int) -> None:
    """Raises ValueError for a plan that points outside the batch or outside its own tables."""
    if plan is None:
        return
    table = plan.table.numpy()
    kind, partner, index = table[:, 0], table[:, 1], table[:, 4]
    wrong = (kind < P.PLAIN) | (kind > P.MAP) | (partner < 0) | (partner >= n)
    for area, rows in ((P.PROFILE, plan.profiles), (P.RANKS, plan.bank)):
        wrong |= (kind == area) & ((index < 0) | (index >= (0 if rows is None else len(rows))))
    if plan.blocks is None:
        wrong |= kind == P.BLOCKS
    elif (kind == P.BLOCKS).any():
        cells = table[:, 4].astype(np.int64) * table[:, 5]
        source, weight = plan.blocks[..., :2].numpy(), plan.blocks[..., 2].numpy()
        outside = ((source < 0) | (source >= n * cells[:, None, None])).any(2) | (weight < 0) | (weight > P.ONE)
        used = np.arange(source.shape[1]) < cells[:, None]
        wrong |= (kind == P.BLOCKS) & ((outside & used).any(1) | (cells > source.shape[1]) | (table[:, 4:6] < 1).any(1))
    if wrong.any():
        sample = int(wrong.argmax())
        what = f"mix: row {sample} of the plan, {table[sample].tolist()}, points outside"
        raise ValueError(f"{what} the batch of {n} images or outside the plan's own tables")


# ---- ahead-of-time targets ----


def _target(name, dtype, size, registers, store, bank="*i16", cells=False, erase=False) -> Target:
    each, group = _shape(size[1], 4 if dtype == "fp32" else 2, cells)
    types = dict(images="*u8", table="*i32", profiles="*i16", bank=bank, blocks="*i32", boxes="*i32", fill="*fp32")
    numbers = dict.fromkeys(("mean0", "mean1", "mean2", "scale0", "scale1", "scale2"), "fp32")
    chosen = dict(H=size[0], W=size[1], CELLS=cells, ERASE=erase, V=group, G=128 * each // group)
    types |= {"out": f"*{dtype}", "cells": "i32"} | numbers
    return Target(name, mix_kernel, types, chosen, registers, group, store, fused=not erase)


AOT = [
    _target("mix bf16", "bf16", (224, 224), 64, 16),
    _target("mix fp16, int32 bank", "fp16", (288, 288), 64, 16, bank="*i32"),
    _target("mix fp32", "fp32", (224, 224), 64, 16),
    _target("mix bf16, erase", "bf16", (224, 224), 80, 16, erase=True),
    _target("mix bf16, blocks", "bf16", (224, 224), 64, 8, cells=True),
    _target("mix bf16, blocks, erase", "bf16", (224, 224), 80, 8, cells=True, erase=True),
    _target("mix bf16, odd size", "bf16", (225, 225), 80, 2),
]
