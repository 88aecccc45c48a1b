"""The joint solver of Co-Mixup in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.kernels.comixup.problem import BASE, NEVER, ROUNDS, SPARE, fixed_point

DTYPES = (torch.float32,)


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

    blocks, gain = costs.view(groups, *grid, -1), problem.quarter * alike
    here = (shown[..., :1] == ends[0][:, None]) & (shown[..., 1:] == ends[1][:, None])
    here &= costs < NEVER
    begin = torch.where(here.any(2), here.int().argmax(2), shown[..., 0])
    all_over = (costs >> SPARE).sum(1).argmin(1)[:, None].expand(groups, n)
    least = best = None
    for labels in (begin, costs.argmin(2), all_over):
        labels = labels.view(groups, *grid)
        for _ in range(ROUNDS):
            labels = _lines(blocks, labels, gain)
            labels = _lines(blocks.transpose(1, 2), labels.mT, gain).mT
        near = _rows(gain, labels.flatten(1)).view(blocks.shape)
        near = _beside(near) + _beside(near.transpose(1, 2)).transpose(1, 2)
        twice = (2 * blocks.long() - near).gather(3, labels[..., None]).sum((1, 2, 3))
        labels = labels.flatten(1)
        lower = twice < least if least is not None else torch.ones_like(twice, dtype=torch.bool)
        least = torch.where(lower, twice, least) if least is not None else twice
        best = torch.where(lower[:, None], labels, best) if best is not None else labels
    return torch.stack([ends[0].gather(1, best), ends[1].gather(1, best)], 2)


def _lines(costs, labels, gain) -> Tensor:
    """Labels [G,R,C] of which the even rows, then the odd ones, are the best with the others fixed: shortest paths.

    costs [G,R,C,L]; gain [G,L,L] is what two labels side by side save.
    """
    for parity in (0, 1):
        paths = costs - _beside(
            _rows(gain, labels.flatten(1)).view(costs.shape)
        )  # [G,R,C,L] of the best way to a label
        for x in range(1, costs.shape[2]):
            before = paths[:, :, x - 1]
            before = before - before.amin(2, keepdim=True)
            paths[:, :, x] += (before[..., None] - gain[:, None]).amin(2)
        best = paths[:, :, -1].argmin(2)
        found = [best]
        for x in reversed(range(costs.shape[2] - 1)):
            best = (paths[:, :, x] - _rows(gain, best)).argmin(2)
            found.insert(0, best)
        changed = torch.arange(costs.shape[1], device=costs.device)[:, None] % 2 == parity
        labels = torch.where(changed, torch.stack(found, 2), labels)
    return labels


def _beside(values) -> Tensor:
    """Sums of the rows above and below, [G,R,C,L]; none beyond the edge."""
    padded = F.pad(values, (0, 0, 0, 0, 1, 1))
    return padded[:, :-2] + padded[:, 2:]


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
