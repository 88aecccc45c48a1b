"""What a trained model says of images without labels: the likeliest classes of each, or why it could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from tqdm import tqdm

from fastmix import kernels
from fastmix.engine.evaluate import logits
from fastmix.engine.trained import Trained
from fastmix.models.info import Info
from fastmix.pipelines.unlabelled import Files, Packed, unlabelled
from fastmix.pipelines.view import View


class Row(NamedTuple):
    """An image and what it shows.

    path    as it was named; row: of a packed file, else None
    top     (class, probability) of the likeliest classes, the likeliest first; empty where it could not be read
    reason  why it could not be read, else empty
    """

    path: str
    row: int | None
    top: list[tuple[str, float]]
    reason: str


def view(info: Info) -> View:
    """How a model sees an image: as in validation, decoded exactly."""
    return View(info.size, "centre", resize=info.resize, interpolation=info.interpolation)


def opened(
    trained: Trained, parts: list[list[str] | str], batch: int, workers: int | None = None
) -> list[Files | Packed]:
    """The loaders of what sources.named lists. Raises ValueError or OSError for a packed file that cannot be opened."""
    kernels.check(trained.device)
    options = {"view": view(trained.info), "workers": workers, "device": trained.device}
    return [unlabelled(part, batch, **options) for part in parts]


@torch.inference_mode()
def predict(trained: Trained, loaders: list[Files | Packed], top: int, temperature: float) -> Iterator[list[Row]]:
    """Rows in the order of the images, a batch at a time; shows the progress on a terminal.

    top: classes of a row, or as many as there are. temperature: the logits are divided by it before the softmax.
    """
    names = trained.info.classes
    with tqdm(total=sum(loader.n for loader in loaders), unit="image", disable=None, leave=False) as bar:
        for loader in loaders:
            for (images, labels, valid), entries, real in zip(loader.epoch(0), *loader.entries(0), strict=True):
                scores = logits(trained.model, trained.task, images, labels).double() / temperature
                found = scores.softmax(1).topk(min(top, len(names)), 1)
                columns = (valid.tolist(), found.values.tolist(), found.indices.tolist())
                rows = []  # the invalid places that fill up the last batch are at its end
                for row, seen, shares, classes in zip(entries[real].tolist(), *columns, strict=False):
                    best = [(names[k], share) for k, share in zip(classes, shares, strict=True)] if seen else []
                    rows.append(Row(*loader.name(row), best, "" if seen else loader.reasons[row]))
                yield rows
                bar.update(len(rows))
