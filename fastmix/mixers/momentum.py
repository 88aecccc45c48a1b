"""What the AutoMix family shares: a momentum teacher that is asked, a second head for clean images, a mix block."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastmix.batch import Batch
from fastmix.mixers.base import SHARE, WEIGHT, Mixer, is_number, within
from fastmix.mixers.shown import Shown
from fastmix.models.buffers import BufferCopy, follow
from fastmix.models.saliency import evaluated
from fastmix.models.sites import channels, classifier, install, read, rewrite, sites, stops, upto
from fastmix.ranges import Range
from fastmix.targets import Targets

OWN = ("lr", "min_lr", "momentum", "weight_decay")  # what `block` may say


class MomentumMixer(Mixer):
    """A method with a mix block g, whose mask is judged by k, a moving average of the trained network q.

    q is the plain model; its classifier learns from mixed images, a second one ("one-hot", `head`) from clean images,
    on the same features. k (`teacher`) and its own second head (`teacher_head`) follow q and `head` after each step,

        k <- m k + (1 - m) q,    m(t) = m0 for t < start, then m1 - (m1 - m0) (1 + cos(pi t)) / 2,

    t the share of the run that is done: parameters only, in train mode, without gradients of their own.

    site            where k's features are taken, by its name in fastmix/models/sites.py; none: stride 16, "stage3", of
                    a ViT the last block of its first half
    momentum        (m0, m1)
    momentum_start  start; at it m jumps, as published
    early_stop      k's clean pass ends at the site: the same step for less. Its batch-norms behind the site then count
                    mixed images alone, which no step sees; before k is validated it takes q's statistics instead.
                    False: the whole pass, k keeps its own statistics
    block           of the mix block's optimiser group, where it is not the run's own: lr and min_lr (a cosine without
                    warm-up), momentum (of SGD), weight_decay

    Raises ValueError in prepare() for a model without a linear classifier or without the site.
    """

    def __init__(
        self,
        site: str | None,
        momentum: tuple[float, float],
        momentum_start: float,
        early_stop: bool,
        block: dict | None,
    ):
        super().__init__()
        momentum = tuple(momentum) if isinstance(momentum, (list, tuple)) else ()
        if not (len(momentum) == 2 and all(map(is_number, momentum)) and 0 <= momentum[0] <= momentum[1] <= 1):
            raise ValueError(f"{self.name}: momentum must be [first, last] with 0 <= first <= last <= 1")
        self.momentum, self.start = momentum, within(self.name, "momentum_start", momentum_start, SHARE)
        self.site, self.early_stop, self.t = site, early_stop, 0.0
        self.own = own_settings(self.name, block)

    @property
    def name(self) -> str:
        return type(self).__name__

    def mix_block(self, channels: int) -> nn.Module:
        """A new mix block for features of so many channels."""
        raise NotImplementedError

    def prepare(self, model: nn.Module) -> None:
        try:
            classes, features = classifier(model)[0].shape
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}, for which a second one could be trained") from None
        self.site, count = stop(self.name, model, self.site)
        self.early_stop = self.early_stop and stops(model, self.site)
        self.joint = not any(isinstance(module, _BatchNorm) for module in model.modules())
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.head = nn.Linear(features, classes)
        if self.joint:
            nn.init.trunc_normal_(self.head.weight, std=0.02)  # of transformers, and ConvNeXt
        else:
            nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.block = self.mix_block(count)
        install(model)
        install(self.teacher)

    def begin(self, stored: Callable[[], dict[str, dict[str, Tensor]]]) -> list[str]:
        """Average, second classifiers and block of a checkpoint of OpenMixup, each where all of its tensors fit."""
        lines = []
        for part, values in stored().items():
            module = getattr(self, part)
            own = module.state_dict()
            if own.keys() == values.keys() and all(values[name].shape == own[name].shape for name in own):
                module.load_state_dict(values)
                lines.append(f"weights: {self.name}'s {part} as in the file")
            else:
                lines.append(f"weights: {self.name}'s {part} begins anew: that of the file is another")
        return lines

    def features(self, x: Tensor) -> Tensor:
        """k's features of clean images, [B,C,h,w], without a graph."""
        with torch.no_grad():
            if self.early_stop:
                return upto(self.teacher, x, self.site)
            with read(self.teacher, self.site) as reading:
                self.teacher(x)
            return reading.value

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        with evaluated(self), torch.no_grad():
            return self.example(batch)

    def example(self, batch: Batch) -> Shown:
        """q's mixed batch, which is not rescaled to lambda."""
        raise NotImplementedError

    def student(self, model: nn.Module, mixed: list[Tensor], clean: Tensor) -> list[Tensor]:
        """q's logits: of mixed batches by its own classifier, then of the clean one by the second.

        One pass where no statistics of a batch are involved, else one for each: as in the authors' code of the clean
        batch first and of the first mixed one last, since the last counts most in running statistics.
        """
        second = self.head.weight, self.head.bias
        if self.joint:
            with rewrite(model, "classifier", judge, *second, len(clean) * len(mixed)):
                return list(model(torch.cat([*mixed, clean])).chunk(len(mixed) + 1))
        with rewrite(model, "classifier", judge, *second, 0):
            one = model(clean)
        return [*[model(x) for x in reversed(mixed)][::-1], one]

    def param_groups(self) -> list[dict]:
        return [
            {"params": list(self.head.named_parameters())},
            {"params": list(self.block.named_parameters()), **self.own},
        ]

    def companions(self) -> list[nn.Module]:
        return [self.teacher]

    def set_progress(self, t: float) -> None:
        self.t = t

    def after_step(self, model: nn.Module) -> None:
        k = [*self.teacher.parameters(), *self.teacher_head.parameters()]
        q = [*model.parameters(), *self.head.parameters()]
        follow(k, q, 1 - momentum_at(self.t, *self.momentum, self.start))

    def predictors(self, model: nn.Module) -> dict[str, nn.Module]:
        """q with its second head, k with either. What counts is q with its own classifier: the model."""
        if self.early_stop:
            BufferCopy(self.teacher).take(model)
        return {
            "q_one": Second(model, self.head),
            "k_mix": self.teacher,
            "k_one": Second(self.teacher, self.teacher_head),
        }


class Second(nn.Module):
    """A model whose features another classifier judges."""

    def __init__(self, model: nn.Module, head: nn.Linear):
        super().__init__()
        self.model, self.head = model, head

    def forward(self, x: Tensor) -> Tensor:
        with rewrite(self.model, "classifier", judge, self.head.weight, self.head.bias, 0):
            return self.model(x)


def judge(features: Tensor, logits: Tensor, weight: Tensor, bias: Tensor, first: int) -> Tensor:
    """The logits of the samples before `first`; of the others those of another linear classifier."""
    other = F.linear(features[first:], weight, bias)
    return torch.cat([logits[:first], other]) if first else other


def momentum_at(t: float, m0: float, m1: float, start: float) -> float:
    """m(t) of MomentumMixer."""
    return m0 if t < start else m1 - (m1 - m0) * (math.cos(math.pi * t) + 1) / 2


def targets(labels: Tensor, partners: Sequence[Tensor], weights: Sequence[Tensor]) -> Targets:
    """Sample i has the label of image partners[k][i] to the degree weights[k], a scalar that all samples share."""
    shared = torch.stack(tuple(weights)).float().expand(len(labels), -1)
    chosen = torch.stack([labels[partner.long()] for partner in partners], 1)
    if labels.is_floating_point():
        return replace(Targets.of(torch.einsum("bm,bmc->bc", shared, chosen.float())), partner=partners[1])
    return Targets(chosen, shared, partner=partners[1])


def stop(mixer: str, model: nn.Module, site: str | None) -> tuple[str, int]:
    """The site and its channels. Raises ValueError, naming the mixer, for a site that the model does not have."""
    try:
        if site is None:
            blocks = sum(name.startswith("block") for name in sites(model))
            site = f"block{blocks // 2 - 1}" if blocks else "stage3"
        return site, channels(model, site)
    except ValueError as error:
        raise ValueError(f"{mixer}: {error}") from None


def own_settings(mixer: str, block: dict | None) -> dict:
    """Settings of the mix block's optimiser group. Raises ValueError for what it does not know."""
    block = {} if block is None else block
    if not (isinstance(block, dict) and set(block) <= {*OWN}):
        raise ValueError(f"{mixer}: block is {block!r}; it may hold numbers for {', '.join(OWN)}")
    for key, value in block.items():
        within(mixer, f"block.{key}", value, Range(0, 1, below=True) if key == "momentum" else WEIGHT)
    if ("lr" in block) != ("min_lr" in block):
        raise ValueError(f"{mixer}: block is {block!r}; lr and min_lr go together")
    rest = {key: value for key, value in block.items() if key not in ("lr", "min_lr")}
    return rest | ({"own_lr": [block["lr"], block["min_lr"]]} if "lr" in block else {})
