"""Random maps for batch-norm with ReLU, away from where ReLU bends and gradients cancel: what the tests check."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmix.kernels.norm_act.norm import Norm
from fastmix.kernels.norm_act.reference import reference, table


@dataclass(frozen=True)
class Case:
    """shortcut: none, plain, or normed. cap: ReLU6's, or none."""

    shape: tuple[int, int, int, int]
    shortcut: str = "none"
    training: bool = True
    cap: float = math.inf

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        """Those of `norm_act`. Normed values are 0.6 to 0.8 or 1.2 to 1.4 standard deviations from the mean."""
        made = torch.Generator().manual_seed(seed)
        x, norm, given = self._map(made), self._norm(made), {}
        side = (x - MEAN).sign() * norm.weight.sign()[:, None, None]  # of normed values; a shortcut is on the same
        if self.shortcut == "normed":
            second = self._norm(made)
            given = dict(shortcut=MEAN + side * second.weight.sign()[:, None, None] * (x - MEAN).abs(), second=second)
        elif self.shortcut == "plain":
            given = dict(shortcut=side * torch.rand(self.shape, generator=made))
        given = dict(x=x, norm=norm, cap=self.cap) | given
        return {key: _placed(value, dtype) if isinstance(value, Tensor) else value for key, value in given.items()}

    def _map(self, made: torch.Generator) -> Tensor:
        sign, far = (torch.randint(0, 2, self.shape, generator=made) for _ in range(2))
        return MEAN + 2 * (2 * sign - 1) * (0.6 + 0.6 * far + 0.2 * torch.rand(self.shape, generator=made))

    def _norm(self, made: torch.Generator) -> Norm:
        weight, bias, mean, var = (torch.rand(self.shape[1], generator=made) for _ in range(4))
        weight = (1 + 0.1 * weight) * (1 - 2 * (torch.arange(self.shape[1]) % 3 == 1))
        return Norm(weight, 0.04 * bias - 0.02, MEAN + 0.1 * mean, 4 + var, self.training)


def _placed(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class GradCase:
    """Of a case without running statistics, or with them: the gradient of its first norm."""

    case: Case

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        """Those of `norm_act_grad`."""
        given = self.case.arguments(dtype, seed)
        out = reference(**given)
        grad = 0.97 + 0.06 * torch.rand(out.shape, generator=torch.Generator().manual_seed(seed))
        kept = out if self.case.shortcut != "none" else None
        by = table(given["x"], given["norm"]).float()
        return dict(grad=_placed(grad, dtype), x=given["x"], table=by, out=kept, cap=self.case.cap)


MEAN = 3.0
CASES = [
    Case((4, 64, 7, 5)),
    Case((3, 24, 9, 9), cap=1.0),
    Case((4, 72, 6, 6), "plain"),
    Case((2, 3, 16, 16), "normed"),
    Case((5, 40, 1, 1), training=False),
    Case((2, 96, 33, 31), "plain", training=False),
]
GRAD_CASES = [GradCase(case) for case in CASES if case.shortcut != "normed"]
