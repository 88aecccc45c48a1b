"""The joint solver of Co-Mixup on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.comixup.problem import BASE, NEVER, SPARE, SWEEPS

HALVES, TIMES, MISSING, COARSE = map(constant, (BASE, SWEEPS, NEVER, SPARE))


@jit
def _alike(code, near, ends_first, ends_second):
    """How much the labels are like a neighbour's, [N,L]: 4 the same, 3 a half and one of its two, 0 others."""
    first, second = near // HALVES, near % HALVES
    touch = (ends_first == first) | (ends_first == second) | (ends_second == first) | (ends_second == second)
    mixed = (ends_first == ends_second) != (first == second)
    return tl.where(code == near, 4, tl.where(touch & mixed, 3, 0))


@jit
def _energies(costs, row, t, n, columns, quarter, active, code, ends_first, ends_second):
    """The energy of each label in each block that is active, given the neighbours' in memory. int32 [N,L]"""
    near = tl.zeros_like(costs)
    for side in tl.static_range(4):
        if side < 2:
            step = columns * (2 * side - 1)
            inside = (t + step >= 0) & (t + step < n)
        else:
            step = 2 * side - 5
            inside = (t % columns + step >= 0) & (t % columns + step < columns)
        inside &= active
        label = tl.load(row + (t + step), mask=inside, other=0)
        near += tl.where(inside[:, None], _alike(code, label[:, None], ends_first, ends_second), 0)
    return costs - quarter * near


@jit
def _used(row, t, n, k):
    """Half blocks of each input in an output. int32 [L]"""
    label = tl.load(row + t, mask=t < n, other=-1)[:, None]
    return tl.sum(tl.where(label < 0, 0, (label // HALVES == k) + (label % HALVES == k).to(tl.int32)), 0)


@jit
def _pick(values, k, index):
    """values[..., index] of [N,L], by a sum over what is not it. [N,1]"""
    return tl.sum(tl.where(k == index, values, 0), 1, keep_dims=True)


@jit(numbers=("limit", "quarter", "twin", "bonus", "iterations", "resolved", "starts", "m", "n", "columns"))
def comixup_kernel(
    costs, penalty, sizes, labels, limit, quarter, twin, bonus, iterations, resolved, starts, m, n, columns,
    N: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """One program: a group. N >= n, L >= m + 3, powers of two; outputs, too, are numbered along L."""
    group = tl.program_id(0).to(tl.int64)
    size = tl.load(sizes + group)
    t, k = tl.arange(0, N), tl.arange(0, L)
    block, input = t[:, None], k[None, :]
    black = (t // columns + t % columns) % 2
    table = labels + group * (m * n)
    there = (block < n) & (input < size)
    plain = tl.load(costs + group * (m * n) + (input * n + block), mask=there, other=0)
    pair = (k[:, None] < size) & (input < size)
    weights = tl.load(penalty + group * (m * m) + (k[:, None] * m + input), mask=pair, other=0)
    total = tl.zeros([L], tl.int32)
    for j in range(size):
        total += _used(table + j * n, t, n, input)
    shows = tl.zeros([L], tl.int32)  # the set of inputs that each output shows, as bits
    sets = shows  # likewise, when twins were looked for

    for iteration in range(iterations):
        for j in range(size):
            row = table + j * n
            used = _used(row, t, n, input)
            total -= used
            paid = tl.sum(weights * total[None, :], 1)
            own = tl.sum(tl.where(k == j, sets, 0), 0)
            others = own & (own - 1)  # without its first
            twins = (sets == own) & (others > 0)
            avoid = tl.where(tl.max((twins & (k > j)).to(tl.int32), 0) > 0, own & -own, 0)
            avoid |= tl.where(tl.max((twins & (k < j)).to(tl.int32), 0) > 0, others & -others, 0)
            extra = tl.where(paid > limit, paid, 0) + twin * (avoid >> k & 1)
            priced = tl.where(there, plain + extra[None, :], MISSING)

            # The halves of the three inputs that it shows most, a < b < c.
            rank = tl.where(k < size, used * HALVES + (HALVES - 1 - k), -1)
            p = tl.argmax(rank, 0)
            q = tl.argmax(tl.where(k == p, -2, rank), 0)
            r = tl.argmax(tl.where((k == p) | (k == q), -2, rank), 0)
            a, c = tl.minimum(tl.minimum(p, q), r), tl.maximum(tl.maximum(p, q), r)
            b = p + q + r - a - c
            first, second = tl.where(input == m + 2, b, a), tl.where(input == m, b, c)
            half = input >= m
            first, second = tl.where(half, first, input), tl.where(half, second, input)
            code = tl.where(input < m + 3, first * HALVES + second, -1)
            has_a = tl.sum(tl.where(k == a, used, 0), 0) > 0
            has_b = tl.sum(tl.where(k == b, used, 0), 0) > 0
            has_c = tl.sum(tl.where(k == c, used, 0), 0) > 0
            at_a, at_b, at_c = _pick(priced, input, a), _pick(priced, input, b), _pick(priced, input, c)
            mean = tl.where(input == m + 2, at_b, at_a) + tl.where(input == m, at_b, at_c)
            allowed = ((input == m) & has_a & has_b) | ((input == m + 1) & has_a & has_c)
            allowed = (allowed | ((input == m + 2) & has_b & has_c)) & (iteration > 0) & (block < n)
            priced = tl.where(allowed, (mean - bonus) >> 1, priced)

            before = tl.load(row + t, mask=t < n, other=0)
            known = tl.max(((code == before[:, None]) & (priced < MISSING)).to(tl.int32), 1) > 0
            before = tl.where(known, before, before // HALVES * (HALVES + 1))
            cheapest = tl.argmin(priced, 1)
            all_over = tl.argmin(tl.sum(tl.where(block < n, priced >> COARSE, 0), 0), 0)
            best, least = before, tl.full((), 1 << 62, tl.int64)
            for begin in range(starts):  # no constant: unrolled, it would not fit the registers
                chosen = tl.where(begin == 1, cheapest, all_over)
                label = tl.sum(tl.where(input == chosen[:, None], code, 0), 1)
                label = tl.where(begin == 0, before, label)
                tl.debug_barrier()  # others may still read the row
                tl.store(row + t, label, mask=t < n)
                tl.debug_barrier()
                step, settled = 0, 0  # colours, and how many in a row did not change
                while settled < 2 and step < 2 * TIMES:
                    active = (black == step % 2) & (t < n)
                    energy = _energies(priced, row, t, n, columns, quarter, active, code, first, second)
                    better = tl.sum(tl.where(input == tl.argmin(energy, 1)[:, None], code, 0), 1)
                    changed = tl.max((active & (better != label)).to(tl.int32), 0)
                    label = tl.where(active, better, label)
                    tl.store(row + t, label, mask=active)
                    tl.debug_barrier()
                    step, settled = step + 1, (settled + 1) * (1 - changed)
                energy = _energies(priced, row, t, n, columns, quarter, t < n, code, first, second)
                taken = (code == label[:, None]) & (block < n)
                one = tl.sum(tl.where(taken, energy, 0), 1)
                twice = tl.sum(one.to(tl.int64) + tl.sum(tl.where(taken, priced, 0), 1), 0)
                best = tl.where(twice < least, label, best)
                least = tl.minimum(twice, least)
            tl.debug_barrier()
            tl.store(row + t, best, mask=t < n)
            tl.debug_barrier()
            used = _used(row, t, n, input)
            total += used
            shows = tl.where(k == j, tl.sum(tl.where(used > 0, 1 << k, 0), 0), shows)

        sets = tl.where(iteration == resolved, shows, sets)


def blocks(m: int, n: int) -> dict[str, int]:
    """The kernel's N and L, and warps for 2 costs a thread, up to 16: 4 of few blocks would not fit everywhere."""
    blocks = dict(N=1 << (n - 1).bit_length(), L=1 << (m + 2).bit_length())
    return blocks | dict(num_warps=min(16, max(1, blocks["N"] * blocks["L"] // 64)))


def _target(name: str, m: int, n: int) -> Target:
    types = dict.fromkeys(("costs", "penalty", "sizes", "labels"), "*i32")
    numbers = ("limit", "quarter", "twin", "bonus", "iterations", "resolved", "starts", "m", "n", "columns")
    chosen = blocks(m, n)
    warps = chosen.pop("num_warps")
    return Target(name, comixup_kernel, types | dict.fromkeys(numbers, "i32"), chosen, 168, 4, 4, num_warps=warps)


AOT = [
    _target("comixup 4x4, 16 inputs", 16, 16),
    _target("comixup 8x8, 20 inputs", 20, 64),
]
