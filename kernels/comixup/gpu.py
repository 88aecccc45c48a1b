"""The joint solver of Co-Mixup on a GPU: the Triton kernel."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.comixup.problem import BASE, NEVER, SPARE

HALVES, MISSING, COARSE = map(constant, (BASE, NEVER, SPARE))


@jit
def _alike(code, near, ends_first, ends_second):
    """How much the labels are like a neighbour's: 4 the same, 3 a half and one of its two, 0 others."""
    first, second = near // HALVES, near % HALVES
    touch = (ends_first == first) | (ends_first == second) | (ends_second == first) | (ends_second == second)
    mixed = (ends_first == ends_second) != (first == second)
    return tl.where(code == near, 4, tl.where(touch & mixed, 3, 0))


@jit
def _beside(row, block, inside, code, ends_first, ends_second):
    """Likewise, to the label in memory of a block beside; 0 where it is not inside. block and code broadcast."""
    label = tl.load(row + block, mask=inside, other=0)
    return tl.where(inside, _alike(code, label, ends_first, ends_second), 0)


@jit
def _pick(values, k, index):
    """values[..., index] of [N,L], by a sum over what is not it. [N,1]"""
    return tl.sum(tl.where(k == index, values, 0), 1, keep_dims=True)


@jit
def _onwards(best, label, quarter, a, b, c, m):
    """The cheapest way to each label of a next block, of the ways to those of this one whose least is 0. [R,L]"""
    at_a, at_b, at_c = _pick(best, label, a), _pick(best, label, b), _pick(best, label, c)
    at_ab, at_ac, at_bc = _pick(best, label, m), _pick(best, label, m + 1), _pick(best, label, m + 2)
    touching = tl.where(label == a, tl.minimum(at_ab, at_ac), MISSING)
    touching = tl.where(label == b, tl.minimum(at_ab, at_bc), touching)
    touching = tl.where(label == c, tl.minimum(at_ac, at_bc), touching)
    touching = tl.where(label == m, tl.minimum(at_a, at_b), touching)
    touching = tl.where(label == m + 1, tl.minimum(at_a, at_c), touching)
    touching = tl.where(label == m + 2, tl.minimum(at_b, at_c), touching)
    return tl.minimum(tl.minimum(best - 4 * quarter, touching - 3 * quarter), 0)


@jit
def _lines(tries, starts, priced, paths, quarter, parity, n, count, length, across, step, code, ends_first, ends_second,
           a, b, c, m, R: tl.constexpr, L: tl.constexpr):  # fmt: skip
    """Gives every second of `count` lines of each start its best labels with the others fixed: a shortest path each,
    all side by side.

    Block x of line y is y across + x step; memory: tries [starts,n], the labels, priced [n,L] and paths [starts,n,L].
    """
    lane, label = tl.arange(0, 4 * R), tl.arange(0, L)[None, :]
    begin, line = lane // R, 2 * (lane % R) + parity
    there, at = (begin < starts) & (line < count), line * across
    inside, first = there[:, None], at[:, None]
    row, row_at = tries + (begin * n)[:, None], tries + begin * n
    above, below = inside & (line > 0)[:, None], inside & (line + 1 < count)[:, None]
    place = first * L + label
    path = paths + ((begin * n)[:, None] * L + place)
    best = tl.zeros([4 * R, L], tl.int32)
    for x in range(length):
        near = _beside(row, first + x * step - across, above, code, ends_first, ends_second)
        near += _beside(row, first + x * step + across, below, code, ends_first, ends_second)
        cost = tl.load(priced + (place + x * step * L), mask=inside, other=0) - quarter * near
        best = cost + _onwards(best - tl.min(best, 1, keep_dims=True), label, quarter, a, b, c, m)
        tl.store(path + x * step * L, best, mask=inside)
    tl.debug_barrier()
    behind = tl.zeros([4 * R], tl.int32)
    for y in range(length):
        x = length - 1 - y
        after = tl.where(y > 0, _alike(code, behind[:, None], ends_first, ends_second), 0)
        best = tl.load(path + x * step * L, mask=inside, other=0) - quarter * after
        behind = tl.sum(tl.where(label == tl.argmin(best, 1)[:, None], code, 0), 1)
        tl.store(row_at + (at + x * step), behind, mask=there)
    tl.debug_barrier()


@jit
def _used(row, t, n, k):
    """Half blocks of each input in an output. int32 [L]"""
    label = tl.load(row + t, mask=t < n, other=-1)[:, None]
    return tl.sum(tl.where(label < 0, 0, (label // HALVES == k) + (label % HALVES == k).to(tl.int32)), 0)


@jit(numbers=("limit", "quarter", "twin", "bonus", "iterations", "resolved", "starts", "phases", "m", "n", "columns"))
def comixup_kernel(
    costs, penalty, sizes, labels, scratch,
    limit, quarter, twin, bonus, iterations, resolved, starts, phases, m, n, columns,
    N: tl.constexpr, L: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """One program: a group. N >= n, L >= m + 3, R >= half of the rows and of the columns, powers of two.

    Outputs, too, are numbered along L. scratch: int32 [G,n,4L+4], the costs of an output's labels, and of each start
    its paths and its labels.
    """
    group = tl.program_id(0).to(tl.int64)
    size = tl.load(sizes + group)
    t, k = tl.arange(0, N), tl.arange(0, L)
    block, input = t[:, None], k[None, :]
    rows = n // columns
    table = labels + group * (m * n)
    priced_at = scratch + group * (n * (4 * L + 4))
    paths_at = priced_at + n * L
    tries = priced_at + 4 * n * L
    there = (block < n) & (input < size)
    pair = (k[:, None] < size) & (input < size)
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
            # Read for each output: kept, they would not fit the registers.
            plain = tl.load(costs + group * (m * n) + (input * n + block), mask=there, other=0)
            weights = tl.load(penalty + group * (m * m) + (k[:, None] * m + input), mask=pair, other=0)
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
            tl.store(priced_at + (block * L + input), priced, mask=block < n)
            tl.store(tries + t, before, mask=t < n)
            tl.store(tries + n + t, tl.sum(tl.where(input == cheapest[:, None], code, 0), 1), mask=t < n)
            tl.store(tries + 2 * n + t, tl.sum(tl.where(input == all_over, code, 0), 1), mask=t < n)
            tl.debug_barrier()
            for phase in range(phases):  # even rows, odd rows, even columns, odd columns, and again
                along = phase // 2 % 2 == 0
                count, length = tl.where(along, rows, columns), tl.where(along, columns, rows)
                across, step = tl.where(along, columns, 1), tl.where(along, 1, columns)
                _lines(tries, starts, priced_at, paths_at, quarter, phase % 2, n, count, length, across, step,
                       code, first, second, a, b, c, m, R, L)  # fmt: skip
            best, least = before, tl.full((), 1 << 62, tl.int64)
            for begin in range(starts):  # no constant: unrolled, it would not fit the registers
                found = tries + begin * n
                label = tl.load(found + t, mask=t < n, other=0)
                one, two = label // HALVES, label % HALVES
                near = _beside(found, t - columns, (t >= columns) & (t < n), label, one, two)
                near += _beside(found, t - 1, (t % columns > 0) & (t < n), label, one, two)
                cost = tl.sum(tl.where((code == label[:, None]) & (block < n), priced, 0), 1)
                energy = tl.sum((cost - quarter * near).to(tl.int64), 0)
                best = tl.where(energy < least, label, best)
                least = tl.minimum(energy, least)
            tl.debug_barrier()  # others may still read the row
            tl.store(row + t, best, mask=t < n)
            tl.debug_barrier()
            used = _used(row, t, n, input)
            total += used
            shows = tl.where(k == j, tl.sum(tl.where(used > 0, 1 << k, 0), 0), shows)

        sets = tl.where(iteration == resolved, shows, sets)


def blocks(m: int, n: int, columns: int) -> dict[str, int]:
    """The kernel's N, L and R, and how it is built: warps for a cost a thread, 8 or 16, with all their registers.

    With fewer warps it would not fit; without a bound compilers spill, so that more programs fit beside one another.
    """
    half = (max(columns, n // columns) + 1) // 2
    blocks = dict(N=1 << (n - 1).bit_length(), L=1 << (m + 2).bit_length(), R=1 << (half - 1).bit_length())
    return blocks | dict(num_warps=min(16, max(8, blocks["N"] * blocks["L"] // 32)), maxnreg=112)


def _target(name: str, m: int, n: int, columns: int) -> Target:
    types = dict.fromkeys(("costs", "penalty", "sizes", "labels", "scratch"), "*i32")
    numbers = ("limit", "quarter", "twin", "bonus", "iterations", "resolved", "starts", "phases", "m", "n", "columns")
    chosen = blocks(m, n, columns)
    built = {option: chosen.pop(option) for option in ("num_warps", "maxnreg")}
    return Target(name, comixup_kernel, types | dict.fromkeys(numbers, "i32"), chosen, 112, 4, 4, **built)


AOT = [
    _target("comixup 4x4, 16 inputs", 16, 16, 4),
    _target("comixup 8x8, 20 inputs", 20, 64, 8),
]
