"""Random arguments for the mix pass, one plan of each kind: what the tests check and the benchmark measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmix.kernels.erase import Erase, noise
from fastmix.kernels.plan import Plan

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL_MEAN, FILL_STD = (120, 115, 100), (58, 57, 56)


def _partners(rng, n):
    return ((np.arange(n) + rng.integers(n)) % n).astype(np.int32)


def _boxes(rng, n, size):
    for length in size:
        extent = rng.integers(0, length + 1, n)
        start = rng.integers(0, length - extent + 1)
        yield from (start, start + extent)


def _waves(rng, n, size) -> Tensor:
    """A small bank of rank maps with large blobs, int16 [4,H,W]."""
    y, x = (np.arange(length) / length for length in size)
    maps = []
    for _ in range(4):
        fy, fx, phase = rng.uniform(0.5, 2, 3)
        value = np.sin(6 * (fy * y[:, None] + phase)) * np.cos(6 * fx * x) + 0.02 * rng.random(size)
        maps.append(value.ravel().argsort().argsort().reshape(size))
    return torch.from_numpy(np.stack(maps).astype(np.uint16).view(np.int16))


def _fmix(rng, n, size):
    counts = rng.integers(0, size[0] * size[1] + 1, n)
    return Plan.ranks(_partners(rng, n), _waves(rng, n, size), rng.integers(0, 4, n), counts, rng.integers(0, 4, n))


def _fmix_int32(rng, n, size):
    plan = _fmix(rng, n, size)
    plan.bank = plan.bank.int() & 0xFFFF
    return plan


def _grid(rng, n, size):
    lines = [(np.arange(length) + rng.integers(0, 5, (n, 1))) % 5 < 3 for length in size]
    return Plan.profile(_partners(rng, n), *lines)


def _gauss(rng, n, size):
    hills = [np.exp(-((np.arange(length) / length - rng.random((n, 1))) ** 2) / 0.1) for length in size]
    return Plan.profile(_partners(rng, n), *hills)


def _window(rng, n, size):
    y0, y1, x0, x1 = _boxes(rng, n, size)
    scales = (length / np.maximum(b - a, 1) for a, b, length in ((y0, y1, size[0]), (x0, x1, size[1])))
    corner = (rng.integers(-1, 3, n) for _ in size)
    return Plan.window(_partners(rng, n), y0, y1, x0, x1, *corner, *scales, size)


def _puzzle(rng, n, size):
    """Blocks with shuffled sources, as PuzzleMix and Co-Mixup make them."""
    gh, gw = min(4, size[0]), min(7, size[1])
    first, second = rng.integers(0, n * gh * gw, (2, n, gh * gw))
    return Plan.block(_partners(rng, n), first, second, rng.integers(0, 3, (n, gh * gw)) / 2, (gh, gw), size)


def _cells(rng, n, size):
    return Plan.cells(_partners(rng, n), rng.random((n, min(9, size[0]), 7)) < 0.5, size)


def _snap(rng, n, size):
    """Boxes that show stretched windows of the partner, some of a single pixel."""
    box, source = tuple(_boxes(rng, n, size)), list(_boxes(rng, n, size))
    for axis, length in ((0, size[0]), (2, size[1])):
        source[axis] = np.minimum(source[axis], length - 1)
        source[axis + 1] = np.maximum(source[axis + 1], source[axis] + 1)
    return Plan.resized(_partners(rng, n), box, tuple(source), size)


def _soft(rng, n, size):
    return Plan.map(_partners(rng, n), rng.random((n, 4, 5)) ** 2, size)


def _soft_full(rng, n, size):
    return Plan.map(_partners(rng, n), rng.random((n, *size)), size)


def _mixup(rng, n, size):
    return Plan.blend(_partners(rng, n), rng.random(n))


def _cutmix(rng, n, size):
    return Plan.box(_partners(rng, n), *_boxes(rng, n, size), size)


def _half(rng, n, size):
    return Plan.select(np.arange(n) % 2, [_mixup(rng, n, size), _cutmix(rng, n, size)])


def _all(rng, n, size):
    makers = (lambda *_: Plan.plain(n), _mixup, _cutmix, _window, _gauss, _fmix, _puzzle, _grid, _cells, _snap, _soft)
    return Plan.select(rng.permutation(n) % len(makers), [make(rng, n, size) for make in makers])


PLANS: dict[str, Callable] = {
    "plain": lambda rng, n, size: None,
    "mixup": _mixup,
    "cutmix": _cutmix,
    "mixup+cutmix": _half,
    "gridmix": _grid,
    "smoothmix": _gauss,
    "fmix": _fmix,
    "fmix int32": _fmix_int32,
    "resizemix": _window,
    "blocks": _puzzle,
    "cells": _cells,
    "stretched": _snap,
    "map": _soft,
    "map, full size": _soft_full,
    "all kinds": _all,
}


@dataclass(frozen=True)
class Case:
    """Random arguments of `mix`, a function of the seed."""

    plan: str
    n: int
    size: tuple[int, int]
    erase: bool = False
    source: torch.dtype = torch.uint8  # a float type: normalised
    planar: bool = False

    def __str__(self) -> str:
        kind = "" if self.source == torch.uint8 else f" {str(self.source)[6:]}{' planar' * self.planar}"
        return f"{self.plan} {self.n}x{self.size[0]}x{self.size[1]}{' erase' * self.erase}{kind}"

    def arguments(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict:
        """The keyword arguments of one call of `mix` or of its reference."""
        rng = np.random.default_rng(seed)
        images = torch.from_numpy(rng.integers(0, 256, (self.n, *self.size, 3), dtype=np.uint8))
        if self.source != torch.uint8:
            images = ((images / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).to(self.source)
        if self.planar:
            images = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        erase = Erase.draw(rng, self.n, self.size, 0.75, noise(FILL_MEAN, FILL_STD)) if self.erase else None
        plan = PLANS[self.plan](rng, self.n, self.size)
        return dict(images=images, plan=plan, mean=MEAN, std=STD, dtype=dtype, erase=erase)


CASES = [
    Case(plan, 11 if plan == "all kinds" and n > 1 else n, size, erase)
    for plan in PLANS
    for n, size, erase in ((1, (5, 7), False), (3, (12, 16), False), (4, (13, 20), False), (4, (14, 24), True))
]
# More than one program an image, in the interpreter too, of which some are out of a box's reach.
CASES += [Case("resizemix", 2, (150, 160)), Case("mixup+cutmix", 2, (150, 160), True)]
CASES += [
    Case(plan, 11 if plan == "all kinds" else 3, size, source=source, planar=planar)
    for plan in PLANS
    for size, source, planar in (
        ((13, 20), torch.float32, False),
        ((14, 24), torch.float32, True),
        ((9, 16), torch.bfloat16, False),
        ((13, 20), torch.float16, True),
    )
]
