"""Labels of the cells of a grid that minimise a quadratic energy, a grid a sample (the cut of PuzzleMix).

    E(l) = sum_i unary(l_i, i) + sum_edges W_ij (l_i - l_j)^2 / (L - 1)^2,    l in 0..L-1, 2 <= L <= 4

Small grids are solved exactly, by dynamic programming cell by cell: a state is the labels of the last gw cells, so there
are L^gw, and each carries the labels that led to it.

Larger ones are annealed. With the levels t_l = 2 l / (L-1) - 1, w = W/4 and the mean level m_j of each neighbour,

    m_i = sum_l t_l p_l / sum_l p_l,    p_l = exp((min f - f_l) / T),
    f_l = unary(l, i) + t_l^2 sum_j w_ij - 2 t_l sum_j w_ij m_j

one colour of the checkerboard after the other (with a quadratic cost no other moment of a neighbour matters), while T
falls from the widest range of unary(., i) + t^2 sum_j w_ij. Then every cell takes the label of its least f, sweep by
sweep. One label everywhere, or the least unary of each cell, is the start of the last sweeps where its energy is lower:
so the result is never worse than those. exp(-x) is (1 - x/4)^4, 0 from x = 4 on: any falling function serves, and this
one is the same bits everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

STATES = 256  # of the exact way, at most
HISTORY = 64  # bits for the labels that a state carries
SWEEPS = 32
HEATING = 1.15  # of 1/T, a sweep
DESCENTS = 3  # sweeps at T = 0 before the best start is chosen, and as many from there
COLDEST = 1e-30


def energy(labels: Tensor, unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """The energies of labellings int [B,gh,gw], float64 [B]; the other arguments are those of `gridcut`."""
    t = labels.double() / (unary.shape[1] - 1)
    cells = unary.double().gather(1, labels.long()[:, None]).sum((1, 2, 3))
    return cells + (down * t.diff(dim=1).square()).sum((1, 2)) + (right * t.diff(dim=2).square()).sum((1, 2))


def is_small(labels: int, rows: int, columns: int) -> bool:
    """Whether a grid can be solved exactly."""
    return labels**columns <= STATES and bits(labels) * (rows - 1) * columns <= HISTORY


def bits(labels: int) -> int:
    """Of one label in a history."""
    return 1 if labels == 2 else 2


# ---- reference ----


def reference(unary: Tensor, down: Tensor, right: Tensor, exact: bool | None = None) -> Tensor:
    """`gridcut` in plain torch."""
    small = is_small(unary.shape[1], *unary.shape[2:])
    return (_exact if (small if exact is None else exact) else _annealed)(unary, down, right)


def _exact(unary, down, right):
    n, labels, rows, columns = unary.shape
    rest, width = labels ** (columns - 1), bits(labels)
    level = torch.arange(labels, device=unary.device)
    apart = (level[:, None] - level).square() * (1 / (labels - 1) ** 2)
    left = torch.arange(rest, device=unary.device) // (rest // labels)
    cost = unary.new_zeros(n, rest * labels)
    past = torch.zeros(n, rest * labels, dtype=torch.int64, device=unary.device)
    for y in range(rows):
        for x in range(columns):
            # The lowest digit of a state is its oldest label k, which leaves; the new one becomes the highest.
            weight = down[:, y - 1, x] if y else torch.zeros_like(unary[:, 0, 0, 0])
            rise = (weight[:, None, None] * apart)[:, :, None]
            cost, past = cost.view(n, 1, rest, labels), past.view(n, 1, rest, labels) << width
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
    place = width * torch.arange((rows - 1) * columns, device=unary.device).flip(0)
    before = past.gather(1, state) >> place & (1 << width) - 1
    return torch.cat([before, last], 1).view(n, rows, columns).int()


def _annealed(unary, down, right):
    labels, rows, columns = unary.shape[1:]
    t = [2 * level / (labels - 1) - 1 for level in range(labels)]
    weights = pad(down, (0, 0, 1, 0)), pad(down, (0, 0, 0, 1)), pad(right, (1, 0)), pad(right, (0, 1))
    up, down, left, right = (0.25 * weight for weight in weights)
    total = (up + down) + (left + right)
    own = [u + level**2 * total for u, level in zip(unary.unbind(1), t, strict=True)]
    black = (torch.arange(rows)[:, None] + torch.arange(columns)).to(unary.device) % 2 == 1

    def fields(m):
        near = pad(m, (1, 1, 1, 1))
        vertical = up * near[:, :-2, 1:-1] + down * near[:, 2:, 1:-1]
        across = left * near[:, 1:-1, :-2] + right * near[:, 1:-1, 2:]
        pull = 2 * (vertical + across)
        return [c - level * pull for c, level in zip(own, t, strict=True)]

    def least(costs):
        low, at = costs[0], torch.full_like(costs[0], t[0])
        for cost, level in zip(costs[1:], t[1:], strict=True):
            at = torch.where(cost < low, level, at)
            low = torch.where(cost < low, cost, low)
        return low, at

    def descended(m):
        for sweep in range(2 * DESCENTS):
            m = torch.where(black == (sweep % 2 == 1), least(fields(m))[1], m)
        return m

    def energies(m):
        """Of labellings, given as levels: half of the pull on a cell is its neighbours' share."""
        f = fields(m)
        both = zip(own, f, t, strict=True)
        return sum(torch.where(m == level, 0.5 * (c + field), 0) for c, field, level in both).sum((1, 2))

    spread = torch.stack(own)
    spread = (spread.amax(0) - spread.amin(0)).amax((1, 2)).clamp(min=COLDEST)
    coldness = (0.25 / spread)[:, None, None]
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
    for start in [torch.full_like(m, level) for level in t] + [least(unary.unbind(1))[1]]:
        start = descended(start)
        found = energies(start)
        m = torch.where((found < best)[:, None, None], start, m)
        best = torch.minimum(found, best)
    return ((m + 1) * (0.5 * (labels - 1)) + 0.5).int()


# ---- launcher ----


def gridcut(unary: Tensor, down: Tensor, right: Tensor, exact: bool | None = None) -> Tensor:
    """The labels of least energy (see the top), int32 [B,gh,gw] in 0..L-1.

    unary: float32 [B,L,gh,gw], 2 to 4 labels, grids from 2x2 to 16x16; down: float32 [B,gh-1,gw], weights W of the edges
    to the cell below; right: float32 [B,gh,gw-1], to the cell on the right. exact: whether by dynamic programming;
    None: where there are at most 256 states (gw 4 with 3 or 4 labels, gw 8 with 2). W >= 0 is meant; with others
    annealing may end far from the minimum. Raises ValueError for arguments that do not fit.
    """
    return reference(unary, down, right, exact)
