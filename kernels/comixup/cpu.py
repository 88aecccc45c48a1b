"""The joint solver of Co-Mixup on the CPU: numba, groups spread over a few threads.

Equal to `kernels.comixup.reference`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from fastmix.kernels.comixup.problem import BASE, SPARE, SWEEPS, Problem
from fastmix.kernels.compiled import compiled
from fastmix.kernels.threads import share

HALVES = np.array([[0, 1], [0, 2], [1, 2]])  # of the three inputs that an output shows most


@njit(nogil=True)
def _count(used, labels, sign):
    """Adds an output's half blocks of each input."""
    for code in labels:
        used[code // BASE] += sign
        used[code % BASE] += sign


@njit(nogil=True)
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


@njit(nogil=True)
def _cheapest(costs):
    best = 0
    for k in range(1, len(costs)):
        if costs[k] < costs[best]:
            best = k
    return best


@njit(nogil=True)
def _near(alike, labels, t, rows, columns, near):
    """How much each label is like those of the blocks around block t."""
    near[:] = 0
    if t >= columns:
        near += alike[labels[t - columns]]
    if t < (rows - 1) * columns:
        near += alike[labels[t + columns]]
    if t % columns > 0:
        near += alike[labels[t - 1]]
    if t % columns < columns - 1:
        near += alike[labels[t + 1]]


@njit(nogil=True)
def _settle(costs, alike, labels, rows, columns, quarter, near):
    """Iterated conditional modes, in place; twice the energy."""
    changed, sweep = True, 0
    while changed and sweep < SWEEPS:
        changed, sweep = False, sweep + 1
        for colour in range(2):
            for y in range(rows):
                for x in range((colour + y) % 2, columns, 2):
                    t = y * columns + x
                    _near(alike, labels, t, rows, columns, near)
                    best = 0
                    least = costs[t, 0] - quarter * near[0]
                    for k in range(1, len(near)):
                        energy = costs[t, k] - quarter * near[k]
                        if energy < least:
                            best, least = k, energy
                    changed |= labels[t] != best
                    labels[t] = best
    twice = np.int64(0)
    for t in range(len(labels)):
        _near(alike, labels, t, rows, columns, near)
        twice += 2 * np.int64(costs[t, labels[t]]) - quarter * near[labels[t]]
    return twice


@njit(nogil=True)
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
    costs, alike = np.empty((n, m + 3), np.int64), np.empty((m + 3, m + 3), np.int64)
    ends = np.empty((m + 3, 2), np.int64)
    near, over = np.empty(m + 3, np.int64), np.empty(m + 3, np.int64)
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
                        alike[a, b] = 4 if a == b else quarters
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
                    part = alike[:count, :count]
                    twice = _settle(costs, part, tries[i], rows, columns, quarter, near[:count])
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
