"""Block transport on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl

NOBODY = constant(0x7FFFFFFFFFFFFFFF)


@jit(numbers=("ways", "rounds", "gh", "gw"))
def transport_kernel(
    saliency, wanted, offsets, lost, bids, source, scale, ways, rounds, gh, gw, N: tl.constexpr, WAYS: tl.constexpr
):
    """One program: one sample. N >= n lanes, one a source, which looks at WAYS targets at a time.

    Memory: lost int32 [B,rounds,n], the targets that each source lost, round by round; bids int64 [B,n], what the
    targets hold.
    """
    n = gh * gw
    sample = tl.program_id(0).to(tl.int64)
    held, losses = bids + sample * n, lost + sample * (rounds * n)
    i, each = tl.arange(0, N), tl.arange(0, WAYS)
    row, column = (i // gw)[None, :], (i % gw)[None, :]
    u = tl.load(saliency + sample * n + i, mask=i < n, other=0.0)
    k, losers = 0, 1
    while (k < rounds) & (losers > 0):
        best, target = tl.full([N], float("inf"), tl.float32), i
        way, open = 0, 1
        while (way < ways) & (open > 0):  # what lies beyond the last that a source must look at is no better: harmless
            to = offsets + 3 * tl.minimum(way + each, ways - 1)
            squared = tl.load(to).to(tl.float32) * scale
            y, x = row + tl.load(to + 1)[:, None], column + tl.load(to + 2)[:, None]
            j = y * gw + x
            inside = (i < n)[None, :] & (y >= 0) & (y < gh) & (x >= 0) & (x < gw)
            z = tl.load(wanted + sample * n + j, mask=inside, other=0) != 0
            again = tl.zeros([WAYS, N], tl.float32)
            for r in range(k):
                again += (tl.load(losses + r * n + i, mask=i < n, other=-1)[None, :] == j).to(tl.float32)
            cost = tl.where(inside, (squared[:, None] - tl.where(z, u[None, :], 0.0)) + again, float("inf"))
            least = tl.min(cost, 0)
            first = tl.min(tl.where(cost == least[None, :], j, n), 0)
            better = (least < best) | ((least == best) & (first < target))
            best, target = tl.where(better, least, best), tl.where(better, first, target)
            open = tl.max(((i < n) & (tl.max(squared, 0) - u <= best)).to(tl.int32), 0)
            way += WAYS
        # Each target keeps its least bid: the bits of a cost, as an integer of the same order, then the suitor.
        bits = best.to(tl.int32, bitcast=True)
        bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        bid = (bits.to(tl.int64) << 16) | i
        tl.store(held + i, NOBODY, mask=i < n)
        tl.debug_barrier()
        tl.atomic_min(held + target, bid, mask=i < n, sem="relaxed")
        tl.debug_barrier()
        lowest = tl.load(held + target, mask=i < n, other=NOBODY, cache_modifier=".cg")
        loses = (i < n) & (bid > lowest)
        tl.store(losses + k * n + i, tl.where(loses, target, -1), mask=i < n)
        tl.debug_barrier()
        losers = tl.max(loses.to(tl.int32), 0)
        k += 1
    kept = tl.load(held + i, mask=i < n, other=NOBODY, cache_modifier=".cg")
    tl.store(source + sample * n + i, tl.where(kept < NOBODY, (kept & 0xFFFF).to(tl.int32), i), mask=i < n)


def lanes(grid: tuple[int, int]) -> dict[str, int]:
    n = 1 << (grid[0] * grid[1] - 1).bit_length()
    return dict(N=n, WAYS=8)


def warps(grid: tuple[int, int]) -> int:
    return max(1, lanes(grid)["N"] // 32)  # a power of two, as Triton wants


def _target(grid: tuple[int, int], registers: int) -> Target:
    types = dict(saliency="*fp32", wanted="*i1", offsets="*i32", lost="*i32", bids="*i64", source="*i32", scale="fp32")
    types |= dict.fromkeys(("ways", "rounds", "gh", "gw"), "i32")
    name = f"transport {grid[0]}x{grid[1]}"
    return Target(name, transport_kernel, types, lanes(grid), registers, 1, 4, fused=False, num_warps=warps(grid))


AOT = [_target((4, 4), 80), _target((16, 16), 128)]
