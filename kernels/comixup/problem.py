"""What the joint solver of Co-Mixup works on: the problem in whole numbers, the same for every implementation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 29  # inputs of a group: with three halves 32 labels
CELLS = 64  # blocks of an output
SPARE = 6  # bits that a sum over CELLS costs needs
ROUNDS = 2  # over the rows and the columns of a grid
BASE = 32  # a label is first * BASE + second
HALF_BONUS = 5e-4  # by which a half is cheaper than the mean of its two costs
NEVER = 1 << 30  # cost of a label that there is not: all others, and what a path adds to them, are below half of it


@dataclass
class Problem:
    """What the solvers work on, in whole numbers.

    costs    int32 [G,m,n]  of each input in each block
    penalty  int32 [G,m,m]  gamma/n A: of input k for each half block of input l in the other outputs
    limit    the sum of penalties above which it is paid: tau n blocks
    quarter  of a label change; twin: what tells outputs of one set apart; bonus: of a half, twice
    """

    costs: Tensor
    penalty: Tensor
    limit: int
    quarter: int
    twin: int
    bonus: int


def unit(m: int, beta: float, gamma: float, largest: float) -> float:
    """What a cost of 1 becomes: with so many bits that no sum leaves int32, at most 24 behind the point."""
    return 2.0 ** min(24, 29 - math.ceil(math.log2(2 * gamma * m + 4 * beta + 2 * largest)))


def numbers(one: float, n: int, beta: float, gamma: float, tau: float) -> tuple[int, ...]:
    """limit, quarter, twin and bonus of a Problem."""
    terms = (min(2 * gamma * tau, 2**29 / one), beta / n / 4, gamma / n, 2 * HALF_BONUS)
    return tuple(round(one * term) for term in terms)


def fixed_point(cost: Tensor, compatibility: Tensor, beta: float, gamma: float, tau: float, largest: float) -> Problem:
    """The problem in whole numbers."""
    m, n = cost.shape[1:]
    one = unit(m, beta, gamma, largest)

    def whole(values: Tensor) -> Tensor:
        return (torch.nan_to_num(values) * one).round().int()

    penalty = whole(compatibility.clamp(0, 1) * (gamma / n))
    return Problem(whole(cost.clamp(-largest, largest)), penalty, *numbers(one, n, beta, gamma, tau))
