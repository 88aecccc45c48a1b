"""The rows of Co-Mixup on a GPU: labels of whole groups and blocks of any of their images, so a kernel of its own."""

from __future__ import annotations

import torch

from fastmix.kernels import plan as P
from fastmix.kernels._triton import Target, jit, tl
from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows.gpu import ONE, PIECES, piece, pixels_of, write
from fastmix.kernels.plan_rows.rules import Groups


@jit(numbers=("m", "h", "w", "height", "width"))
def group_rows_kernel(
    table, blocks, sources, weights, shown, sizes, own, group, first, m, h, w, height, width,
    N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """One program: one output. N >= h w, M >= m lanes."""
    output = tl.program_id(0).to(tl.int64)
    place, begin = tl.load(own + output).to(tl.int32), tl.load(first + output).to(tl.int32)
    of, n, t, k = tl.load(group + output), h * w, tl.arange(0, N), tl.arange(0, M)
    size = tl.load(sizes + of)
    row, there = shown + (of * m + place) * (2 * n), t < n
    one, two = tl.load(row + 2 * t, mask=there, other=0), tl.load(row + 2 * t + 1, mask=there, other=0)
    away, other_away = (one + size - place) % size, (two + size - place) % size
    hits = (away[:, None] == k[None, :]).to(tl.int32) + (other_away[:, None] == k[None, :]).to(tl.int32)
    pixels = tl.where(there, pixels_of(t, h, w, height, width), 0)
    halves = tl.sum(hits * pixels[:, None], 0)  # of pixels, of each input
    twice = (2 * height * width).to(tl.float64)
    source = tl.where(k < size, begin + (place + k) % size, output.to(tl.int32))
    tl.store(sources + output * m + k, source, mask=k < m)
    tl.store(weights + output * m + k, (halves.to(tl.float64) / twice).to(tl.float32), mask=k < m)
    most = tl.argmax(tl.where(k == 0, 0, tl.where(k < m, halves, -1)), 0)
    other = tl.sum(tl.where((k == most) & (k > 0), halves, 0), 0).to(tl.float64) / twice
    itself = tl.sum(tl.where(k == 0, halves, 0), 0).to(tl.float64) / twice
    weight = tl.where(one == two, ONE, ONE // 2)
    piece(blocks + output * (3 * n), t, n, (one + begin) * n + t, (two + begin) * n + t, weight)
    pair = tl.sum(tl.where(k == most, source, 0), 0)
    write(table, output, PIECES, pair, itself, other, h, w, 0, 0, 0, 0, 0, 0)


def launched(rule: Groups, size: tuple[int, int]) -> Plan:
    """The plan of a rule on the device."""
    count, device, (h, w), m = len(rule.own), rule.own.device, rule.grid, rule.shown.shape[1]
    table, blocks, sources = (
        torch.empty(shape, dtype=torch.int32, device=device)
        for shape in ((count, P.COLUMNS), (count, h * w, 3), (count, m))
    )
    weights = torch.empty(count, m, device=device)
    given = [v.contiguous() for v in (rule.shown, rule.sizes, rule.own, rule.group, rule.first)]
    with torch.cuda.device_of(table):
        group_rows_kernel[(count,)](
            table, blocks, sources, weights, *given, m, h, w, *size, **program_shape(m, rule.grid)
        )
    return Plan(table, blocks=blocks, sources=sources, weights=weights, kinds=1 << P.BLOCKS)


def program_shape(m: int, grid: tuple[int, int]) -> dict[str, int]:
    lanes, inputs = 1 << (grid[0] * grid[1] - 1).bit_length(), 1 << (m - 1).bit_length()
    return dict(N=lanes, M=inputs, num_warps=min(max(lanes * inputs // 256, 1), 8))


def _target(m: int, grid: tuple[int, int]) -> Target:
    shape = program_shape(m, grid)
    warps = shape.pop("num_warps")
    types = dict.fromkeys(("table", "blocks", "sources", "shown", "sizes"), "*i32") | {"weights": "*fp32"}
    types |= dict.fromkeys(("own", "group", "first"), "*i64")
    types |= dict.fromkeys(("m", "h", "w", "height", "width"), "i32")
    name = f"plan_rows groups {m} on {grid[0]}x{grid[1]}"
    return Target(name, group_rows_kernel, types, shape, 128, 8, 4, num_warps=warps)


AOT = [_target(16, (4, 4)), _target(20, (8, 8))]
