"""Greedy pairing of unlike samples (GuidedMixup): one cycle through the batch that goes to the farthest each time.

    (i, j) = argmax d(i, j), i != j;   partner(i) = j;   from j on: partner(j) = argmax_{k not yet visited} d(j, k)

until all are visited; the last one's partner is i, so the cycle is closed and nobody is alone. Of equal distances the
first counts, row by row. Only comparisons: the reference, the Triton kernel and the numba twin agree bit for bit.

Bytes to move: the matrix twice, 4 N^2 each, at N = 256 from the second-level cache. It is one program of N steps that
wait for each other, a row and a maximum each: some 0.1 ms, in which the rest of the device is free.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl

DTYPES = (torch.float32,)
LEAST = -1e38  # counts for everything below, and for NaN, so that there is always a farthest one

# ---- reference ----


def reference(distance: Tensor) -> Tensor:
    """`farthest` in plain torch."""
    n = len(distance)
    d = torch.where(distance > LEAST, distance, LEAST)
    d.fill_diagonal_(-torch.inf)
    partner = torch.empty(n, dtype=torch.int32, device=distance.device)
    first, at = divmod(int(d.argmax()), n)
    partner[first] = at
    d[:, first] = -torch.inf
    for _ in range(n - 2):
        d[:, at] = -torch.inf
        partner[at] = d[at].argmax()
        at = int(partner[at])
    partner[at] = first
    return partner


# ---- Triton ----

FLOOR, BELOW = constant(LEAST), constant(float("-inf"))


@jit
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


# ---- launcher ----


def farthest(distance: Tensor) -> Tensor:
    """The partner of each sample, int32 [B], from distances float32 [B,B]: one cycle through all of them.

    The diagonal does not count, a NaN is the least distance, and one sample alone is its own partner. Without a wait
    for the device. Raises ValueError for distances of another type or shape.
    """
    n = len(distance)
    if distance.dtype != torch.float32 or distance.shape != (n, n) or not n:
        raise ValueError(f"farthest: distance must be float32 [B,B], not {distance.dtype} {list(distance.shape)}")
    distance = distance.contiguous()
    partner = torch.empty(n, dtype=torch.int32, device=distance.device)
    if distance.is_cuda or INTERPRETED:
        with torch.cuda.device_of(distance):
            farthest_kernel[(1,)](distance, partner, n, **_shape(n))
    else:
        from fastmix.kernels.farthest_cpu import farthest_cpu

        farthest_cpu(distance, LEAST, partner)
    return partner


def _shape(n: int) -> dict[str, int]:
    """A warp for up to 256 samples, so that no step waits for others; beyond, 8 samples of a row a lane."""
    lanes = max(32, 1 << (n - 1).bit_length())
    return dict(N=lanes, num_warps=min(max(lanes // 256, 1), 16))


# ---- cases and ahead-of-time targets ----


@dataclass(frozen=True)
class Case:
    """Distances of random points, or whole numbers with many equals, or NaN here and there."""

    n: int
    kind: str = "points"

    def __str__(self) -> str:
        return f"{self.n} {self.kind}"

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        """The keyword arguments of one call of `farthest` or of its reference."""
        rng = np.random.default_rng(seed)
        points = rng.standard_normal((self.n, 3))
        distance = np.sqrt(((points[:, None] - points) ** 2).sum(2))
        if self.kind == "equals":
            distance = np.minimum(distance.round(), 2)
        if self.kind == "nan":
            distance[rng.random(distance.shape) < 0.5] = np.nan
        return dict(distance=torch.from_numpy(distance.astype(np.float32)))


CASES = [Case(1), Case(2), Case(3), Case(33), Case(17, "equals"), Case(9, "nan")]


def _target(n: int) -> Target:
    shape = _shape(n)
    types = dict(distance="*fp32", partner="*i32", n="i32")
    warps = shape.pop("num_warps")
    return Target(f"farthest {n} samples", farthest_kernel, types, shape, 64, 4, 4, num_warps=warps)


AOT = [_target(256), _target(1024)]
