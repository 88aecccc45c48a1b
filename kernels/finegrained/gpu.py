"""Fine-grained saliency on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.finegrained.reference import LUMA, usual_factor

RED, GREEN, BLUE = map(constant, LUMA)


@jit
def _blur(value, up, down, left, right):
    """16 times the 3x3 binomial filter."""
    value = tl.gather(value, up, 0) + 2 * value + tl.gather(value, down, 0)
    return tl.gather(value, left, 1) + 2 * value + tl.gather(value, right, 1)


@jit
def _before(total, end, axis: tl.constexpr):
    """The running sum of what lies before `end`."""
    return tl.where(end > 0, tl.gather(total, tl.maximum(end - 1, 0), axis), 0)


@jit
def _scaled(part):
    """floor(255 part / max part); 0 where all is."""
    most = tl.maximum(tl.max(tl.max(part, 1), 0), 1)
    return tl.floor(tl.div_rn((255 * part).to(tl.float32), tl.zeros_like(part).to(tl.float32) + most)).to(tl.int32)


@jit
def finegrained_kernel(
    images, out, H: tl.constexpr, W: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """One program: one image. ROWS x COLUMNS are powers of two that hold its cells."""
    GH: tl.constexpr = (H + F - 1) // F
    GW: tl.constexpr = (W + F - 1) // F
    source = images + tl.program_id(0).to(tl.int64) * (H * W * 3)
    cy = tl.arange(0, ROWS)[:, None] + tl.zeros([ROWS, COLUMNS], tl.int32)
    cx = tl.arange(0, COLUMNS)[None, :] + tl.zeros([ROWS, COLUMNS], tl.int32)
    total = tl.zeros([ROWS, COLUMNS], tl.int32)
    for k in range(F * F):
        y, x = cy * F + k // F, cx * F + k % F
        place, seen = source + (y * W + x) * 3, (y < H) & (x < W)
        total += RED * tl.load(place, mask=seen, other=0).to(tl.int32)
        total += GREEN * tl.load(place + 1, mask=seen, other=0).to(tl.int32)
        total += BLUE * tl.load(place + 2, mask=seen, other=0).to(tl.int32)
    inside = (cy < GH) & (cx < GW)
    count = tl.where(inside, tl.minimum(H - cy * F, F) * tl.minimum(W - cx * F, F), 1)
    level = (total + 512 * count) // (1024 * count)

    up, down = tl.where(cy > 0, cy - 1, min(1, GH - 1)), tl.where(cy < GH - 1, cy + 1, max(GH - 2, 0))
    left, right = tl.where(cx > 0, cx - 1, min(1, GW - 1)), tl.where(cx < GW - 1, cx + 1, max(GW - 2, 0))
    level = (_blur(level, up, down, left, right) + 8) >> 4
    level = tl.where(inside, (_blur(level, up, down, left, right) + 8) >> 4, 0)
    sums = tl.cumsum(tl.cumsum(level, 0), 1)

    on, off = tl.zeros_like(level), tl.zeros_like(level)
    for k in range(6):
        n = tl.maximum((2 * ((12 + 16 * (k // 3)) << (k % 3)) + F) // (2 * F), 1)
        y0, y1 = tl.maximum(cy - n + 1, 0), tl.minimum(cy + n + 1, GH)
        x0, x1 = tl.maximum(cx - n + 1, 0), tl.minimum(cx + n + 1, GW)
        band = _before(sums, y1, 0) - _before(sums, y0, 0)
        area = (y1 - y0) * (x1 - x0)
        surplus = tl.where(inside, level * area - (_before(band, x1, 1) - _before(band, x0, 1)), 0)
        size = tl.abs(surplus).to(tl.float32)
        difference = tl.floor(tl.div_rn(size, tl.maximum(area - 1, 1).to(tl.float32))).to(tl.int32)
        on += tl.where(surplus > 0, difference, 0)
        off += tl.where(surplus < 0, difference, 0)

    CELLS: tl.constexpr = ROWS * COLUMNS
    order = tl.where(inside, (_scaled(on) + _scaled(off)) * 2048 + on + off, -1)
    best = tl.max(tl.max(order, 1), 0)
    cell = tl.min(tl.min(tl.where(order == best, cy * COLUMNS + cx, CELLS), 1), 0)
    y = tl.minimum(cell // COLUMNS * F + F // 2, H - 1)
    x = tl.minimum(cell % COLUMNS * F + F // 2, W - 1)
    salient = best > 0
    tl.store(out + 2 * tl.program_id(0), tl.where(salient, y, H // 2))
    tl.store(out + 2 * tl.program_id(0) + 1, tl.where(salient, x, W // 2))


def program_shape(height: int, width: int, factor: int) -> dict[str, int]:
    rows, columns = (1 << (-(-length // factor) - 1).bit_length() for length in (height, width))
    return dict(H=height, W=width, F=factor, ROWS=rows, COLUMNS=columns)


def _target(name: str, size: tuple[int, int], registers: int) -> Target:
    types = dict(images="*u8", out="*i32")
    shape = program_shape(*size, usual_factor(size))
    return Target(name, finegrained_kernel, types, shape, registers, 1, 4, num_warps=8)


AOT = [_target("finegrained 224x224", (224, 224), 176)]
