"""A picture of a mixed batch: the fastest way to see that a mixer is right."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastmix import files
from fastmix.engine import lettering
from fastmix.engine.method import step_rng
from fastmix.engine.task import Task
from fastmix.mixers.shown import Shown

LEAST = 96  # pixels that an image is at least wide, by a whole factor, so that its labels can be read
MARGIN, GAP, FRAME = 12, 8, 1  # pixels: around the picture, between two images, around an image
SIZE, LINE = 11, 15  # pixels of letters and of a line of them
HEAD = 24  # pixels of the line above all
LABELS = 3  # lines of labels under an image
WHITE, BLACK, DARK, EDGE = (255, 255, 255), (20, 20, 20), (95, 95, 95), (150, 150, 150)


class Label(NamedTuple):
    """One of the labels of an image: its class, its weight, and the image that it is of, where that is one."""

    number: int
    weight: float
    source: int | None = None


def first_batch(task: Task, loader, most: int = 32) -> tuple[np.ndarray | None, str]:
    """The first training images as the mixer changes them, eight in a row, uint8 [H,W,3], each above its labels and
    their weights, and which scripts have no font; or why there is no picture. Raises ValueError for images and methods
    that cannot be trained.

    It has a generator of its own, so that the run's random numbers stay those of a run without it.
    """
    images, labels, _ = next(iter(batches := loader.epoch(0)))
    batches.close()
    batch = task.batch(images, labels, step_rng(task.cfg.seed, 0, 0))
    batch.dtype = torch.float32
    try:
        shown = task.mixer.shown(task.model, batch, task.criterion)
    except ValueError:
        raise
    except Exception as error:  # such as a lack of memory
        return None, missing(error)
    try:
        inside, beside = shown.inside and f"mixed: {shown.inside}", shown.beside and f"beside: {shown.beside}"
        head = "; ".join(filter(None, [task.cfg.mix, inside, beside, shown.note]))
        pixels = unnormalise(shown.images[:most], batch.mean, batch.std)
        found, names = labels_of(shown)[:most], loader.class_names
        told = {names[label.number] for labels in found for label in labels if label.number < len(names)}
        return labelled(pixels, found, names, head), "; ".join(lettering.lacking(sorted(told)))
    except Exception as error:  # of fonts and drawing: no reason to end a run
        return None, missing(error)


def missing(error: Exception) -> str:
    return f"warning: no picture of the first batch ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def labelled(pixels: np.ndarray, labels: list[list[Label]], class_names: list[str], head: str, columns: int = 8):
    """Images uint8 [B,H,W,3] in rows of so many, framed, each above its labels, on a white page. uint8 [h,w,3]"""
    tiles = enlarged(pixels)
    count, height, width, _ = tiles.shape
    columns = min(columns, count)
    down = height + LINE * min(LABELS, max(map(len, labels))) + 2 * GAP
    page = Image.new(
        "RGB", (2 * MARGIN - GAP + columns * (width + GAP), 2 * MARGIN + HEAD + -(-count // columns) * down), WHITE
    )
    pen = ImageDraw.Draw(page)
    line = lettering.fitted(head, page.width - 2 * MARGIN, SIZE + 2, bold=True)
    lettering.write(pen, (MARGIN, MARGIN + SIZE), line, SIZE + 2, BLACK, bold=True)
    for k, tile in enumerate(tiles):
        x, y = MARGIN + k % columns * (width + GAP), MARGIN + HEAD + k // columns * down
        place(page, tile, x, y)
        for row, words in enumerate(lines_of(labels[k], class_names)):
            words = lettering.fitted(words, width, SIZE)
            lettering.write(pen, (x, y + height + LINE * (row + 1) - 2), words, SIZE, BLACK if row == 0 else DARK)
    return np.asarray(page)


def labels_of(shown: Shown) -> list[list[Label]]:
    """The labels that count of each image, in the order of its sources, or the heaviest first where they have none."""
    targets, plan = shown.targets, shown.plan
    labels, weights = targets.labels.tolist(), targets.weights.tolist()
    if shown.sources is not None and shown.sources.shape == targets.labels.shape:
        sources = shown.sources.tolist()
    elif plan is not None and plan.sources is not None:
        sources = plan.sources.tolist()
    elif targets.partner is not None and targets.labels.shape[1] == 2:
        sources = [[i, k] for i, k in enumerate(targets.partner.tolist())]
    elif targets.labels.shape[1] == 1:
        sources = [[i] for i in range(len(labels))]
    else:
        sources = [[None] * len(row) for row in labels]
    found = [[*map(Label, *row)] for row in zip(labels, weights, sources, strict=True)]
    found = [[label for label in row if label.weight > 0 or label.source == i] for i, row in enumerate(found)]
    return [row if row and row[0].source is not None else sorted(row, key=lambda v: -v.weight) for row in found]


def lines_of(labels: list[Label], class_names: list[str], lead: list[str] | None = None) -> list[str]:
    """A line for each label, at most LABELS: its weight and class. lead: what comes before."""
    lines = [f"{label.weight:.2f} {name_of(class_names, label.number)}" for label in labels]
    if lead:
        lines = [f"{letter} {line}" for letter, line in zip(lead, lines, strict=True)]
    if len(lines) > LABELS:
        lines[LABELS - 1 :] = [f"and {len(lines) - LABELS + 1} more"]
    return lines


def name_of(class_names: list[str], number: int) -> str:
    """The name of a class; its number where it has none, or one that no font has letters for."""
    known = number < len(class_names) and lettering.has(class_names[number])
    name = class_names[number] if known else ""
    return f"class {number}" if not name.strip() or name == str(number) else name


def enlarged(tiles: np.ndarray) -> np.ndarray:
    """Images [B,H,W,3] with every pixel as often as makes them LEAST wide."""
    scale = -(-LEAST // tiles.shape[2])
    return tiles.repeat(scale, 1).repeat(scale, 2)


def place(page: Image.Image, tile: np.ndarray, x: int, y: int, colour=EDGE) -> None:
    """Puts an image uint8 [h,w,3] on the page, in a frame around it."""
    height, width = tile.shape[:2]
    ImageDraw.Draw(page).rectangle((x - FRAME, y - FRAME, x + width, y + height), None, colour)
    page.paste(Image.fromarray(tile), (x, y))


def unnormalise(x: Tensor, mean, std) -> np.ndarray:
    """Model input [B,3,H,W] -> uint8 [B,H,W,3]."""
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (mean, std))
    return ((x * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def save(path: Path, image: np.ndarray, colours: int | None = None) -> None:
    """An image uint8 [H,W,3] as a PNG file, whole or not at all; of so many colours, for a third of the bytes."""
    picture = Image.fromarray(image)
    if colours:
        picture = picture.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    with files.whole(path) as part:
        picture.save(part, "PNG", optimize=colours is not None)
