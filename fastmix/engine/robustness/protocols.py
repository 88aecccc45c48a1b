"""What each test asks of a batch, and what it makes of the answers of all images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix.engine.robustness import adversarial, patches
from fastmix.engine.robustness.corruptions import CONSTANTS, CORRUPTIONS, FROST, SEVERITIES, corrupt, frost, like
from fastmix.engine.robustness.draws import Draws
from fastmix.engine.robustness.network import Network, pixels

FGSM = tuple(range(9))  # eps in levels of 255; 0 is the clean image


@dataclass
class Options:
    """How it is measured.

    tests      names of NAMES
    images     so many, drawn by the seed; None: all
    seed       of everything random
    corruptions  names of CORRUPTIONS, or frost, of which `pictures` are (corruptions.frost.read)
    steps, restarts  of PGD; linf, l2: its radii, in levels of 255 and of pixels in [0,1]
    """

    tests: tuple[str, ...] = ("ece", "corruptions", "fgsm", "pgd", "occlusion", "shuffle")
    images: int | None = None
    seed: int = 0
    corruptions: tuple[str, ...] = tuple(CORRUPTIONS)
    pictures: Sequence[Tensor] = ()
    steps: int = 10
    restarts: int = 1
    linf: tuple[float, ...] = (0.5, 1.0, 4.0)
    l2: tuple[float, ...] = (0.25, 0.5)


@dataclass
class Protocol:
    """settings: what stands in the file beside the numbers, which are known where the same stands there. told: of a
    batch, images uint8 [B,S,S,3], labels and rows, to float32 [B,k]. scores: of these for all images, [n,k]. part: what
    of the test it is, where there are others."""

    settings: dict
    told: Callable[[Tensor, Tensor, np.ndarray], Tensor]
    scores: Callable[[np.ndarray], dict]
    part: str = ""


def corruption(name: str, seen: Network, options: Options, size: int) -> Protocol:
    """One of the fifteen: its top1 (percent) at each severity."""
    kind = like(size)
    pictures = frost.scaled(options.pictures, size, CONSTANTS[FROST][kind][0][2]) if name == FROST else ()

    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        each = (corrupt(images, name, severity, rows, options.seed, pictures) for severity in SEVERITIES)
        return torch.stack([seen.hits(x, labels) for x in each], 1).float()

    return Protocol({"constants": kind}, told, lambda hits: {"top1": {name: _percent(hits)}}, name)


def _fgsm(seen: Network, options: Options, size: int) -> Protocol:
    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        changed = adversarial.fgsm(seen, pixels(images), labels, [e / 255 for e in FGSM])
        return torch.cat([adversarial.judged(seen, x, labels) for x in changed], 1)

    return Protocol({"eps_levels": list(FGSM)}, told, _attacked)


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

    ball = {"norm": [norm for norm, *_ in balls], "eps": [eps for _, eps, _ in balls]}
    return Protocol({"steps": options.steps, "restarts": options.restarts} | ball, told, _attacked)


def _attacked(table: np.ndarray) -> dict:
    """top1 (percent) and loss of pairs of columns."""
    return {"top1": _percent(table[:, ::2]), "loss": table[:, 1::2].mean(0, dtype=np.float64).tolist()}


def _percent(hits: np.ndarray) -> list[float]:
    """Of each column the share of ones."""
    return (100 * hits.mean(0, dtype=np.float64)).tolist()


def _occlusion(seen: Network, options: Options, size: int) -> Protocol:
    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        salient, draws = patches.saliency(seen, images), Draws(options.seed, rows, "occlusion", images.device)
        orders = [patches.ranking(kind, salient, draws, patches.grid(size) ** 2) for kind in patches.KINDS]
        each = (patches.dropped(images, order, ratio) for order in orders for ratio in patches.RATIOS)
        return torch.stack([seen.hits(x, labels) for x in each], 1).float()

    def scores(hits: np.ndarray) -> dict:
        each = np.split(hits, len(patches.KINDS), 1)
        return {"top1": dict(zip(patches.KINDS, map(_percent, each), strict=True))}

    return Protocol({"patches_a_side": patches.grid(size), "dropped": list(patches.RATIOS)}, told, scores)


def _shuffle(seen: Network, options: Options, size: int) -> Protocol:
    if not (grids := patches.grids(size)):
        raise ValueError(f"images of {size} pixels have no equal parts in any of {patches.GRIDS}: leave out shuffle")

    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        draws = Draws(options.seed, rows, "shuffle", images.device)
        return torch.stack([seen.hits(patches.shuffled(images, g, draws), labels) for g in grids], 1).float()

    return Protocol({"parts_a_side": grids}, told, lambda hits: {"top1": _percent(hits)})


PROTOCOLS: dict[str, Callable[[Network, Options, int], Protocol]] = {
    "fgsm": _fgsm,
    "pgd": _pgd,
    "occlusion": _occlusion,
    "shuffle": _shuffle,
}
"""The tests of a pass each; so is every corruption, and ece needs nothing but the logits of the clean images."""
NAMES = Options.tests
