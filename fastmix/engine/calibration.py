"""Temperature scaling: one number that makes a trained model's probabilities those of its being right.

p = softmax(z / T) with the T > 0 that minimises the negative log likelihood of labels that training has not seen (Guo,
Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017). It changes no prediction. In 1/T the
likelihood is convex, its slope the mean of E_p[z] - z_label, so halving an interval finds the minimum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from fastmix.engine import loaders, reliability
from fastmix.engine.evaluate import logits
from fastmix.engine.trained import Trained
from fastmix.errors import words
from fastmix.pipelines.loader import Loader
from fastmix.pipelines.sources.resolve import exists, is_packed

COLDEST, HOTTEST = 1e-3, 1e3  # between which T is looked for
PART = 4096  # images at a time in float64


@dataclass
class Calibration:
    """A fitted temperature; nll (nats) and ece (a share) before and after it, of the images that it was fitted on."""

    temperature: float
    images: int
    nll: tuple[float, float]
    ece: tuple[float, float]


def calibrate(trained: Trained, source: str | None = None) -> tuple[Calibration, str]:
    """The temperature for a model, and the labelled images that tell it: the run's validation data, or `source`.

    Raises ValueError where there are none, where they have other classes, or where no temperature fits.
    """
    loader = labelled(trained, source)
    try:
        return fit(*_logits(trained, loader)), loader.source
    except ValueError as error:
        raise ValueError(f"{loader.source}: {error}") from None


def labelled(trained: Trained, source: str | None) -> Loader:
    """The run's validation data, or those of another source, as the model sees them. Raises ValueError."""
    cfg = trained.cfg
    if source is not None:
        if not exists(source):
            raise ValueError(f"--temperature-on {source}: no such folder, list or .beton file")
        kind = "beton" if is_packed(source) else "folder"
        cfg = replace(cfg, data=replace(cfg.data, val=source, loader=kind, split=0.0, bad="skip"))
    elif not (cfg.data.train or cfg.data.val):
        raise ValueError(f"{trained.where}: no run beside it names validation data; give --temperature-on SOURCE")
    try:
        loader = loaders.validation(cfg, trained.device)
    except (OSError, ValueError) as error:
        if source is not None:
            raise
        raise ValueError(
            f"{trained.where}: no validation data ({words(error)}); give --temperature-on SOURCE"
        ) from None
    loaders.classes(cfg, loader)
    named = loader.class_names != [str(k) for k in range(loader.classes)]
    if named and loader.class_names != trained.info.classes:
        raise ValueError(f"{loader.source} does not have the classes of {trained.where}, in their order")
    return loader


@torch.inference_mode()
def _logits(trained: Trained, loader: Loader) -> tuple[Tensor, Tensor]:
    """float32 [n,classes] and labels int64 [n] of a loader's images, without those that could not be read."""
    found = []
    for images, labels, valid in tqdm(loader.epoch(0), total=len(loader), unit="batch", disable=None, leave=False):
        found.append((logits(trained.model, trained.task, images, labels)[valid], labels[valid]))
    return tuple(torch.cat(column).cpu() for column in zip(*found, strict=True))


def fit(z: Tensor, labels: Tensor) -> Calibration:
    """The temperature of logits [n,classes] and labels int64 [n]. Raises ValueError where the likelihood has no
    minimum: all labels have the highest logit, or logits tell less of them than nothing.
    """
    if not len(labels):
        raise ValueError("none of its images could be read")
    if _slope(z, labels, 1 / COLDEST) <= 0:
        raise ValueError("the model is right in all images, so that no temperature can be fitted to its mistakes")
    if _slope(z, labels, 1 / HOTTEST) >= 0:
        raise ValueError("the model knows nothing of these labels; are the classes the same?")
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):  # the interval's logarithm is halved to less than a rounding
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _slope(z, labels, middle) > 0 else (middle, high)
    t = 1 / middle
    return Calibration(t, len(labels), (nll(z, labels), nll(z, labels, t)), (ece(z, labels), ece(z, labels, t)))


def nll(z: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Mean negative log likelihood of the labels, in nats."""
    parts = zip(z.split(PART), labels.split(PART), strict=True)
    losses = (torch.nn.functional.cross_entropy(x.double() / temperature, y, reduction="sum") for x, y in parts)
    return float(sum(losses)) / len(labels)


def ece(z: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Expected calibration error (reliability.expected) of the likeliest classes."""
    return reliability.expected(*confidence(z, labels, temperature))


def confidence(z: Tensor, labels: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The highest probability of each image, float64 [n], and whether its class is the label, bool [n]."""
    best = [(x.double() / temperature).softmax(1).max(1) for x in z.split(PART)]
    sure, top = (torch.cat(column) for column in zip(*best, strict=True))
    return sure, top == labels


def _slope(z: Tensor, labels: Tensor, beta: float) -> float:
    """Of the mean negative log likelihood by beta = 1/T: the mean of E_p[z] - z_label."""
    total = 0.0
    for x, y in zip(z.split(PART), labels.split(PART), strict=True):
        x = x.double()
        total += float(((beta * x).softmax(1) * x).sum() - x.gather(1, y[:, None]).sum())
    return total / len(labels)
