"""Greedy pairing on a GPU: two Triton kernels, the farthest sample of each and then the way through them."""

from __future__ import annotations

import math

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.farthest.reference import LEAST

FLOOR = constant(LEAST)
NEVER, BEHIND = constant(-(2**31)), constant(2**31 - 1)  # below every distance; behind every sample


@jit
def _ordered(d):
    """Distances as whole numbers of the same order, which a warp compares in one instruction; NaN is the least."""
    d = tl.where(d > FLOOR, d, FLOOR) + 0.0  # -0 is 0
    bits = d.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@jit
def _first_of_most(values, lane):
    """The first lane with the largest value, and that value."""
    most = tl.max(values, 0)
    return tl.min(tl.where(values == most, lane, BEHIND), 0), most


@jit(numbers=("n",))
def row_kernel(distance, far, at, n, N: tl.constexpr, V: tl.constexpr):
    """One program: the farthest sample from one, `at`, and how far it is; N >= n lanes hold its row, V at a time."""
    row, lane, n = tl.program_id(0), tl.arange(0, N), n // V * V
    real = lane < n
    d = _ordered(tl.load(distance + row.to(tl.int64) * n + lane, mask=real, other=0.0))
    first, most = _first_of_most(tl.where(real & (lane != row), d, NEVER), lane)
    tl.store(far + row, most)
    tl.store(at + row, first)


@jit(numbers=("n",))
def farthest_kernel(distance, far, farthest, partner, n, N: tl.constexpr, V: tl.constexpr):
    """One program; N >= n lanes hold a row, V at a time. far, farthest: of row_kernel."""
    lane, n = tl.arange(0, N), n // V * V
    real = lane < n
    first, _ = _first_of_most(tl.load(far + lane, mask=real, other=NEVER), lane)
    at = tl.load(farthest + first)
    tl.store(partner + first, at)
    free = real & (lane != first)
    for _ in range(n - 2):
        free = free & (lane != at)
        d = tl.load(distance + at.to(tl.int64) * n + lane, mask=real, other=0.0)
        after, _ = _first_of_most(tl.where(free, _ordered(d), NEVER), lane)
        tl.store(partner + at, after)
        at = after
    tl.store(partner + at, first)


def program_shape(n: int) -> dict[str, int]:
    """A warp for up to 256 samples, so that no step waits for others; beyond, 8 samples of a row a lane."""
    lanes = max(32, 1 << (n - 1).bit_length())
    return dict(N=lanes, V=math.gcd(n, 4), num_warps=min(max(lanes // 256, 1), 16))


def _targets(n: int) -> list[Target]:
    shape = program_shape(n)
    types = dict(distance="*fp32", far="*i32", n="i32")
    warps = shape.pop("num_warps")
    rows, way = types | dict(at="*i32"), types | dict(farthest="*i32", partner="*i32")
    return [
        Target(f"farthest {n} samples", farthest_kernel, way, shape, 64, 16, 4, num_warps=warps),
        Target(f"farthest {n} samples, rows", row_kernel, rows, shape, 64, 16, 4, num_warps=warps),
    ]


AOT = [*_targets(256), *_targets(1024)]
