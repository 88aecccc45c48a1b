"""The joint solver of Co-Mixup: which inputs the blocks of each output show, groups side by side.

A group has m inputs and as many outputs of n blocks; z_j,t is one input's unit vector, or half of two. It minimises

    sum_j,t <c_t, z_j,t> + beta/n sum_j #{label changes along the grid} + gamma/n sum_j!=j' <o_j, A o_j'>,
    o_j = sum_t z_j,t    (Kim et al., "Co-Mixup", ICLR 2021, eq. 4, 5 and appendix; arXiv:2102.03065)

output after output (Gauss-Seidel), `iterations` times over all. With the others fixed, showing input k in a block costs
c_k,t + 2 gamma/n (A q)_k, q_k the blocks of k in the other outputs, and nothing of the second where (A q)_k <= tau n.
From the second time on an output may also show halves of the three inputs that it shows most (pairs of them, ties to
the lower index), at the mean of both costs - 5e-4; next to a block of one of its two inputs a half counts 1/4 of a
label change. Before the last time, of two outputs that show one set of several inputs, the earlier pays gamma/n for
the first of the set, the later for the second (`resolve`).

An output's grid is settled by iterated conditional modes: blocks of one colour of the checkerboard take their best
label given the other colour's, at most SWEEPS times or until none changes, from three starts: as it is, each block's
cheapest label, and the one that is cheapest all over; the lowest energy wins, the first of equals. So no step raises
an output's energy. Alpha-beta swap by graph cuts, which the authors use, is not better on average.

Costs are rounded once, to 2**-SCALE (`fixed_point`); all that follows is in whole numbers, so the reference, the Triton
kernel and the numba twin find the same labels on every device.

One program solves a group: costs, penalties and counts in registers; the result is its only memory, from which a
block's neighbours are read (cached). Bytes: 4 m n + 4 m m read and 4 m n written, a few kB. It is bound by latency:
3 starts x about 3 sweeps x 2 colours x m x iterations dependent steps, all groups at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl
from fastmix.kernels.comixup_cases import CASES  # noqa: F401
from fastmix.kernels.comixup_problem import BASE, CELLS, MOST, NEVER, SPARE, SWEEPS, fixed_point

DTYPES = (torch.float32,)
# ---- reference ----


def reference(
    cost: Tensor,
    compatibility: Tensor,
    start: Tensor,
    sizes: Tensor,
    grid: tuple[int, int],
    beta: float = 0.32,
    gamma: float = 1.0,
    tau: float = 0.83,
    iterations: int = 4,
    resolve: bool = True,
    largest: float = 2.0,
) -> Tensor:
    """`comixup` in plain torch: one output of all groups at a time."""
    problem = fixed_point(cost, compatibility, beta, gamma, tau, largest)
    groups, m, n = cost.shape
    member = torch.arange(m, device=cost.device)
    there = member < sizes[:, None]  # [G,m]
    costs = problem.costs.mT  # [G,n,m]
    shown = torch.where(there[:, :, None], start.clamp(0, m - 1), 0)[..., None].repeat(1, 1, 1, 2).long()
    apart = torch.zeros(groups, m, m, dtype=torch.int32, device=cost.device)
    for iteration in range(iterations):
        for j in range(m):
            used = F.one_hot(shown, m).sum((2, 3)) * there[:, :, None]  # [G,m,m] in halves
            paid = (problem.penalty * (used.sum(1) - used[:, j])[:, None]).sum(2)
            extra = torch.where(paid > problem.limit, paid, 0) + problem.twin * apart[:, j]
            priced = torch.where(there[:, None], costs + extra[:, None].int(), NEVER)
            settled = _settle(priced, used[:, j], shown[:, j], iteration > 0, grid, problem)
            shown[:, j] = torch.where(there[:, j, None, None], settled, shown[:, j])
        if resolve and iteration == iterations - 2:
            apart = _twins(F.one_hot(shown, m).sum((2, 3)) > 0, there)
    return shown.int()


def _settle(costs, used, shown, halves, grid, problem) -> Tensor:
    """The labels [G,n,2] of one output: costs [G,n,m], used [G,m] in halves, shown [G,n,2]."""
    groups, n, m = costs.shape
    member = torch.arange(m, device=costs.device)
    three = (used * BASE - member).topk(min(3, m)).indices.sort().values
    pairs = torch.combinations(torch.arange(three.shape[1], device=costs.device))
    first, second = three[:, pairs].unbind(2)  # [G,P]
    allowed = (used.gather(1, first) > 0) & (used.gather(1, second) > 0) & halves
    mean = (_at(costs, first) + _at(costs, second) - problem.bonus) >> 1
    costs = torch.cat([costs, torch.where(allowed[:, None], mean, NEVER)], 2)
    ends = torch.cat([member.expand(2, groups, m), torch.stack([first, second])], 2)  # of each label [2,G,L]

    one, other = ends[..., None], ends[:, :, None]  # [2,G,L,1], [2,G,1,L]
    touch = (one[0] == other[0]) | (one[0] == other[1]) | (one[1] == other[0]) | (one[1] == other[1])
    whole = ends[0] == ends[1]
    same = torch.eye(costs.shape[2], dtype=torch.bool, device=costs.device)
    alike = torch.where(same, 4, torch.where(touch & (whole[:, :, None] != whole[:, None]), 3, 0))

    def energies(labels: Tensor) -> Tensor:
        near = F.pad(_rows(alike, labels).view(groups, *grid, -1), (0, 0, 1, 1, 1, 1))
        near = near[:, :-2, 1:-1] + near[:, 2:, 1:-1] + near[:, 1:-1, :-2] + near[:, 1:-1, 2:]
        return costs - problem.quarter * near.flatten(1, 2)

    black = (torch.arange(grid[0])[:, None] + torch.arange(grid[1])).flatten().to(costs.device) % 2 == 0
    here = (shown[..., :1] == ends[0][:, None]) & (shown[..., 1:] == ends[1][:, None])
    here &= costs < NEVER
    begin = torch.where(here.any(2), here.int().argmax(2), shown[..., 0])
    all_over = (costs >> SPARE).sum(1).argmin(1)[:, None].expand(groups, n)
    least = best = None
    for labels in (begin, costs.argmin(2), all_over):
        for _ in range(SWEEPS):
            for colour in (black, ~black):
                labels = torch.where(colour, energies(labels).argmin(2), labels)
        twice = (costs.long() + energies(labels)).gather(2, labels[..., None]).sum((1, 2))
        lower = twice < least if least is not None else torch.ones_like(twice, dtype=torch.bool)
        least = torch.where(lower, twice, least) if least is not None else twice
        best = torch.where(lower[:, None], labels, best) if best is not None else labels
    return torch.stack([ends[0].gather(1, best), ends[1].gather(1, best)], 2)


def _at(costs, index) -> Tensor:
    """costs[g,:,index[g,p]]"""
    return costs.gather(2, index[:, None].expand(-1, costs.shape[1], -1))


def _rows(table, index) -> Tensor:
    """table[g,index[g,t],:]"""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))


def _twins(shows: Tensor, there: Tensor) -> Tensor:
    """int32 [G,m,m]: for output j the input that it is to avoid, from shows bool [G,m,m]."""
    m = shows.shape[1]
    equal = (shows[:, :, None] == shows[:, None]).all(3) & there[:, :, None] & there[:, None]
    later = torch.ones(m, m, dtype=torch.bool, device=shows.device).triu(1)
    rank = shows.cumsum(2) * shows
    several = shows.sum(2, keepdim=True) > 1
    first = (rank == 1) & (equal & later).any(2)[..., None]
    second = (rank == 2) & (equal & later.T).any(2)[..., None]
    return ((first | second) & several).int()


# ---- Triton ----

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


@jit
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


# ---- launcher ----


def comixup(
    cost: Tensor,
    compatibility: Tensor,
    start: Tensor,
    sizes: Tensor,
    grid: tuple[int, int],
    beta: float = 0.32,
    gamma: float = 1.0,
    tau: float = 0.83,
    iterations: int = 4,
    resolve: bool = True,
    largest: float = 2.0,
) -> Tensor:
    """The two inputs that each block of each output shows half of; the same twice: it shows that one. int32 [G,m,n,2]

    cost           float32 [G,m,n]  of showing input k of the group in block t; the lower the better
    compatibility  float32 [G,m,m]  A, in [0,1]: 1 on the diagonal, off it what pairs of inputs in two outputs cost
    start          integers [G,m,n] the input that block t of output j shows at first
    sizes          int32 [G]        a group has the inputs 0..size-1; what lies behind is not read, and its outputs
                                    show input 0
    grid           (rows, columns) of the n blocks
    largest        what no cost exceeds, above or below 0; those that do are cut
    Without a wait for the device. Raises ValueError for arguments that do not fit each other.
    """
    _check(cost, compatibility, start, sizes, grid, (beta, gamma, tau, largest), iterations)
    problem = fixed_point(cost, compatibility, beta, gamma, tau, largest)
    inside = torch.arange(cost.shape[1], device=cost.device)[:, None] < sizes[:, None, None]
    labels = torch.where(inside, start.clamp(0, cost.shape[1] - 1), 0).int() * (BASE + 1)
    if cost.is_cuda or INTERPRETED:
        _launch(problem, sizes, labels, grid, iterations, resolve)
    else:
        from fastmix.kernels.comixup_cpu import comixup_cpu

        comixup_cpu(problem, sizes, labels, grid, iterations, resolve)
    return torch.stack([labels // BASE, labels % BASE], 3)


def _launch(problem, sizes, labels, grid, iterations, resolve) -> None:
    groups, m, n = labels.shape
    with torch.cuda.device_of(labels):
        comixup_kernel[(groups,)](
            problem.costs.contiguous(),
            problem.penalty.contiguous(),
            sizes.int().contiguous(),
            labels,
            problem.limit,
            problem.quarter,
            problem.twin,
            problem.bonus,
            iterations,
            iterations - 2 if resolve else -1,
            3,
            m,
            n,
            grid[1],
            **_blocks(m, n),
        )


def _blocks(m: int, n: int) -> dict[str, int]:
    """The kernel's N and L, and warps enough for 4 costs a thread."""
    blocks = dict(N=1 << (n - 1).bit_length(), L=1 << (m + 2).bit_length())
    return blocks | dict(num_warps=min(16, max(1, blocks["N"] * blocks["L"] // 128)))


def _check(cost, compatibility, start, sizes, grid, numbers, iterations) -> None:
    groups, m, n = cost.shape if cost.ndim == 3 else (0, 0, 0)
    if not (groups and 0 < m <= MOST and 0 < n <= CELLS) or cost.dtype != torch.float32:
        wanted = f"float32 [G,m,n], m at most {MOST}, n at most {CELLS}"
        raise ValueError(f"comixup: cost must be {wanted}, not {cost.dtype} {list(cost.shape)}")
    if grid[0] * grid[1] != n:
        raise ValueError(f"comixup: the grid {grid[0]} x {grid[1]} has not the {n} blocks of cost")
    wanted = {"compatibility": (groups, m, m), "start": (groups, m, n), "sizes": (groups,)}
    for (name, shape), tensor in zip(wanted.items(), (compatibility, start, sizes), strict=True):
        floating = name == "compatibility"
        if tensor.shape != shape or tensor.device != cost.device or tensor.is_floating_point() != floating:
            kind = "floats" if floating else "integers"
            found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            raise ValueError(f"comixup: {name} must be {kind} {list(shape)} on {cost.device}, not {found}")
    if min(numbers) < 0 or numbers[-1] == 0 or iterations < 1:
        found = f"{', '.join(map(str, numbers))} and {iterations}"
        raise ValueError(f"comixup: beta, gamma and tau must be at least 0, largest and iterations above, not {found}")


# ---- ahead-of-time targets ----


def _target(name: str, m: int, n: int) -> Target:
    types = dict.fromkeys(("costs", "penalty", "sizes", "labels"), "*i32")
    numbers = ("limit", "quarter", "twin", "bonus", "iterations", "resolved", "starts", "m", "n", "columns")
    chosen = _blocks(m, n)
    warps = chosen.pop("num_warps")
    return Target(name, comixup_kernel, types | dict.fromkeys(numbers, "i32"), chosen, 168, 4, 4, num_warps=warps)


AOT = [
    _target("comixup 4x4, 16 inputs", 16, 16),
    _target("comixup 8x8, 20 inputs", 20, 64),
]
