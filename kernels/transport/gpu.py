"""Block transport on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, jit, tl


@jit(numbers=("ways", "rounds", "gh", "gw"))
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


def lanes(grid: tuple[int, int]) -> dict[str, int]:
    n = 1 << (grid[0] * grid[1] - 1).bit_length()
    return dict(N=n, R=1 << (max(grid) - 1).bit_length(), J=min(n, 4))


def warps(grid: tuple[int, int]) -> int:
    return max(1, lanes(grid)["N"] // 32)  # a power of two, as Triton wants


def _target(grid: tuple[int, int], registers: int) -> Target:
    types = dict(saliency="*fp32", wanted="*i1", offsets="*i32", source="*i32", scale="fp32")
    types |= dict.fromkeys(("ways", "rounds", "gh", "gw"), "i32")
    name = f"transport {grid[0]}x{grid[1]}"
    return Target(name, transport_kernel, types, lanes(grid), registers, 1, 4, fused=False, num_warps=warps(grid))


AOT = [_target((4, 4), 64), _target((16, 16), 128)]
