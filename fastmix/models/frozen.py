"""Parts of a model that do not train: their parameters, and their batch-norm statistics."""

from __future__ import annotations

import fnmatch

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastmix import models
from fastmix.models.pretrained import some

BACKBONE = "backbone"
"""As a pattern: everything but the classifier."""


class Frozen:
    """The parameters of a model that patterns name, and the batch-norms that these hold.

    patterns: of whole names (layer1.*), of a part of the name (layer1), or "backbone". No pattern: nothing is frozen.
    stats: "keep" holds all batch-norms, also when the parameters train.
    Raises ValueError for a pattern that names nothing, and where nothing is left to train.
    """

    def __init__(self, model: nn.Module, patterns: list[str], stats: str = "train"):
        head, named = set(models.classifier(model)) if patterns else set(), dict(model.named_parameters())
        for pattern in patterns:
            if not any(_matches(name, pattern, head) for name in named):
                tops = list(dict.fromkeys(name.split(".")[0] for name in named))
                raise ValueError(f"model.freeze: {pattern!r} names no parameter; the model has {', '.join(tops)}")
        chosen = {name for name in named if any(_matches(name, pattern, head) for pattern in patterns)}
        if named and len(chosen) == len(named):
            raise ValueError(f"model.freeze is {patterns}: nothing is left to train")
        self.parameters = [named[name] for name in chosen]
        norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
        self._frozen = [
            name
            for name in norms
            if any(_matches(key, pattern, head) for key in (name, f"{name}.weight") for pattern in patterns)
        ]
        self._kept = norms if stats == "keep" else []
        self.thawed = False
        self.text = f"frozen: {some(sorted(chosen))}, {sum(p.numel() for p in self.parameters):,} parameters"

    @property
    def norms(self) -> list[str]:
        """Names of the batch-norms that keep their statistics now."""
        return self._kept or ([] if self.thawed else self._frozen)

    def set(self, thawed: bool) -> None:
        """Freezes all of them, or lets them train."""
        self.thawed = thawed
        for p in self.parameters:
            p.requires_grad_(thawed)

    def hold(self, model: nn.Module) -> None:
        """Has the frozen batch-norms of the model, or of a copy of it, use and keep their statistics."""
        for name in self.norms:
            model.get_submodule(name).eval()


def _matches(name: str, pattern: str, head: set[str]) -> bool:
    if pattern == BACKBONE:
        return name not in head
    return fnmatch.fnmatch(name, pattern) or pattern in name.split(".") or name.startswith(f"{pattern}.")
