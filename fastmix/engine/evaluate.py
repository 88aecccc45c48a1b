"""Validation: every image once, over all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fastmix.distributed import rank, total
from fastmix.engine.task import Task

TOP = 5


@dataclass
class Predictions:
    """What a model says of every image, in the loader's order of rows; the same on all processes.

    top     int64 [n,k]   the k likeliest classes, the likeliest first; k is 5, or the number of classes
    loss    float64 [n]   cross-entropy
    labels  int64 [n]
    valid   bool [n]      False: a damaged image that was left out
    """

    top: np.ndarray
    loss: np.ndarray
    labels: np.ndarray
    valid: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """Whether each of the likeliest classes is the label, bool [n,k]."""
        return self.top == self.labels[:, None]

    def scores(self) -> dict[str, float]:
        """top1 and top5 in percent, loss and the number of images, of those that are valid."""
        hits, n = self.hits[self.valid], int(self.valid.sum())
        top1, top5 = (100 * int(found.sum()) / n for found in (hits[:, 0], hits.any(1)))
        return {"top1": top1, "top5": top5, "loss": float(self.loss[self.valid].sum() / n), "images": n}


def evaluate(model: nn.Module, task: Task, loader) -> dict[str, float]:
    """`scores` of `predict`."""
    return predict(model, task, loader).scores()


@torch.no_grad()
def logits(model: nn.Module, task: Task, images: Tensor, labels: Tensor, flip: bool = False) -> Tensor:
    """float32 [B,classes] of a loader's batch, images uint8 [B,H,W,3]; flip as in `predict`."""
    x = task.batch(images, labels).mix()
    with torch.autocast(images.device.type, task.dtype, enabled=task.dtype != torch.float32):
        scores = model(x).float()
        return (scores + model(x.flip(3)).float()) / 2 if flip else scores


def predict(model: nn.Module, task: Task, loader, flip: bool = False, bar: bool = False) -> Predictions:
    """Evaluates `model` (the task's own or its average); the task says how pixels are normalised, in which precision.

    flip: the logits are the mean of those of the image and of its mirror image. bar: shows the progress.
    Raises ValueError where no image could be read.
    """

    def told(images: Tensor, labels: Tensor, rows: np.ndarray) -> Tensor:
        scores = logits(model, task, images, labels, flip)
        loss = nn.functional.cross_entropy(scores, labels, reduction="none")
        top = scores.topk(min(TOP, scores.shape[1]), 1).indices
        return torch.column_stack([top.double(), loss])

    training = model.training
    model.eval()
    table, valid = each_once(loader, told, bar)
    model.train(training)
    *top, loss = table.T
    return Predictions(np.stack(top, 1).astype(np.int64), loss, loader.labels, valid)


@torch.no_grad()
def each_once(
    loader, told: Callable[[Tensor, Tensor, np.ndarray], Tensor], bar: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What a function tells of every image, [n,k] of the type that it gives, and which rows were read, bool [n].

    told: of a batch, images uint8 [B,H,W,3], labels int64 [B] and rows int64 [B], to [B,k] on the same device. The
    loader yields each image exactly once, padded batches carry a mask. One host sync in all. The same on all processes.
    Raises ValueError where no image could be read.
    """
    found, rows = [], loader.entries(0)[0]
    shown = None if bar and rank() == 0 else True  # None: on a terminal
    steps = tqdm(loader.epoch(0), total=len(loader), unit="batch", disable=shown, leave=False)
    for (images, labels, valid), mine in zip(steps, rows, strict=True):
        found.append(torch.column_stack([told(images, labels, mine), valid]))
    table = torch.cat(found)
    rows = torch.from_numpy(rows.reshape(-1)).to(table.device)
    table = table.new_zeros(loader.n, table.shape[1]).index_add_(0, rows, table.where(table[:, -1:] > 0, 0))
    table = total(table).cpu().numpy()
    seen = table[:, -1]
    if seen.max() > 1 or (loader.bad == "raise" and seen[loader.rows].min() < 1):
        raise RuntimeError(f"validation counted {seen.sum():.0f} images of {loader.n}")
    if not seen.any():
        raise ValueError(f"{loader.source}: none of its {loader.n} images could be read")
    return table[:, :-1], seen > 0
