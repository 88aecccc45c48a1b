"""What each test asks of a batch, and what it makes of the answers of all images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix.engine.robustness import adversarial, corruption_error, patches
from fastmix.engine.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt, like
from fastmix.engine.robustness.draws import Draws
from fastmix.engine.robustness.network import Network, pixels

IMAGENET = 1000  # classes, without which AlexNet's errors are no measure
FGSM = tuple(range(9))  # eps in levels of 255; 0 is the clean image


@dataclass
class Options:
    """How it is measured.

    tests      names of NAMES
    images     so many, drawn by the seed; None: all
    seed       of everything random
    corruptions  names of CORRUPTIONS
    steps, restarts  of PGD; linf, l2: its radii, in levels of 255 and of pixels in [0,1]
    """

    tests: tuple[str, ...] = ("ece", "corruptions", "fgsm", "pgd", "occlusion", "shuffle")
    images: int | None = None
    seed: int = 0
    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    steps: int = 10
    restarts: int = 1
    linf: tuple[float, ...] = (0.5, 1.0, 4.0)
    l2: tuple[float, ...] = (0.25, 0.5)


@dataclass
class Protocol:
    """told: of a batch, images uint8 [B,S,S,3], labels and rows, to float32 [B,k]; scores: of these for all images,
    [n,k], and labels, int64 [n]."""

    told: Callable[[Tensor, Tensor, np.ndarray], Tensor]
    scores: Callable[[np.ndarray, np.ndarray], dict]


def _corruptions(seen: Network, options: Options, size: int) -> Protocol:
    names = options.corruptions

    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        each = ((name, severity) for name in names for severity in SEVERITIES)
        hits = [seen.hits(corrupt(images, *one, rows, options.seed), labels) for one in each]
        return torch.stack(hits, 1).float()

    def scores(hits: np.ndarray, labels: np.ndarray) -> dict:
        top1 = 100 * hits.mean(0, dtype=np.float64).reshape(len(names), -1)
        whole = like(size) == "imagenet" and seen.classes == IMAGENET
        return {"constants": like(size)} | corruption_error.summary(dict(zip(names, top1.tolist(), strict=True)), whole)

    return Protocol(told, scores)


def _fgsm(seen: Network, options: Options, size: int) -> Protocol:
    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        changed = adversarial.fgsm(seen, pixels(images), labels, [e / 255 for e in FGSM])
        return torch.cat([adversarial.judged(seen, x, labels) for x in changed], 1)

    return Protocol(told, lambda table, labels: {"eps_levels": list(FGSM)} | _attacked(table))


def _pgd(seen: Network, options: Options, size: int) -> Protocol:
    balls = [("linf", eps, eps / 255) for eps in options.linf] + [("l2", eps, eps) for eps in options.l2]

    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        x, columns = pixels(images), []
        for norm, _, eps in balls:
            tries = []
            for k in range(options.restarts):
                start = Draws(options.seed, rows, f"pgd {norm} {eps} {k}", x.device)
                y = adversarial.pgd(seen, x, labels, norm, eps, options.steps, start)
                tries.append(adversarial.judged(seen, y, labels))
            hits, loss = torch.stack(tries).unbind(-1)
            columns += [hits.amin(0), loss.amax(0)]  # an image is right if no start misleads it
        return torch.stack(columns, 1)

    def scores(table: np.ndarray, labels: np.ndarray) -> dict:
        told = {"steps": options.steps, "restarts": options.restarts}
        return told | {"norm": [norm for norm, *_ in balls], "eps": [eps for _, eps, _ in balls]} | _attacked(table)

    return Protocol(told, scores)


def _attacked(table: np.ndarray) -> dict:
    """top1 (percent) and loss of pairs of columns."""
    means = table.mean(0, dtype=np.float64)
    return {"top1": (100 * means[::2]).tolist(), "loss": means[1::2].tolist()}


def _occlusion(seen: Network, options: Options, size: int) -> Protocol:
    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        salient, draws = patches.saliency(seen, images), Draws(options.seed, rows, "occlusion", images.device)
        orders = [patches.ranking(kind, salient, draws, patches.grid(size) ** 2) for kind in patches.KINDS]
        each = (patches.dropped(images, order, ratio) for order in orders for ratio in patches.RATIOS)
        return torch.stack([seen.hits(x, labels) for x in each], 1).float()

    def scores(hits: np.ndarray, labels: np.ndarray) -> dict:
        top1 = 100 * hits.mean(0, dtype=np.float64).reshape(len(patches.KINDS), -1)
        told = {"patches_a_side": patches.grid(size), "dropped": list(patches.RATIOS)}
        return told | {"top1": dict(zip(patches.KINDS, top1.tolist(), strict=True))}

    return Protocol(told, scores)


def _shuffle(seen: Network, options: Options, size: int) -> Protocol:
    if not (grids := patches.grids(size)):
        raise ValueError(f"images of {size} pixels have no equal parts in any of {patches.GRIDS}: leave out shuffle")

    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        draws = Draws(options.seed, rows, "shuffle", images.device)
        return torch.stack([seen.hits(patches.shuffled(images, g, draws), labels) for g in grids], 1).float()

    def scores(hits: np.ndarray, labels: np.ndarray) -> dict:
        return {"parts_a_side": grids, "top1": (100 * hits.mean(0, dtype=np.float64)).tolist()}

    return Protocol(told, scores)


PROTOCOLS: dict[str, Callable[[Network, Options, int], Protocol]] = {
    "corruptions": _corruptions,
    "fgsm": _fgsm,
    "pgd": _pgd,
    "occlusion": _occlusion,
    "shuffle": _shuffle,
}
"""All tests but ece, which needs nothing but the logits of the clean images."""
NAMES = Options.tests
