"""The grid cut in plain torch: which grids are small, the exact and the annealed solver."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    bits = bits_of(labels)
    return bits * columns <= STATE and bits * (rows - 1) * columns <= HISTORY


def bits_of(labels: int) -> int:
    return 1 if labels == 2 else 2


def reference(unary: Tensor, down: Tensor, right: Tensor, exact: bool | None = None) -> Tensor:
    """`gridcut` in plain torch."""
    small = is_small(*unary.shape[1:])
    return (_exact if (small if exact is None else exact) else _annealed)(unary, down, right)


def _exact(unary, down, right):
    n, labels, rows, columns = unary.shape
    rest, bits = labels ** (columns - 1), bits_of(labels)
    apart = torch.tensor(label_costs(labels), device=unary.device)
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


def label_costs(labels: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple((a - b) ** 2 / (labels - 1) ** 2 for b in range(labels)) for a in range(labels))


def _annealed(unary, down, right):
    labels, rows, columns = unary.shape[1:]
    t = torch.tensor(levels(labels), device=unary.device).unbind()
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


def levels(labels: int) -> tuple[float, ...]:
    return tuple((2 * level - (labels - 1)) / (labels - 1) for level in range(labels))
