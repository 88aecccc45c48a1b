"""A picture of a mixed batch: the fastest way to see that a mixer is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastmix import files
from fastmix.engine.method import step_rng
from fastmix.engine.task import Task


def first_batch(task: Task, loader, most: int = 32) -> np.ndarray:
    """The first training images as the mixer changes them, eight in a row, without labels, uint8 [H,W,3]."""
    images, labels, _ = next(iter(batches := loader.epoch(0)))
    batches.close()
    batch = task.batch(images, labels, step_rng(task.cfg.seed, 0, 0))
    batch.dtype = torch.float32
    x = task.mixer.preview(task.model, batch, task.criterion)[:most]
    return grid(unnormalise(x, batch.mean, batch.std), 8)


def unnormalise(x: Tensor, mean, std) -> np.ndarray:
    """Model input [B,3,H,W] -> uint8 [B,H,W,3]."""
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (mean, std))
    return ((x * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images uint8 [B,H,W,3] side by side, row by row, as one; black where there is none left."""
    n, h, w, _ = images.shape
    rows = -(-n // columns)
    filled = np.zeros((rows * columns, h, w, 3), np.uint8)
    filled[:n] = images
    return filled.reshape(rows, columns, h, w, 3).swapaxes(1, 2).reshape(rows * h, columns * w, 3)


def save(path: Path, image: np.ndarray) -> None:
    """An image uint8 [H,W,3] as a PNG file, whole or not at all."""
    from PIL import Image

    with files.whole(path) as part:
        Image.fromarray(image).save(part, "PNG")
