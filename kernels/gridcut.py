"""Labels of the cells of a grid that minimise a quadratic energy, one grid a sample (the cut of PuzzleMix).

    E(l) = sum_i unary(l_i, i) + sum_edges W_ij (l_i - l_j)^2 / (L-1)^2,    l in 0..L-1, 2 <= L <= 4

Small grids are solved exactly, by dynamic programming cell by cell: a state is the labels of the last gw cells.

Larger ones are annealed. With the levels t_l = (2 l - (L-1)) / (L-1), w = W/4 and the mean level m_j of each neighbour,

    m_i = sum_l t_l p_l / sum_l p_l,    p_l = exp((min f - f_l) / T),
    f_l = unary(l, i) + t_l^2 sum_j w_ij - 2 t_l sum_j w_ij m_j

one colour of the checkerboard after the other (with a quadratic cost no other moment of a neighbour matters), while T
falls from the widest range of f's part without neighbours. Then every cell takes the level of its least f, sweep by
sweep. Such sweeps from each constant labelling, and from the least unary of each cell, compete with that: the result is
never worse than those. exp(-x) is (1 - x/4)^4, 0 from x = 4 on: any falling function serves, and this one has the same
bits everywhere.

Bytes: the arguments once, 4 written a cell. Flops a cell: exact 4 L^(gw+1); annealed about 1,800 for 3 labels, on a GPU
twice that, where a program computes both colours in every sweep and keeps one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastmix.kernels._triton import INTERPRETED, Target, constant, jit, tl
from fastmix.kernels.gridcut_cases import CASES  # noqa: F401

DTYPES = (torch.float32,)
LABELS, SIDES = (2, 4), (2, 16)
STATE, HISTORY = 8, 64  # bits of the labels of a state, at most, and of those before
SWEEPS, HEATING = 32, 1.15  # at falling temperature; of 1/T, a sweep
DESCENTS = 3  # sweeps at temperature 0 from each start
NARROWEST = 1e-30  # range of costs, for a start at a finite 1/T


def energy(labels: Tensor, unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """E of labellings int [B,gh,gw], float64 [B]; the other arguments are those of `gridcut`."""
    t = labels.double() / (unary.shape[1] - 1)
    cells = unary.double().gather(1, labels.long()[:, None]).sum((1, 2, 3))
    return cells + (down * t.diff(dim=1).square()).sum((1, 2)) + (right * t.diff(dim=2).square()).sum((1, 2))


def is_small(labels: int, rows: int, columns: int) -> bool:
    """Whether a grid can be solved exactly."""
    bits = _bits(labels)
    return bits * columns <= STATE and bits * (rows - 1) * columns <= HISTORY


def _bits(labels: int) -> int:
    return 1 if labels == 2 else 2


# ---- reference ----


def reference(unary: Tensor, down: Tensor, right: Tensor, exact: bool | None = None) -> Tensor:
    """`gridcut` in plain torch."""
    small = is_small(*unary.shape[1:])
    return (_exact if (small if exact is None else exact) else _annealed)(unary, down, right)


def _exact(unary, down, right):
    n, labels, rows, columns = unary.shape
    rest, bits = labels ** (columns - 1), _bits(labels)
    apart = torch.tensor(_apart(labels), device=unary.device)
    left = torch.arange(rest, device=unary.device) // (rest // labels)
    cost = unary.new_zeros(n, rest * labels)
    past = torch.zeros(n, rest * labels, dtype=torch.int64, device=unary.device)
    for y in range(rows):
        for x in range(columns):
            # The lowest digit of a state is its oldest label k, which leaves; the new one becomes the highest.
            weight = down[:, y - 1, x] if y else torch.zeros_like(unary[:, 0, 0, 0])
            rise = (weight[:, None, None] * apart)[:, :, None]
            cost, past = cost.view(n, 1, rest, labels), past.view(n, 1, rest, labels) << bits
            least, kept = cost[..., 0] + rise[..., 0], past[..., 0].expand(n, labels, rest)
            for k in range(1, labels):
                other = cost[..., k] + rise[..., k]
                kept = torch.where(other < least, past[..., k] + k, kept)
                least = torch.where(other < least, other, least)
            cost = least + unary[:, :, y, x, None]
            if x:
                cost = cost + right[:, y, x - 1, None, None] * apart[:, left]
            cost, past = cost.flatten(1), kept.flatten(1)
    state = cost.argmin(1, keepdim=True)
    last = state // labels ** torch.arange(columns, device=unary.device) % labels
    place = bits * torch.arange((rows - 1) * columns, device=unary.device).flip(0)
    before = past.gather(1, state) >> place & (1 << bits) - 1
    return torch.cat([before, last], 1).view(n, rows, columns).int()


def _apart(labels: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple((a - b) ** 2 / (labels - 1) ** 2 for b in range(labels)) for a in range(labels))


def _annealed(unary, down, right):
    labels, rows, columns = unary.shape[1:]
    t = torch.tensor(_levels(labels), device=unary.device).unbind()
    weights = pad(down, (0, 0, 1, 0)), pad(down, (0, 0, 0, 1)), pad(right, (1, 0)), pad(right, (0, 1))
    up, down, left, right = (0.25 * weight for weight in weights)
    total = (up + down) + (left + right)
    own = [u + level * level * total for u, level in zip(unary.unbind(1), t, strict=True)]
    black = (torch.arange(rows)[:, None] + torch.arange(columns)).to(unary.device) % 2 == 1

    def fields(m):
        near = pad(m, (1, 1, 1, 1))
        vertical = up * near[:, :-2, 1:-1] + down * near[:, 2:, 1:-1]
        pull = 2 * (vertical + (left * near[:, 1:-1, :-2] + right * near[:, 1:-1, 2:]))
        return [c - level * pull for c, level in zip(own, t, strict=True)]

    def least(costs):
        low, at = costs[0], torch.zeros_like(costs[0]) + t[0]
        for cost, level in zip(costs[1:], t[1:], strict=True):
            at = torch.where(cost < low, level, at)
            low = torch.where(cost < low, cost, low)
        return low, at

    def descended(m):
        for sweep in range(2 * DESCENTS):
            m = torch.where(black == (sweep % 2 == 1), least(fields(m))[1], m)
        return m

    def energies(m):
        """Of levels m: half of the pull on a cell is its neighbours' share."""
        both = zip(own, fields(m), t, strict=True)
        return sum(torch.where(m == level, 0.5 * (c + f), 0) for c, f, level in both).sum((1, 2))

    costs = torch.stack(own)
    widest = (costs.amax(0) - costs.amin(0)).amax((1, 2), keepdim=True)
    coldness = 0.25 / widest.clamp(min=NARROWEST)
    m = torch.zeros_like(total)
    for sweep in range(2 * SWEEPS):
        f = fields(m)
        low = least(f)[0]
        mass, moment = torch.zeros_like(m), torch.zeros_like(m)
        for field, level in zip(f, t, strict=True):
            p = (1 + (low - field) * coldness).clamp(min=0)
            p = p * p
            p = p * p
            mass, moment = mass + p, moment + level * p
        m = torch.where(black == (sweep % 2 == 1), moment / mass, m)
        if sweep % 2 == 1:
            coldness = coldness * HEATING
    m = descended(m)
    best = energies(m)
    for start in [*(torch.zeros_like(m) + level for level in t), least(unary.unbind(1))[1]]:
        start = descended(start)
        found = energies(start)
        m = torch.where((found < best)[:, None, None], start, m)
        best = torch.minimum(found, best)
    return ((m + 1) * (0.5 * (labels - 1)) + 0.5).int()


def _levels(labels: int) -> tuple[float, ...]:
    return tuple((2 * level - (labels - 1)) / (labels - 1) for level in range(labels))


# ---- Triton ----

TIMES, HEAT, DOWNWARD = constant(2 * SWEEPS), constant(HEATING), constant(2 * DESCENTS)
AT_LEAST = constant(NARROWEST)


@jit
def exact_kernel(
    unary, down, right, out, gh, gw, L: tl.constexpr, BITS: tl.constexpr, S: tl.constexpr, N: tl.constexpr
):
    """One program: one sample. S = 2^(BITS gw) states, each with the labels before it as bits; N >= gh gw."""
    P: tl.constexpr = 1 << BITS
    R: tl.constexpr = S // P
    cells = gh * gw
    sample = tl.program_id(0).to(tl.int64)
    unary += sample * L * cells
    down += sample * (cells - gw)
    right += sample * (cells - gh)
    label = tl.arange(0, P)[None, :]
    rest = tl.arange(0, R)[:, None]
    jump = (label - rest // (R // P)).to(tl.float32)
    apart_left = tl.div_rn(jump * jump, tl.zeros_like(jump) + (L - 1) * (L - 1))
    cost = tl.zeros([R, P], tl.float32)
    past = tl.zeros([R, P], tl.int64)
    for cell in range(cells):
        y, x = cell // gw, cell % gw
        above = tl.load(down + cell - gw, mask=y > 0, other=0.0)
        before = tl.load(right + cell - y - 1, mask=x > 0, other=0.0)
        own = tl.load(unary + label * cells + cell, mask=label < L, other=float("inf"))
        least = tl.full([R, P], float("inf"), tl.float32)
        kept = tl.zeros([R, P], tl.int64)
        for k in tl.static_range(L):
            leaving = tl.sum(tl.where(label == k, cost, 0.0), 1)[:, None]
            history = (tl.sum(tl.where(label == k, past, 0), 1)[:, None] << BITS) + k
            fall = (label - k).to(tl.float32)
            other = leaving + above * tl.div_rn(fall * fall, tl.zeros_like(fall) + (L - 1) * (L - 1))
            kept = tl.where((other < least) | (k == 0), history, kept)
            least = tl.where((other < least) | (k == 0), other, least)
        cost = (least + own) + before * apart_left
        cost = tl.reshape(tl.trans(cost), [R, P])  # the new label is now the highest digit
        past = tl.reshape(tl.trans(kept), [R, P])
    state = tl.argmin(tl.reshape(cost, [S]), 0)
    history = tl.sum(tl.where(tl.arange(0, S) == state, tl.reshape(past, [S]), 0), 0)
    i = tl.arange(0, N)
    ago = cells - 1 - i
    last = state >> (BITS * tl.maximum(gw - 1 - ago, 0))
    older = (history >> (BITS * tl.maximum(ago - gw, 0)).to(tl.int64)).to(tl.int32)
    found = tl.where(ago < gw, last, older) & (P - 1)
    tl.store(out + sample * cells + i, tl.minimum(found, L - 1), mask=i < cells)


@jit
def _pull(m, up, down, left, right, above, below, before, after):
    vertical = up * tl.gather(m, above, 0) + down * tl.gather(m, below, 0)
    return 2.0 * (vertical + (left * tl.gather(m, before, 0) + right * tl.gather(m, after, 0)))


@jit
def _least(costs, t, label):
    """The levels of the least costs [N,P], the first of equals."""
    low = tl.min(costs, 1)
    first = tl.min(tl.where(costs == low[:, None], label, 4), 1)
    return tl.sum(tl.where(label == first[:, None], t, 0.0), 1)


@jit
def annealed_kernel(unary, down, right, out, gh, gw, L: tl.constexpr, P: tl.constexpr, N: tl.constexpr):
    """One program: one sample; N >= gh gw lanes, P >= L labels, of which those too many cost infinity."""
    cells = gh * gw
    sample = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, N)
    inside = i < cells
    y, x = i // gw, i % gw
    down += sample * (cells - gw)
    right += sample * (cells - gh)
    w_up = 0.25 * tl.load(down + i - gw, mask=inside & (y > 0), other=0.0)
    w_down = 0.25 * tl.load(down + i, mask=inside & (y < gh - 1), other=0.0)
    w_left = 0.25 * tl.load(right + i - y - 1, mask=inside & (x > 0), other=0.0)
    w_right = 0.25 * tl.load(right + i - y, mask=inside & (x < gw - 1), other=0.0)
    above, below = tl.maximum(i - gw, 0), tl.minimum(i + gw, N - 1)
    before, after = tl.maximum(i - 1, 0), tl.minimum(i + 1, N - 1)
    black = (y + x) % 2

    label = tl.arange(0, P)[None, :]
    t = (2 * label - (L - 1)).to(tl.float32)
    t = tl.div_rn(t, tl.zeros_like(t) + (L - 1))
    u = tl.load(unary + sample * L * cells + label * cells + i[:, None], mask=inside[:, None] & (label < L), other=0.0)
    u = tl.where(label < L, u, float("inf"))
    own = u + t * t * ((w_up + w_down) + (w_left + w_right))[:, None]
    spread = tl.max(tl.where(label < L, own, -float("inf")), 1) - tl.min(own, 1)
    widest = tl.maximum(tl.max(tl.where(inside, spread, 0.0), 0), AT_LEAST)
    coldness = tl.div_rn(tl.zeros([N], tl.float32) + 0.25, widest)

    m = tl.zeros([N], tl.float32)
    for sweep in range(TIMES):
        pull = _pull(m, w_up, w_down, w_left, w_right, above, below, before, after)
        f = own - t * pull[:, None]
        p = tl.maximum(1.0 + (tl.min(f, 1)[:, None] - f) * coldness[:, None], 0.0)
        p = p * p
        p = p * p
        mean = tl.div_rn(tl.sum(t * p, 1), tl.sum(p, 1))
        m = tl.where(black == sweep % 2, mean, m)
        coldness = tl.where(sweep % 2 == 1, coldness * HEAT, coldness)

    best, result = widest + float("inf"), m
    for start in range(L + 2):
        if start > 0:
            m = _least(u, t, label)
            if start <= L:
                m = tl.zeros_like(m) + tl.sum(tl.where(label == start - 1, t, 0.0))
        for sweep in range(DOWNWARD):
            pull = _pull(m, w_up, w_down, w_left, w_right, above, below, before, after)
            m = tl.where(black == sweep % 2, _least(own - t * pull[:, None], t, label), m)
        pull = _pull(m, w_up, w_down, w_left, w_right, above, below, before, after)
        cost = tl.sum(tl.where(m[:, None] == t, own, 0.0), 1)
        found = tl.sum(tl.where(inside, 0.5 * (cost + (cost - m * pull)), 0.0), 0)
        result = tl.where(found < best, m, result)
        best = tl.minimum(found, best)
    level = ((result + 1.0) * (0.5 * (L - 1)) + 0.5).to(tl.int32)
    tl.store(out + sample * cells + i, level, mask=inside)


# ---- launcher ----


def gridcut(unary: Tensor, down: Tensor, right: Tensor, exact: bool | None = None) -> Tensor:
    """The labels of least energy (see the top), int32 [B,gh,gw] in 0..L-1.

    unary float32 [B,L,gh,gw]: 2 to 4 labels, grids from 2x2 to 16x16; down float32 [B,gh-1,gw], right float32
    [B,gh,gw-1]: the weights W of the edges to the cell below and on the right, meant to be at least 0 (with others,
    annealing may end far from the minimum). exact: by dynamic programming or annealed; None: by dynamic programming
    where a grid is small (`is_small`: 4 columns, or with 2 labels 8). Nothing waits for the device. Raises ValueError
    for arguments that do not fit.
    """
    exact = _check(unary, down, right, exact)
    unary, down, right = (v.contiguous() for v in (unary, down, right))
    n, labels, rows, columns = unary.shape
    out = torch.empty(n, rows, columns, dtype=torch.int32, device=unary.device)
    if n and (unary.is_cuda or INTERPRETED):
        kernel = exact_kernel if exact else annealed_kernel
        constants, warps = _build(exact, labels, rows, columns)
        with torch.cuda.device_of(unary):
            kernel[(n,)](unary, down, right, out, rows, columns, **constants, num_warps=warps, enable_fp_fusion=False)
    elif exact:
        from fastmix.kernels.gridcut_cpu import exact_cpu

        exact_cpu(unary, down, right, _apart(labels), out)
    else:
        from fastmix.kernels.gridcut_cpu import annealed_cpu

        annealed_cpu(unary, down, right, _levels(labels), (SWEEPS, HEATING, DESCENTS, NARROWEST), out)
    return out


def _check(unary: Tensor, down: Tensor, right: Tensor, exact: bool | None) -> bool:
    """Whether to solve exactly."""
    fits = unary.ndim == 4 and unary.dtype == torch.float32 and LABELS[0] <= unary.shape[1] <= LABELS[1]
    if not fits or not all(SIDES[0] <= side <= SIDES[1] for side in unary.shape[2:]):
        found = f"{unary.dtype} {list(unary.shape)}"
        raise ValueError(f"gridcut: unary must be float32 [B,2..4,2..16,2..16], not {found}")
    n, labels, rows, columns = unary.shape
    for name, edges, shape in (("down", down, (n, rows - 1, columns)), ("right", right, (n, rows, columns - 1))):
        if (edges.dtype, edges.shape, edges.device) != (torch.float32, shape, unary.device):
            found = f"{edges.dtype} {list(edges.shape)} on {edges.device}"
            raise ValueError(f"gridcut: {name} must be float32 {list(shape)} on {unary.device}, not {found}")
    small = is_small(labels, rows, columns)
    if exact and not small:
        raise ValueError(
            f"gridcut: {labels} labels on {rows}x{columns} cells cannot be solved exactly; leave exact out"
        )
    return small if exact is None else exact


def _build(exact: bool, labels: int, rows: int, columns: int) -> tuple[dict[str, int], int]:
    """The constants of a kernel, and its warps."""
    lanes = 1 << (rows * columns - 1).bit_length()
    bits = _bits(labels)
    if exact:
        states = 1 << bits * columns
        return dict(L=labels, BITS=bits, S=states, N=lanes), max(1, states // 128)
    return dict(L=labels, P=1 << bits, N=lanes), max(1, lanes // 64)


# ---- ahead-of-time targets ----


def _target(exact: bool, labels: int, side: int, registers: int) -> Target:
    constants, warps = _build(exact, labels, side, side)
    types = dict(unary="*fp32", down="*fp32", right="*fp32", out="*i32", gh="i32", gw="i32")
    name = f"gridcut {'exact' if exact else 'annealed'} {side}x{side}"
    kernel = exact_kernel if exact else annealed_kernel
    return Target(name, kernel, types, constants, registers, 4, 4, fused=False, num_warps=warps)


AOT = [_target(True, 3, 4, 64), _target(False, 3, 16, 64)]
