"""A contact sheet: what methods make of the same images, as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fastmix import distributed
from fastmix.batch import Batch
from fastmix.config import Config, Model
from fastmix.engine import asked, loaders, mixtures
from fastmix.engine.method import step_rng
from fastmix.engine.page import page
from fastmix.engine.task import criterion
from fastmix.models import seen


@dataclass
class Sheet:
    """image uint8 [H,W,3]; reasons: of the methods that are not drawn, by name; class_names: of the images."""

    image: np.ndarray
    reasons: dict[str, str]
    class_names: list[str]


def draw(
    cfg: Config, names: list[str], lams: list[float], drawn: int, models: list[str], files: list[Path],
    untrained: bool, across: int = 1, tile: int | None = None, title: str = "",
) -> Sheet:  # fmt: skip
    """The sheet of the rows `names` of the config's methods, a block each, of the first `drawn` images of a batch.

    lams: a column each; models, files, untrained: whom methods ask (asked.networks); across: blocks side by side; tile:
    pixels that an image is wide. The batch of the step before holds the next images, or, where there are none, the
    first ones of the next epoch. Raises ValueError for a mistake, and where no method can be drawn.
    """
    device, cfg = distributed.init(cfg.device), seen.resolved(cfg)
    loader = loaders.training(cfg, device)
    count = loaders.classes(cfg, loader)
    named = [Model(name) for name in models] or [cfg.model]
    networks = asked.networks(named, files, untrained, cfg.seed, count, loader.view.size, device)
    batch, before = (_batch(cfg, given) for given in _batches(loader))
    scene = mixtures.Scene(batch, before, criterion(cfg), cfg.seed, loader.classes, lams, drawn, untrained)
    blocks = [mixtures.block(name, cfg.mixers, cfg.fidelity, networks, scene) for name in names]
    reasons = {block.name: block.reason for block in blocks if block.reason}
    if len(reasons) == len(blocks):
        raise ValueError("; ".join(dict.fromkeys(reasons.values())))
    images = torch.cat([batch.images, before.images]).cpu().numpy()
    labels = torch.cat([batch.labels, before.labels]).tolist()
    image = page(blocks, images, labels, loader.class_names, across, tile, title, len(batch))
    used = {loader.class_names[k] for k in labels if k < len(loader.class_names)}
    return Sheet(image, reasons, sorted(used))


def _batches(loader) -> list[tuple]:
    """Images and labels of two batches."""
    found = []
    for epoch in range(2):
        for images, labels, _ in (given := loader.epoch(epoch)):
            found.append((images.clone(), labels.clone()))
            if len(found) == 2:
                break
        given.close()
        if len(found) == 2:
            break
    return found


def _batch(cfg: Config, given: tuple) -> Batch:
    return Batch(*given, step_rng(cfg.seed, 0, 0), cfg.data.mean, cfg.data.std, torch.float32)
