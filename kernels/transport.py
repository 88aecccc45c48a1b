"""Where the blocks of an image go under a mask (PuzzleMix): a batched block assignment, one program a sample.

    c_ij = eps |pos_i - pos_j|^2 / (s - 1)^2 - u_i z_j,      s = the longer side of the grid of blocks

is the cost of moving source block i, with saliency u_i, to the place of block j, where the image is wanted (z_j = 1)
or not (0). Kim, Choo, Song 2020, "Puzzle Mix", arXiv:2009.06962, algorithm 1: s rounds, in each of which every source
picks its cheapest target (the first of equals), every target keeps its cheapest suitor (the first of equals), and the
others add 1 to the cost of what they lost. The plan is what the last round's winners hold; a target that nobody holds
keeps its own block.

Costs are computed on the fly: those of one source grow with distance, up to what it lost before, so it looks at targets
from near to far and stops when no further one can be cheaper, mostly after a few. A round without a loser is the last.
In fp32, in one order of operations, so that all implementations give the same plan.

Bytes: 5 read and 4 written for each block. Flops: about 10 for each target that is looked at; in the worst case
(eps = 0) these are all n^2 = 65,536 of 16 x 16 blocks in each of 16 rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, jit, tl
from fastmix.kernels.send import send

DTYPES = (torch.float32,)
MOST = 16  # blocks along a side

# ---- reference ----


def reference(saliency: Tensor, wanted: Tensor, grid: tuple[int, int], eps: float) -> Tensor:
    """`transport` in plain torch, with all costs [B,n,n] at once."""
    device, n = saliency.device, grid[0] * grid[1]
    y, x = torch.arange(n, device=device) // grid[1], torch.arange(n, device=device) % grid[1]
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    gain = torch.where(wanted[:, None], saliency[:, :, None], 0)
    cost = squared.float() * _scale(grid, eps) - gain
    lost = torch.zeros_like(cost)
    for _ in range(max(grid)):
        now = cost + lost
        suits = torch.zeros_like(lost).scatter_(2, now.argmin(2, keepdim=True), 1)
        bids = torch.where(suits > 0, now, torch.inf)
        wins = torch.zeros_like(lost).scatter_(1, bids.argmin(1, keepdim=True), 1) * suits
        lost += suits - wins
    return torch.where(wins.any(1), wins.argmax(1), torch.arange(n, device=device)).int()


def _scale(grid: tuple[int, int], eps: float) -> float:
    """The cost of a squared distance of one block, rounded to fp32."""
    return float(np.float32(eps / max(max(grid) - 1, 1) ** 2))


@lru_cache(maxsize=64)
def offsets(grid: tuple[int, int]) -> np.ndarray:
    """Every way from one block to another, (squared distance, rows, columns), from near to far. int32 [K,3]

    Of equally far targets the first in row-major order comes first.
    """
    rows, columns = np.mgrid[1 - grid[0] : grid[0], 1 - grid[1] : grid[1]].reshape(2, -1)
    ways = np.stack([rows**2 + columns**2, rows, columns], 1).astype(np.int32)
    return ways[np.lexsort(ways.T[::-1])]


@lru_cache(maxsize=64)
def _offsets_on(grid: tuple[int, int], device: torch.device) -> Tensor:
    return send(offsets(grid), device)


# ---- Triton ----


@jit
def transport_kernel(
    saliency, wanted, offsets, source, scale, ways, rounds, gh, gw, N: tl.constexpr, R: tl.constexpr, J: tl.constexpr
):
    """One program: one sample. N >= n lanes, one a source; R >= rounds; targets are given away J at a time."""
    n = gh * gw
    sample = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, N)
    row, column = i // gw, i % gw
    u = tl.load(saliency + sample * n + i, mask=i < n, other=0.0)
    place = tl.arange(0, R)
    lost = tl.full([N, R], -1, tl.int32)  # the targets that each source lost, round by round
    k, losers = 0, 1
    while (k < rounds) & (losers > 0):
        best, target = tl.full([N], float("inf"), tl.float32), i
        way, open = 0, 1
        while (way < ways) & (open > 0):
            squared = tl.load(offsets + 3 * way).to(tl.float32) * scale
            y, x = row + tl.load(offsets + 3 * way + 1), column + tl.load(offsets + 3 * way + 2)
            j = y * gw + x
            inside = (i < n) & (y >= 0) & (y < gh) & (x >= 0) & (x < gw)
            z = tl.load(wanted + sample * n + j, mask=inside, other=0) != 0
            again = tl.sum((lost == j[:, None]).to(tl.int32), 1).to(tl.float32)
            cost = (squared - tl.where(z, u, 0.0)) + again
            better = inside & ((cost < best) | ((cost == best) & (j < target)))
            best, target = tl.where(better, cost, best), tl.where(better, j, target)
            open = tl.max(((i < n) & (squared - u <= best)).to(tl.int32), 0)
            way += 1
        # The bits of a cost, as an integer of the same order, then the suitor: the least is the target's choice.
        bits = best.to(tl.int32, bitcast=True)
        bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        bid = (bits.to(tl.int64) << 16) | i
        loses = tl.zeros([N], tl.int32)
        for first in range(0, n, J):
            j = first + tl.arange(0, J)
            suits = (target[:, None] == j[None, :]) & (i < n)[:, None]
            least = tl.min(tl.where(suits, bid[:, None], 0x7FFFFFFFFFFFFFFF), 0)
            loses += tl.sum((suits & (bid[:, None] > least[None, :])).to(tl.int32), 1)
            winner = tl.where(least < 0x7FFFFFFFFFFFFFFF, (least & 0xFFFF).to(tl.int32), j)
            tl.store(source + sample * n + j, winner, mask=j < n)
        lost = tl.where((place[None, :] == k) & (loses > 0)[:, None], target[:, None], lost)
        losers = tl.max(loses, 0)
        k += 1


# ---- launcher ----


def transport(saliency: Tensor, wanted: Tensor, grid: tuple[int, int], eps: float) -> Tensor:
    """The source block of every block of B images: int32 [B,n], n = gh * gw; its own index where nothing comes.

    saliency float32 [B,n] of the image's blocks, finite and not below 0; wanted bool [B,n]: where the image shows; grid
    (gh, gw), up to 16 blocks a side. No source goes to two places. Without a wait for the device. Raises ValueError for
    arguments that do not fit each other.
    """
    _check(saliency, wanted, grid, eps)
    saliency, wanted = saliency.contiguous(), wanted.contiguous()
    source = torch.empty(saliency.shape, dtype=torch.int32, device=saliency.device)
    if saliency.is_cuda or INTERPRETED:
        ways = _offsets_on(tuple(grid), saliency.device)
        with torch.cuda.device_of(saliency):
            transport_kernel[(len(saliency),)](
                saliency,
                wanted,
                ways,
                source,
                _scale(grid, eps),
                len(ways),
                max(grid),
                *grid,
                **_lanes(grid),
                num_warps=_warps(grid),
                enable_fp_fusion=False,
            )
    else:
        from fastmix.kernels.transport_cpu import transport_cpu

        transport_cpu(saliency, wanted, offsets(tuple(grid)), _scale(grid, eps), tuple(grid), source)
    return source


def _lanes(grid: tuple[int, int]) -> dict[str, int]:
    n = 1 << (grid[0] * grid[1] - 1).bit_length()
    return dict(N=n, R=1 << (max(grid) - 1).bit_length(), J=min(n, 8))


def _warps(grid: tuple[int, int]) -> int:
    return max(1, min(8, grid[0] * grid[1] // 32))


def _check(saliency, wanted, grid, eps) -> None:
    if len(grid) != 2 or not all(1 <= side <= MOST for side in grid):
        raise ValueError(f"transport: the grid of blocks is {tuple(grid)}; each side must be 1 to {MOST}")
    n = grid[0] * grid[1]
    if saliency.dtype != torch.float32 or saliency.ndim != 2 or saliency.shape[1] != n:
        raise ValueError(f"transport: saliency must be float32 [B,{n}], not {saliency.dtype} {list(saliency.shape)}")
    if wanted.dtype != torch.bool or wanted.shape != saliency.shape or wanted.device != saliency.device:
        where = f"bool {list(saliency.shape)} on {saliency.device}"
        raise ValueError(f"transport: wanted must be {where}, not {wanted.dtype} {list(wanted.shape)}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"transport: eps is {eps}; it must be a number of at least 0")


# ---- cases ----


@dataclass(frozen=True)
class Case:
    """Random arguments; levels: how many different saliencies there are (0: no two alike)."""

    samples: int
    grid: tuple[int, int]
    eps: float = 0.8
    levels: int = 0

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        rng = np.random.default_rng(seed)
        n = self.grid[0] * self.grid[1]
        values = rng.random((self.samples, n)) ** 3
        if self.levels:
            values = np.floor(values * self.levels) + 1
        values /= values.sum(1, keepdims=True)
        wanted = rng.random((self.samples, n)) < rng.random((self.samples, 1))
        saliency = torch.from_numpy(values).to(dtype)
        return dict(saliency=saliency, wanted=torch.from_numpy(wanted), grid=self.grid, eps=self.eps)


CASES = [Case(6, (2, 2)), Case(3, (4, 4)), Case(2, (3, 5), levels=2), Case(2, (4, 3), eps=0.02), Case(1, (1, 1))]

# ---- ahead-of-time targets ----


def _target(grid: tuple[int, int], registers: int) -> Target:
    types = dict(saliency="*fp32", wanted="*i1", offsets="*i32", source="*i32", scale="fp32")
    types |= dict.fromkeys(("ways", "rounds", "gh", "gw"), "i32")
    name = f"transport {grid[0]}x{grid[1]}"
    return Target(name, transport_kernel, types, _lanes(grid), registers, 1, 4, fused=False, num_warps=_warps(grid))


AOT = [_target((4, 4), 64), _target((16, 16), 128)]
