"""Validation: every image once, over all processes."""

from __future__ import annotations

import torch
from torch import nn

from fastmix.dist import total
from fastmix.task import Task


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, loader) -> dict[str, float]:
    """top1 and top5 in percent, loss (cross-entropy) and the number of images, over all processes.

    `model` is evaluated (the task's own or its average); the task says how pixels are normalised and in which
    precision. The loader yields each image exactly once, padded batches carry a mask. One host sync in all.
    """
    training = model.training
    model.eval()
    sums = None
    for images, labels, valid in loader.epoch(0):
        with torch.autocast(images.device.type, task.dtype, enabled=task.dtype != torch.float32):
            logits = model(task.batch(images, labels).mix())
        logits = logits.float()
        top = logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
        loss = nn.functional.cross_entropy(logits, labels, reduction="none")
        scores = torch.stack([top[:, 0].float(), top.any(1).float(), loss, torch.ones_like(loss)])
        sums = (scores * valid).double().sum(1) + (0 if sums is None else sums)
    model.train(training)
    top1, top5, loss, n = total(sums).tolist()
    if n != loader.n and not loader.skipped:
        raise RuntimeError(f"validation counted {n:.0f} images of {loader.n}")
    return {"top1": 100 * top1 / n, "top5": 100 * top5 / n, "loss": loss / n, "images": int(n)}
