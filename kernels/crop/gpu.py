"""The crop pass on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.crop.table import WORDS

TILE = 32  # rows and elements of a program; 3 S is a multiple of it where S is
COLUMNS = constant(WORDS)
REGISTERS = 120  # four programs at a time; Triton 3.4 takes 79 to 96 a thread, later ones 80 to 95


@jit
def _axis(row, i, support, reflect):
    """The filter of one axis at the sources i: the first pixel, counted from the first that it may see, how many,
    the first one's distance from the centre, 1 / width; the last pixel that it may see, and the most that count."""
    low, high = tl.load(row), tl.load(row + 1)
    last = high - 1 - low
    i = tl.where(reflect, low + last - tl.abs(last - tl.abs(i - low)), i)
    start = tl.load(row + 2).to(tl.float32, bitcast=True)
    scale = tl.load(row + 3).to(tl.float32, bitcast=True)
    wide = tl.maximum(scale, 1.0)
    reach = support * wide
    centre = start + (i.to(tl.float32) + 0.5) * scale
    first = tl.maximum(tl.floor(centre - reach + 0.5).to(tl.int32), low)
    count = tl.minimum(tl.floor(centre + reach + 0.5).to(tl.int32), high) - first
    taps = tl.ceil(2 * reach).to(tl.int32)
    return first - low, count, first.to(tl.float32) + 0.5 - centre, tl.div_rn(1.0, wide), last, taps


@jit
def _weight(k, count, away, shrink, CUBIC: tl.constexpr):
    t = tl.abs((away + k) * shrink)
    if CUBIC:
        far = tl.where(t < 2, ((2.5 - 0.5 * t) * t - 4) * t + 2, 0.0)
        f = tl.where(t < 1, (1.5 * t - 2.5) * t * t + 1, far)
    else:
        f = tl.maximum(1 - t, 0.0)
    return tl.where(k < count, f, 0.0)


@jit
def _norm(taps, count, away, shrink, CUBIC: tl.constexpr):
    total = tl.zeros_like(away)
    for k in range(taps):
        total += _weight(k, count, away, shrink, CUBIC)
    return tl.div_rn(1.0, tl.where(total > 0, total, 1.0))


@jit
def crop_kernel(pixels, places, table, out, S: tl.constexpr, CUBIC: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """One program: R rows by C elements (pixels times channels) of one output.

    Every tap is read from inside the image, those that do not count with weight 0, so no read is masked.
    """
    ACROSS: tl.constexpr = (3 * S + C - 1) // C
    DOWN: tl.constexpr = (S + R - 1) // R
    sample = tl.program_id(0) // (ACROSS * DOWN)
    tile = tl.program_id(0) % (ACROSS * DOWN)
    i = tile // ACROSS * R + tl.arange(0, R)[:, None]
    j = tile % ACROSS * C + tl.arange(0, C)[None, :]

    row = table + sample * COLUMNS
    source = pixels + tl.load(places + sample * (COLUMNS // 2))
    line, pixel, channel = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    support, reflect = tl.load(row + 13).to(tl.float32, bitcast=True), tl.load(row + 15) > 0
    x = tl.where(tl.load(row + 14) > 0, S - 1 - j // 3, j // 3)
    top, tall, above, shrink_y, bottom, down = _axis(row + 5, i, support, reflect)
    left, broad, before, shrink_x, right, across = _axis(row + 9, x, support, reflect)

    total = tl.zeros([R, C], tl.float32)
    for k in range(down):
        lines = tl.minimum(top + k, bottom) * line
        sums = tl.zeros([R, C], tl.float32)
        for n in range(across):
            places_x = tl.minimum(left + n, right) * pixel + (j % 3) * channel
            value = tl.load(source + (lines + places_x).to(tl.uint32)).to(tl.int32).to(tl.float32)
            sums += _weight(n, broad, before, shrink_x, CUBIC) * value
        total += _weight(k, tall, above, shrink_y, CUBIC) * sums
    norm = _norm(down, tall, above, shrink_y, CUBIC) * _norm(across, broad, before, shrink_x, CUBIC)
    result = tl.minimum(tl.maximum(tl.floor(total * norm + 0.5), 0.0), 255.0).to(tl.uint8)
    # A wide store would give each thread neighbours in a row, and a warp's reads many rows.
    to = tl.max_contiguous(i * (3 * S) + j, [1, 1])
    tl.store(out + sample.to(tl.int64) * (3 * S * S) + to, result, mask=(i < S) & (j < 3 * S))


def _target(name: str, size: int, cubic: bool) -> Target:
    types = dict(pixels="*u8", places="*i64", table="*i32", out="*u8")
    chosen = dict(S=size, CUBIC=cubic, R=TILE, C=TILE)
    return Target(name, crop_kernel, types, chosen, REGISTERS, 1, 1, fused=False)


AOT = [
    _target("crop bilinear", 224, False),
    _target("crop bicubic, odd size", 225, True),
]
