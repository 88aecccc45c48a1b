"""Greedy pairing on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.farthest.reference import LEAST

FLOOR, BELOW = constant(LEAST), constant(float("-inf"))


@jit(numbers=("n",))
def farthest_kernel(distance, partner, n, N: tl.constexpr):
    """One program; N >= n lanes hold a row."""
    lane = tl.arange(0, N)
    real = lane < n
    far = tl.full([N], BELOW, tl.float32)  # the largest of each column, and the first row that has it
    row = tl.zeros([N], tl.int32)
    for i in range(n):
        d = tl.load(distance + i * n + lane, mask=real, other=FLOOR)
        d = tl.where(real & (lane != i), tl.where(d > FLOOR, d, FLOOR), BELOW)
        row = tl.where(d > far, i, row)
        far = tl.maximum(far, d)
    places = tl.where(real & (far == tl.max(far, 0)), row * n + lane, n * n)
    place = tl.min(places, 0)
    first, at = place // n, place % n
    tl.store(partner + first, at)
    free = real & (lane != first)
    for _ in range(n - 2):
        free = free & (lane != at)
        d = tl.load(distance + at * n + lane, mask=free, other=FLOOR)
        d = tl.where(free, tl.where(d > FLOOR, d, FLOOR), BELOW)
        farthest = tl.argmax(d, 0, tie_break_left=True)
        tl.store(partner + at, farthest)
        at = farthest
    tl.store(partner + at, first)


def program_shape(n: int) -> dict[str, int]:
    """A warp for up to 256 samples, so that no step waits for others; beyond, 8 samples of a row a lane."""
    lanes = max(32, 1 << (n - 1).bit_length())
    return dict(N=lanes, num_warps=min(max(lanes // 256, 1), 16))


def _target(n: int) -> Target:
    shape = program_shape(n)
    types = dict(distance="*fp32", partner="*i32", n="i32")
    warps = shape.pop("num_warps")
    return Target(f"farthest {n} samples", farthest_kernel, types, shape, 64, 4, 4, num_warps=warps)


AOT = [_target(256), _target(1024)]
