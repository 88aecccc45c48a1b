"""RecursiveMix: the mixed batch of the step before, made small and pasted, with its labels and its predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.kernels.host_to_device import send
from fastmix.mixers.base import WEIGHT, Mixer, check, positive, within
from fastmix.mixers.cutmix import clipped_box
from fastmix.mixers.shown import Shown
from fastmix.models.clean_pass import patches
from fastmix.models.sites import as_map, classifier, install, read
from fastmix.targets import Targets

MODES = ("nearest", "bilinear")
HISTORY = ("images", "labels", "predictions")


class RecursiveMix(Mixer):
    """out = h, shrunk, inside a box, x outside, where h is what `out` was one step before. With s the share of the
    box,

        label Y = (1 - s) y + s Y_h,    loss = CE(z, Y) + omega * s * KL(p_h || softmax(V r)),

    Y_h and p_h the mixed label and the prediction of h, without a gradient; r the mean over the box of the last feature
    map, as RoI-Align takes it; V a second linear classifier, for boxes. CE is the criterion. A label may hold any
    number of classes, so it is dense; each counts less from step to step.
    Yang, Li, Zhao, Song, Yang, "RecursiveMix: Mixed Learning with History", NeurIPS 2022.

    alpha  the largest share of the history
    omega  of the consistency: 0.1, the authors' for CIFAR; theirs for ImageNet is 0.5
    mode   how the history is resized: nearest, the authors' default, or bilinear (corners on corners)

    The box is as CutMix's: sides H sqrt(S) and W sqrt(S), S ~ U(0, alpha), around a uniform pixel, clipped; one for a
    pass. Sample i of a step meets sample i modulo n of the n of the step before, all accumulated parts of this process
    counted through; their size may be another. The first step has no history and is not mixed. Checkpoints hold the
    history, of each process its own: in each a batch of images in the run's precision. Resumed by more or fewer
    processes, a run goes on with the mean of theirs.

    Cost: an ordinary step; beside it a batch is kept and copied once, and a part of it resized.
    Departs from the authors' code: the history goes on over epochs, where that code begins each without one; KL instead
    of the cross-entropy with p_h, whose gradient it has; the box's place on the map by each axis, not by the width for
    both. For ConvNeXt r is normalised, as the features that its classifier is given.
    """

    terms = "mixed", "consistency"
    drawn = "share"
    looks_back = True

    def __init__(self, alpha: float = 0.5, omega: float = 0.1, mode: str = "nearest"):
        super().__init__()
        self.alpha, self.omega = positive(self.name, "alpha", alpha, most=1), within(self.name, "omega", omega, WEIGHT)
        check(self.name, "mode", mode, MODES)
        self.mode = mode
        for part in HISTORY:  # [n,3,H,W] as the model saw them, [n,classes] and [n,classes]; at first of nothing
            self.register_buffer(part, torch.empty(0))
        self.passed: list[tuple[Tensor, ...]] = []  # the same of this step's parts until now

    @property
    def name(self) -> str:
        return type(self).__name__

    def prepare(self, model: nn.Module) -> None:
        try:
            weight, _ = classifier(model)
            install(model)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}, beside which one for boxes could be trained") from None
        self.head = nn.Linear(weight.shape[1], len(weight), device=weight.device)

    def param_groups(self) -> list[dict]:
        return [{"params": list(self.head.named_parameters())}]

    def box(self, batch: Batch) -> tuple[int, int, int, int]:
        """Where the history goes: y0, y1, x0, x1, half open; empty where there is none."""
        ratio = np.sqrt(batch.rng.uniform(0, self.alpha, 1))
        edges = clipped_box(batch.rng, *((length * ratio).astype(int) for length in batch.size), batch.size)
        return tuple(int(edge[0]) for edge in edges) if len(self.images) else (0, 0, 0, 0)

    def met(self, batch: Batch) -> Tensor:
        """Which of the history each sample meets, int64 [B]."""
        first = sum(len(images) for images, *_ in self.passed)
        return torch.arange(first, first + len(batch), device=batch.images.device) % max(len(self.images), 1)

    def mixed(self, batch: Batch, box: tuple[int, int, int, int]) -> Tensor:
        """The model's input [B,3,H,W], in memory that no later pass writes into."""
        y0, y1, x0, x1 = box
        x = replace(batch, buffers=None).mix()
        if y0 < y1 and x0 < x1:
            corners = None if self.mode == "nearest" else True
            small = F.interpolate(self.images, (y1 - y0, x1 - x0), mode=self.mode, align_corners=corners)
            x[:, :, y0:y1, x0:x1] = small[self.met(batch)]
        return x

    def shown(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Shown:
        y0, y1, x0, x1 = box = self.box(batch)
        x, targets = self.mixed(batch, box), Targets.of(batch.labels)
        if not len(self.images):
            return Shown(x, targets, note="the first step, which has none before it")
        met, classes = self.met(batch), self.labels.shape[1]
        own = torch.arange(len(batch), device=met.device)
        inside = torch.zeros(batch.size, device=met.device)
        inside[y0:y1, x0:x1] = 1
        labels = torch.lerp(targets.dense(classes), self.labels[met], share(box, batch.size))
        every = torch.arange(classes, device=met.device).expand(len(batch), -1)
        shares = torch.stack([1 - inside, inside]).expand(len(batch), -1, -1, -1)
        targets = Targets(every, labels, partner=len(batch) + met)
        return Shown(x, targets, sources=torch.stack([own, len(batch) + met], 1), shares=shares)

    def forward(self, model: nn.Module, batch: Batch, criterion: nn.Module) -> Tensor:
        box, met = self.box(batch), self.met(batch)
        part = share(box, batch.size)
        x = self.mixed(batch, box)
        with read(model, "features", graph=True) as features:
            logits = model(x)
        classes = logits.shape[1]
        labels, predictions = Targets.of(batch.labels).dense(classes), logits.detach().float().softmax(1)
        past = predictions
        if len(self.images):
            labels, past = torch.lerp(labels, self.labels[met], part), self.predictions[met]
        self.passed.append((x, labels, predictions))
        grid = patches(model, batch.size) if features.seen[1].ndim == 3 else None  # of tokens
        last = as_map(model, *features.seen, grid)
        inside = self.head(region(model, last, box, batch.size)).float().log_softmax(1)
        every = torch.arange(classes, device=x.device).expand(len(x), -1)
        consistency = F.kl_div(inside, past, reduction="batchmean")
        mixed = self.term("mixed", criterion(logits, Targets(every, labels)))
        return mixed + self.term("consistency", self.omega * part * consistency)

    @property
    def uncaptured(self) -> str:
        return "pastes a box of another size in each step, of a history that does not stay where it is"

    def set_progress(self, t: float) -> None:
        self.passed = []

    def after_step(self, model: nn.Module) -> None:
        if self.passed:  # a choice may have drawn another method
            for part, values in zip(HISTORY, zip(*self.passed, strict=True), strict=True):
                setattr(self, part, torch.cat(values))
            self.passed = []

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest) -> None:
        """A history of any size fits, if it is one for this many classes."""
        found = {part: state_dict[prefix + part] for part in HISTORY if prefix + part in state_dict}
        if len(found) == len(HISTORY) and is_history(*found.values(), self.head.out_features):
            for part, value in found.items():
                setattr(self, part, torch.empty_like(value, device=getattr(self, part).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def is_history(images: Tensor, labels: Tensor, predictions: Tensor, classes: int) -> bool:
    """Whether these, of a file, can be the history of a run."""
    if not all(isinstance(value, Tensor) and value.is_floating_point() for value in (images, labels, predictions)):
        return False
    if images.shape == labels.shape == predictions.shape == (0,):
        return True
    fits = images.ndim == 4 and images.shape[1] == 3 and images.numel() > 0
    return fits and labels.shape == predictions.shape == (len(images), classes)


def share(box: tuple[int, int, int, int], size: tuple[int, int]) -> float:
    """The share of a box (y0, y1, x0, x1) in an image of `size`."""
    y0, y1, x0, x1 = box
    return (y1 - y0) * (x1 - x0) / (size[0] * size[1])


def region(model: nn.Module, features: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """What a classifier is given of a box (y0, y1, x0, x1) of images of `size`: [B,C] from their map [B,C,h,w]."""
    weights = np.outer(*(along(*box[2 * k : 2 * k + 2], size[k], features.shape[2 + k]) for k in (0, 1)))
    mean = (features * send(weights.astype(np.float32), features.device)).sum((2, 3))
    norm = getattr(getattr(model, "head", None), "norm", None)
    return mean if norm is None else norm(mean[:, :, None, None]).flatten(1)


def along(first: int, last: int, length: int, cells: int) -> np.ndarray:
    """How much each cell of a map counts in the mean from pixel `first` to `last` of `length`. float64 [cells]

    RoI-Align's samples, as many as the part has cells, rounded up, each between the two cells whose centres are next to
    it (He et al., "Mask R-CNN", ICCV 2017, without rounding, half a cell shifted: `aligned`). No pixel: zeros.
    """
    start, extent = first * cells / length - 0.5, (last - first) * cells / length
    count = int(np.ceil(extent))
    places = (start + (np.arange(count) + 0.5) * extent / max(count, 1)).clip(0, cells - 1)
    lower = places.astype(int)
    upper, rest = np.minimum(lower + 1, cells - 1), places - lower
    return (np.bincount(lower, 1 - rest, cells) + np.bincount(upper, rest, cells)) / max(count, 1)
