"""Batch-norm, a shortcut's sum and ReLU on a GPU: the Triton kernels.

A map in channels-last is a matrix of `rows` (pixels of all images) by `groups` x V channels. V is 8 where that divides
them, so that a thread's accesses are of 16 bytes, and only the count of groups is told to the kernel: one build serves
every number of channels. Sums over rows are made in two stages, in an order that the shape alone decides.
"""

from __future__ import annotations

from fastmix.kernels._triton import Target, jit, tl

PROGRAMS = 1024  # of a pass that sums over rows: 31 KB of bf16 on their way on each multiprocessor of an H200
TILES = 4  # that each of them has at least: what it writes is then at most a twentieth of what it reads
SUMMED, MAPPED = 2048, 4096  # values of a tile, of passes that sum and of those that do not
PARTS, COLUMNS = 256, 8  # a tile of the second stage
SETTLE_WARPS = 8


@jit
def _joined(count, mean, squares):
    """Rows of samples as one, for each column: their count, mean and sum of squared deviations from it."""
    total = tl.sum(count, 0)
    joint = tl.sum(count * mean, 0) / total
    away = mean - joint[None, :]
    return total, joint, tl.sum(squares + count * away * away, 0)


@jit
def _clipped(value, z, cap):
    """value where 0 < z < cap or z is no number, else 0: the gradient of a ReLU that ends at cap."""
    return tl.where((z <= 0) | (z >= cap), 0.0, value)


@jit
def _row(table, k: tl.constexpr, column, channels):
    """Row k of a table [K,C], for a tile's columns."""
    return tl.load(table + k * channels + column, mask=column < channels, other=0.0)


@jit(numbers=("rows", "chunk", "groups"))
def moments_kernel(
    x, parts, rows, chunk, groups, V: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """One program: count, mean and sum of squared deviations over `chunk` rows. Every lane updates its own mean."""
    channels = groups * V
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    lane = tl.arange(0, ROWS)
    first = tl.program_id(1) * chunk
    count = tl.minimum(rows - first, chunk)
    start = x + first.to(tl.int64) * channels
    mean = tl.zeros([ROWS, CHANNELS], tl.float32)
    squares = tl.zeros([ROWS, CHANNELS], tl.float32)
    seen = 0.0
    for step in range(0, count, ROWS):
        inside = (step + lane < count)[:, None] & (column < channels)[None, :]
        value = tl.load(start + (step + lane)[:, None] * channels + column[None, :], mask=inside, other=0.0)
        seen += 1.0
        away = tl.where(inside, value.to(tl.float32) - mean, 0.0)
        mean += away * (1.0 / seen)
        squares += away * away * (1.0 - 1.0 / seen)
    each = ((count - lane + ROWS - 1) // ROWS).to(tl.float32)[:, None]  # rows that a lane saw; 0: of fewer than ROWS
    total, mean, squares = _joined(each, mean, squares)
    out = parts + tl.program_id(1) * (3 * channels) + column
    tl.store(out, total + tl.zeros_like(mean), mask=column < channels)
    tl.store(out + channels, mean, mask=column < channels)
    tl.store(out + 2 * channels, squares, mask=column < channels)


@jit(numbers=("count", "channels"))
def settle_kernel(
    parts, weight, bias, running_mean, running_var, table, count, channels, momentum, eps,
    TRAINING: tl.constexpr, TRACKED: tl.constexpr, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: COLUMNS channels, from `count` parts (or the running statistics) to the table."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    if TRAINING:
        number = tl.zeros([PARTS, COLUMNS], tl.float32)
        average = tl.zeros([PARTS, COLUMNS], tl.float32)
        squares = tl.zeros([PARTS, COLUMNS], tl.float32)
        for first in range(0, count, PARTS):
            part = first + tl.arange(0, PARTS)
            place = parts + part[:, None] * (3 * channels) + column[None, :]
            there = (part < count)[:, None] & inside[None, :]
            n = tl.load(place, mask=there, other=0.0)
            away = tl.load(place + channels, mask=there, other=0.0) - average
            both = tl.maximum(number + n, 1.0)
            squares += tl.load(place + 2 * channels, mask=there, other=0.0) + away * away * (number * n / both)
            average += tl.where(there, away * (n / both), 0.0)
            number += n
        total, mean, squares = _joined(number, average, squares)
        var = squares / total
        if TRACKED:
            old_mean = tl.load(running_mean + column, mask=inside)
            old_var = tl.load(running_var + column, mask=inside)
            tl.store(running_mean + column, old_mean + momentum * (mean - old_mean), mask=inside)
            tl.store(running_var + column, old_var + momentum * (squares / (total - 1) - old_var), mask=inside)
    else:
        mean = tl.load(running_mean + column, mask=inside, other=0.0)
        var = tl.load(running_var + column, mask=inside, other=1.0)
        squares = tl.zeros_like(mean)
        total = tl.full([COLUMNS], float("inf"), tl.float32)  # over which a gradient's means are 0
    deviation = tl.sqrt_rn(var + eps)
    inverse = tl.div_rn(tl.full([COLUMNS], 1.0, tl.float32), deviation)
    place = table + column
    tl.store(place, total, mask=inside)
    tl.store(place + channels, mean, mask=inside)
    tl.store(place + 2 * channels, squares, mask=inside)
    tl.store(place + 3 * channels, inverse, mask=inside)
    scale = inverse * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(place + 4 * channels, scale, mask=inside)
    tl.store(place + 5 * channels, tl.load(bias + column, mask=inside, other=0.0).to(tl.float32), mask=inside)


@jit
def _normed(value, table, column, channels):
    mean = _row(table, 1, column, channels)
    scale, shift = _row(table, 4, column, channels), _row(table, 5, column, channels)
    return (value.to(tl.float32) - mean[None, :]) * scale[None, :] + shift[None, :]


@jit
def _tile(rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Of a program that writes ROWS x CHANNELS values: columns, places from the tile's begin, which are inside, and
    that begin. Neighbouring programs have neighbouring columns."""
    blocks = (channels + CHANNELS - 1) // CHANNELS
    column = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.program_id(0) // blocks * ROWS
    lane = tl.arange(0, ROWS)
    inside = (first + lane < rows)[:, None] & (column < channels)[None, :]
    return column, lane[:, None] * channels + column[None, :], inside, first.to(tl.int64) * channels


@jit(numbers=("rows", "groups"))
def apply_kernel(
    x, table, shortcut, second, out, rows, groups, cap,
    SHORTCUT: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """SHORTCUT: 0 none, 1 added, 2 normed by `second` and added."""
    channels = groups * V
    column, place, inside, start = _tile(rows, channels, ROWS, CHANNELS)
    z = _normed(tl.load(x + start + place, mask=inside, other=0.0), table, column, channels)
    if SHORTCUT:
        added = tl.load(shortcut + start + place, mask=inside, other=0.0)
        z += _normed(added, second, column, channels) if SHORTCUT == 2 else added.to(tl.float32)
    z = tl.where(z <= 0, 0.0, tl.where(z >= cap, cap, z))  # what is no number stays so
    tl.store(out + start + place, z.to(out.dtype.element_ty), mask=inside)


@jit(numbers=("rows", "chunk", "groups"))
def sums_kernel(
    grad, x, table, out, passed, parts, rows, chunk, groups, cap,
    ACT: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program: sums over `chunk` rows of g and of g (x - mean). What g is, ACT says: the gradient as it is (0);
    through the ReLU of x normed, which is computed again (1); through the ReLU that gave `out`, and written (2)."""
    channels = groups * V
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    lane = tl.arange(0, ROWS)
    first = tl.program_id(1) * chunk
    count = tl.minimum(rows - first, chunk)
    start = first.to(tl.int64) * channels
    mean = _row(table, 1, column, channels)[None, :]
    scale, shift = _row(table, 4, column, channels)[None, :], _row(table, 5, column, channels)[None, :]
    plain = tl.zeros([ROWS, CHANNELS], tl.float32)
    weighted = tl.zeros([ROWS, CHANNELS], tl.float32)
    for step in range(0, count, ROWS):
        inside = (step + lane < count)[:, None] & (column < channels)[None, :]
        place = (step + lane)[:, None] * channels + column[None, :]
        g = tl.load(grad + start + place, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x + start + place, mask=inside, other=0.0)
        away = value.to(tl.float32) - mean
        if ACT == 1:
            g = _clipped(g, (away * scale + shift).to(value.dtype).to(tl.float32), cap)
        elif ACT == 2:
            g = _clipped(g, tl.load(out + start + place, mask=inside, other=0.0).to(tl.float32), cap)
            tl.store(passed + start + place, g.to(passed.dtype.element_ty), mask=inside)
        plain += g
        weighted += g * away
    parts += tl.program_id(1) * (2 * channels)
    tl.store(parts + column, tl.sum(plain, 0), mask=column < channels)
    tl.store(parts + channels + column, tl.sum(weighted, 0), mask=column < channels)


@jit(numbers=("rows", "groups"))
def gradient_kernel(
    grad, x, table, sums, out, rows, groups, cap,
    ACT: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient of x. ACT as in sums_kernel, but for 2, whose g is what that wrote."""
    channels = groups * V
    column, place, inside, start = _tile(rows, channels, ROWS, CHANNELS)
    total, inverse = _row(table, 0, column, channels), _row(table, 3, column, channels)
    scale, shift = _row(table, 4, column, channels)[None, :], _row(table, 5, column, channels)[None, :]
    total = tl.where(column < channels, total, 1.0)
    level = (_row(sums, 0, column, channels) / total)[None, :]
    slope = (_row(sums, 1, column, channels) / total * inverse * inverse)[None, :]
    g = tl.load(grad + start + place, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x + start + place, mask=inside, other=0.0)
    away = value.to(tl.float32) - _row(table, 1, column, channels)[None, :]
    if ACT == 1:
        g = _clipped(g, (away * scale + shift).to(value.dtype).to(tl.float32), cap)
    g = (g - level - away * slope) * scale
    tl.store(out + start + place, g.to(out.dtype.element_ty), mask=inside)


def shape(channels: int, tile: int) -> dict[str, int]:
    """V, ROWS and CHANNELS of a tile, 64 channels wide or narrower where that leaves fewer lanes empty, and its warps,
    for 16 values a thread."""
    wide = min((64, 32, 16), key=lambda width: -(-channels // width) * width)
    return dict(V=1 if channels % 8 else 8, ROWS=tile // wide, CHANNELS=wide, num_warps=tile // 512)


def split(rows: int, channels: int) -> tuple[int, int]:
    """How many rows a program sums over, and how many parts there are of them."""
    tile = shape(channels, SUMMED)
    blocks = -(-channels // tile["CHANNELS"])
    tiles = -(-rows // tile["ROWS"])
    chunk = max(TILES, -(-tiles // max(1, PROGRAMS // blocks))) * tile["ROWS"]
    return chunk, -(-rows // chunk)


def _target(
    name: str, kernel, dtype: str, channels: int, registers: int, tile: int, load=16, store=16, **more
) -> Target:
    types = dict.fromkeys(("x", "grad", "out", "passed", "shortcut"), f"*{dtype}")
    types |= dict.fromkeys(("parts", "table", "second", "sums"), "*fp32")
    types |= dict.fromkeys(("rows", "chunk", "groups"), "i32") | {"cap": "fp32"}
    constants = shape(channels, tile) | more
    warps, elements = constants.pop("num_warps"), tile if tile == MAPPED else 0
    return Target(
        f"norm_act {name}", kernel, types, constants, registers, load, store, num_warps=warps, elements=elements
    )


def _settle(name: str, **chosen) -> Target:
    types = dict.fromkeys(("parts", "weight", "bias", "running_mean", "running_var", "table"), "*fp32")
    types |= dict(count="i32", channels="i32", momentum="fp32", eps="fp32")
    constants = dict(PARTS=PARTS, COLUMNS=COLUMNS) | chosen
    return Target(f"norm_act {name}", settle_kernel, types, constants, 112, 4, 4, num_warps=SETTLE_WARPS)


AOT = [
    _target("moments bf16", moments_kernel, "bf16", 64, 96, SUMMED, store=4),
    _target("moments fp32", moments_kernel, "fp32", 64, 96, SUMMED, store=4),
    _target("moments bf16, odd", moments_kernel, "bf16", 3, 128, SUMMED, 2, 4),
    _settle("settle", TRAINING=True, TRACKED=True),
    _settle("settle, fixed", TRAINING=False, TRACKED=False),
    *(
        _target(f"{word} bf16", apply_kernel, "bf16", 64, 96, MAPPED, SHORTCUT=k)
        for k, word in enumerate(("apply", "apply, shortcut", "apply, normed shortcut"))
    ),
]
GRAD_AOT = [
    *(
        _target(f"{word} bf16", sums_kernel, "bf16", 64, 128, SUMMED, store=16 if k == 2 else 4, ACT=k)
        for k, word in enumerate(("sums", "sums, ReLU", "sums, shortcut"))
    ),
    *(
        _target(f"{word} bf16", gradient_kernel, "bf16", 64, 96, MAPPED, ACT=k)
        for k, word in enumerate(("gradient", "gradient, ReLU"))
    ),
    _target("sums, ReLU fp32", sums_kernel, "fp32", 64, 128, SUMMED, store=4, ACT=1),
    _target("gradient, ReLU fp16, 24 channels", gradient_kernel, "fp16", 24, 96, MAPPED, ACT=1),
]
