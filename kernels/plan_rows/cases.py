"""Random arguments for the rows of a plan: what the tests check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastmix.kernels.plan import Plan
from fastmix.kernels.plan_rows.rules import (
    Around,
    Attended,
    Blocks,
    Grafted,
    Groups,
    Ratio,
    Squares,
    Stretched,
    Tokens,
    Top,
    Weights,
)


@dataclass(frozen=True)
class Case:
    """Random arguments of a rule; shared: one draw for all samples; levels: how many different values there are (0: no
    two alike). ulps: of the labels, where they are sums in another order.
    """

    rule: type
    samples: int
    size: tuple[int, int]
    grid: tuple[int, int]
    shared: bool = False
    levels: int = 0
    ulps: int = 0

    def __str__(self) -> str:
        words = f"{self.rule.__name__} {self.samples} of {self.size[0]}x{self.size[1]}, {self.grid[0]}x{self.grid[1]}"
        return words + " shared" * self.shared + f" in {self.levels}" * bool(self.levels)

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        """The keyword arguments of one call of `plan_rows` or of its reference."""
        rng, n, cells = np.random.default_rng(seed), self.samples, self.grid[0] * self.grid[1]
        drawn = 1 if self.shared else n

        def values(*shape):
            found = rng.random(shape)
            found = np.floor(found * self.levels) / self.levels if self.levels else found**3
            return torch.from_numpy(found).to(dtype)

        def edges():
            sides = [np.sort(rng.integers(0, length + 1, (2, drawn)), 0) for length in self.size]
            return np.concatenate(sides)

        seen = values(n, cells + 1)[:, 1:].unflatten(1, self.grid)  # not dense, as without a class token
        partner = torch.from_numpy(((np.arange(n) + 1) % n).astype(np.int32))
        if self.rule is Around:
            peak = np.stack([rng.integers(0, length, n) for length in self.size], 1).astype(np.int32)
            sides = np.stack([rng.integers(0, length, drawn) for length in self.size])
            rule = Around(torch.from_numpy(peak), torch.from_numpy(sides))
        elif self.rule is Squares:
            rule = Squares(seen, int(rng.integers(1, min(self.grid))))
        elif self.rule is Stretched:
            alike = None if self.shared else torch.from_numpy(rng.random(n) < 0.5)
            rule = Stretched(seen, torch.from_numpy(np.stack([edges(), edges()])), alike)
        elif self.rule is Top:
            rule = Top(seen, torch.from_numpy(rng.random(drawn)), cells, 1)
        elif self.rule is Grafted:
            p, uniform = rng.random(n, np.float32), rng.random((n, cells), np.float32)
            rule = Grafted(seen, torch.from_numpy(p), torch.from_numpy(uniform), 0.2)
        elif self.rule is Tokens:
            rule = Tokens(seen, torch.from_numpy(rng.random((drawn, *self.grid)) < 0.5))
        elif self.rule is Blocks:
            shape = (cells,) if self.shared else (n, cells)
            places = (torch.from_numpy(rng.integers(0, cells, shape).astype(np.int32)) for _ in range(2))
            rule = Blocks(*places, values(n, cells), self.grid)
        elif self.rule is Groups:  # of one output in three the group has one fewer
            m = 3
            sizes = np.resize([m, m - 1], n).astype(np.int32)
            group = np.repeat(np.arange(n), sizes)[:n]
            begins = np.concatenate([[0], sizes.cumsum()])[group]
            shown = rng.integers(0, sizes[:, None, None, None], (n, m, cells, 2)).astype(np.int32)
            drawn = (torch.from_numpy(v) for v in (shown, sizes, np.arange(n) - begins, group, begins))
            rule = Groups(*drawn, self.grid)
        elif self.rule is Attended:
            low, high = np.sort(rng.integers(0, min(self.size) + 1, (2, n)), 0)
            plan = Plan.box(partner, low, high, high - low, high, self.size)
            seen[0] = 0
            rule, partner = Attended(seen, plan, 0.5), plan.partner
        elif self.rule is Weights:
            rule = Weights(values(n, *self.size), values(n))
        else:
            rule = Ratio(values(n, *self.size), values(n))
        return dict(rule=rule, partner=partner, size=self.size)


CASES = [
    Case(Top, 5, (24, 35), (7, 5), levels=3),
    Case(Top, 3, (28, 45), (14, 15), shared=True),
    Case(Around, 6, (33, 20), (1, 1)),
    Case(Around, 3, (8, 9), (1, 1), shared=True),
    Case(Squares, 5, (24, 30), (6, 5), levels=2),
    Case(Squares, 2, (64, 64), (4, 4)),
    Case(Stretched, 6, (33, 20), (4, 5), ulps=1),
    Case(Stretched, 2, (16, 16), (1, 3), shared=True, levels=1, ulps=1),
    Case(Grafted, 7, (49, 50), (7, 7), ulps=8),
    Case(Grafted, 3, (16, 28), (14, 14), levels=1, ulps=8),
    Case(Tokens, 5, (33, 32), (3, 8), ulps=8),
    Case(Tokens, 3, (28, 28), (14, 14), shared=True, ulps=8),
    Case(Blocks, 4, (20, 17), (4, 4), levels=2),
    Case(Blocks, 2, (9, 31), (3, 5), shared=True),
    Case(Groups, 5, (33, 20), (3, 5)),
    Case(Attended, 5, (33, 20), (3, 5), ulps=8),
    Case(Weights, 2, (50, 49), (1, 1)),
    Case(Ratio, 3, (50, 49), (1, 1), levels=2),
]
