"""The grid cut on a GPU: a Triton kernel for small grids and one for large ones."""

from __future__ import annotations

from fastmix.kernels._triton import Target, constant, jit, tl
from fastmix.kernels.gridcut.reference import DESCENTS, HEATING, NARROWEST, SWEEPS, bits_of

TIMES, HEAT, DOWNWARD = constant(2 * SWEEPS), constant(HEATING), constant(2 * DESCENTS)
AT_LEAST = constant(NARROWEST)


@jit(numbers=("gh", "gw"))
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


@jit(numbers=("gh", "gw"))
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


def build(exact: bool, labels: int, rows: int, columns: int) -> tuple[dict[str, int], int]:
    """The constants of a kernel, and its warps."""
    lanes = 1 << (rows * columns - 1).bit_length()
    bits = bits_of(labels)
    if exact:
        states = 1 << bits * columns
        return dict(L=labels, BITS=bits, S=states, N=lanes), max(1, states // 128)
    return dict(L=labels, P=1 << bits, N=lanes), max(1, lanes // 64)


def _target(exact: bool, labels: int, side: int, registers: int) -> Target:
    constants, warps = build(exact, labels, side, side)
    types = dict(unary="*fp32", down="*fp32", right="*fp32", out="*i32", gh="i32", gw="i32")
    name = f"gridcut {'exact' if exact else 'annealed'} {side}x{side}"
    kernel = exact_kernel if exact else annealed_kernel
    return Target(name, kernel, types, constants, registers, 4, 4, fused=False, num_warps=warps)


# Triton 3.4 takes 166 registers for the small grids, later ones 56: a batch is two programs a multiprocessor, so be it.
AOT = [_target(True, 3, 4, 168), _target(False, 3, 16, 64)]
