"""The joint solver of Co-Mixup on the CPU: numba, groups spread over a few threads.

Equal to `kernels.comixup.reference`.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastmix.kernels.comixup.problem import BASE, ROUNDS, SPARE, Problem
from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.threads import share

HALVES = np.array([[0, 1], [0, 2], [1, 2]])  # of the three inputs that an output shows most


@inner()
def _count(used, labels, sign):
    """Adds an output's half blocks of each input."""
    for code in labels:
        used[code // BASE] += sign
        used[code % BASE] += sign


@inner()
def _most(used, m):
    """The three most used inputs, ties to the lower index, in ascending order; fewer where there are not as many."""
    three = np.empty(min(3, m), np.int64)
    for i in range(len(three)):
        three[i] = -1
        for k in range(m):
            taken = False
            for chosen in three[:i]:
                taken |= chosen == k
            if not taken and (three[i] < 0 or used[k] > used[three[i]]):
                three[i] = k
    three.sort()
    return three


@inner()
def _cheapest(costs):
    best = 0
    for k in range(1, len(costs)):
        if costs[k] < costs[best]:
            best = k
    return best


@inner()
def _line(costs, gain, labels, wholes, first, step, length, beside, paths):
    """The best labels of a line of blocks with the others fixed: a shortest path.

    Block x of the line is first + x step; beside: what to add for the lines before and after it, 0 where there is none.
    Labels from `wholes` on are halves: only they save something beside labels other than themselves.
    """
    count = len(gain)
    for x in range(length):
        t = first + x * step
        paths[x] = costs[t]
        for side in beside:
            if side:
                paths[x] -= gain[labels[t + side]]
        if x:
            before = paths[x - 1]
            lowest = before.min()
            for k in range(count):
                least = min(lowest, before[k] - gain[k, k])
                for j in range(wholes if k < wholes else 0, count):
                    least = min(least, before[j] - gain[k, j])
                paths[x, k] += least
    for x in range(length - 1, -1, -1):
        if x < length - 1:
            paths[x] -= gain[labels[first + (x + 1) * step]]
        labels[first + x * step] = _cheapest(paths[x])


@inner()
def _settle(costs, gain, labels, wholes, rows, columns, paths):
    """Rows, then columns, ROUNDS times, in place; twice the energy."""
    for _ in range(ROUNDS):
        for parity in range(2):
            for y in range(parity, rows, 2):
                beside = (-columns if y else 0, columns if y < rows - 1 else 0)
                _line(costs, gain, labels, wholes, y * columns, 1, columns, beside, paths)
        for parity in range(2):
            for x in range(parity, columns, 2):
                beside = (-1 if x else 0, 1 if x < columns - 1 else 0)
                _line(costs, gain, labels, wholes, x, columns, rows, beside, paths)
    twice = np.int64(0)
    for t in range(len(labels)):
        twice += 2 * costs[t, labels[t]]
        if t >= columns:
            twice -= 2 * gain[labels[t], labels[t - columns]]
        if t % columns:
            twice -= 2 * gain[labels[t], labels[t - 1]]
    return twice


@inner()
def _twins(avoid, shows, size):
    """The inputs that outputs of one set are to avoid, as bits: its first the earlier, its second the later."""
    for j in range(size):
        others = shows[j] & (shows[j] - 1)
        for i in range(j):
            if shows[i] == shows[j] and others:
                avoid[i] |= shows[j] & -shows[j]
                avoid[j] |= others & -others


@compiled()
def _solve(first, last, unary, penalty, sizes, table, numbers, rows, columns, iterations, resolved):
    limit, quarter, twin, bonus = numbers
    m, n = unary.shape[1:]
    costs, gain = np.empty((n, m + 3), np.int64), np.empty((m + 3, m + 3), np.int64)
    ends = np.empty((m + 3, 2), np.int64)
    paths, over = np.empty((max(rows, columns), m + 3), np.int64), np.empty(m + 3, np.int64)
    used, total = np.empty(m, np.int64), np.empty(m, np.int64)
    avoid, shows = np.empty(m, np.int64), np.empty(m, np.int64)
    tries = np.empty((3, n), np.int64)
    for group in range(first, last):
        size = sizes[group]
        total[:], avoid[:] = 0, 0
        for j in range(size):
            _count(total, table[group, j], 1)
        for iteration in range(iterations):
            for j in range(size):
                labels = table[group, j]
                used[:] = 0
                _count(used, labels, 1)
                _count(total, labels, -1)
                for k in range(size):
                    paid = np.int64(0)
                    for i in range(size):
                        paid += penalty[group, k, i] * total[i]
                    extra = (paid if paid > limit else 0) + twin * (avoid[j] >> k & 1)
                    for t in range(n):
                        costs[t, k] = unary[group, k, t] + extra
                    ends[k] = k
                count = size
                if iteration:
                    three = _most(used, size)
                    for a, b in HALVES:
                        if b < len(three) and used[three[a]] and used[three[b]]:
                            ends[count] = three[a], three[b]
                            for t in range(n):
                                costs[t, count] = (costs[t, three[a]] + costs[t, three[b]] - bonus) >> 1
                            count += 1
                for a in range(count):
                    for b in range(count):
                        whole = ends[a, 0] == ends[a, 1]
                        touch = ends[a, 0] == ends[b, 0] or ends[a, 0] == ends[b, 1]
                        touch |= ends[a, 1] == ends[b, 0] or ends[a, 1] == ends[b, 1]
                        quarters = 3 if touch and whole != (ends[b, 0] == ends[b, 1]) else 0
                        gain[a, b] = quarter * (4 if a == b else quarters)
                over[:count] = 0
                for t in range(n):
                    tries[0, t] = labels[t] // BASE
                    for k in range(size, count):
                        if labels[t] == ends[k, 0] * BASE + ends[k, 1]:
                            tries[0, t] = k
                    tries[1, t] = _cheapest(costs[t, :count])
                    over[:count] += costs[t, :count] >> SPARE
                tries[2] = _cheapest(over[:count])
                best, least = 0, np.int64(1) << 62
                for i in range(3):
                    part, settled = gain[:count, :count], tries[i]
                    twice = _settle(costs[:, :count], part, settled, size, rows, columns, paths[:, :count])
                    if twice < least:
                        best, least = i, twice
                shows[j] = 0
                for t in range(n):
                    one, other = ends[tries[best, t]]
                    labels[t] = one * BASE + other
                    shows[j] |= (1 << one) | (1 << other)
                _count(total, labels, 1)
            if iteration == resolved:
                _twins(avoid, shows, size)


def comixup_cpu(
    problem: Problem, sizes: Tensor, labels: Tensor, grid: tuple[int, int], iterations: int, resolve: bool
) -> None:
    """Settles labels int32 [G,m,n], in place, from where they start: arguments of `kernels.comixup`, checked."""
    numbers = (problem.limit, problem.quarter, problem.twin, problem.bonus)
    arrays = (problem.costs.numpy(), problem.penalty.numpy(), sizes.int().numpy(), labels.numpy(), numbers)
    settings = (*grid, iterations, iterations - 2 if resolve else -1)

    share(lambda first, last: _solve(first, last, *arrays, *settings), len(labels), labels.numel() * iterations * 1000)
