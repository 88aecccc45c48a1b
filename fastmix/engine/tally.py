"""Tally: what else a step is asked for beside its loss, summed up on the device until the next line of the log."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmix.config import Config
from fastmix.mixers.base import Mixer
from fastmix.targets import Targets

NORM, MIXED = "grad_norm", "mixed"


class Tally(nn.Module):
    """Means over the parts and steps since the last line, each over those that have the value and have it finite.

    loss_NAME   a term of the method's loss, as it is added, of methods that add several (`Mixer.term`)
    grad_norm   global norm of the gradient before it is clipped: where there is a bound, or with log_grad_norm
    mixed       share of the samples whose target holds two images' labels, with log_mixed; of a method that asks its
                criterion more than once for a batch, the largest of these

    sums: float32 [2,N] on the device, sum and count of each, in the order of `names`, which all processes share.
    Adding launches a few kernels for N numbers and does not wait; where nothing is told, none. A module, so that its
    sums are where its task is; no checkpoint holds them, since a line is written before each.
    """

    def __init__(self, cfg: Config, mixer: Mixer, criterion: nn.Module):
        super().__init__()
        mixers = [module for module in mixer.modules() if isinstance(module, Mixer)]
        self.names = sorted({f"loss_{name}" for one in mixers for name in one.terms})
        self.names += [NORM] * bool(cfg.optim.clip or cfg.log_grad_norm) + [MIXED] * cfg.log_mixed
        self.register_buffer("sums", torch.zeros(2, len(self.names)), persistent=False)
        self.told: list[tuple[str, Tensor]] = []
        self.shares: list[Tensor] = []
        for one in mixers:
            one.listener = self._term
        if cfg.log_mixed:
            criterion.register_forward_hook(self._asked)

    def restart(self) -> None:
        """Forgets what was told and not added, before a part."""
        self.told.clear()
        self.shares.clear()

    def add_part(self) -> None:
        """Adds what the part's forward pass has told."""
        mixed = [(MIXED, torch.stack(self.shares).amax())] if self.shares else []
        self.add(self.told + mixed)
        self.restart()

    def add(self, told: list[tuple[str, Tensor]]) -> None:
        """Adds values, float scalars on the device, by name; those of one name are averaged first."""
        if told:
            values = {name: [value.float() for key, value in told if key == name] for name in self.names}
            none = self.sums.new_full((), torch.nan)
            row = torch.stack([sum(some) / len(some) if some else none for some in values.values()])
            self.sums += torch.stack([row.nan_to_num(0.0, 0.0, 0.0), row.isfinite().float()])

    def means(self, sums: list[float]) -> dict[str, float]:
        """Means by name, of those that have been told, from flat sums over all processes."""
        n = len(self.names)
        found = zip(self.names, sums[:n], sums[n:], strict=True)
        return {name: total / count for name, total, count in found if count}

    def _term(self, name: str, value: Tensor) -> None:
        self.told.append((f"loss_{name}", value))

    def _asked(self, criterion: nn.Module, given: tuple[Tensor, Targets], loss: Tensor) -> None:
        weights = given[1].weights
        two = (weights > 0).sum(1) > 1 if weights.shape[1] > 1 else weights.new_zeros(1)
        self.shares.append(two.float().mean())
