"""Where a trained network looks: images, or mixed pairs, and over each the map of every label, as one picture."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastmix import mixers
from fastmix.batch import Batch
from fastmix.engine import lettering, picture, prediction
from fastmix.engine.method import step_rng
from fastmix.engine.task import criterion
from fastmix.engine.trained import Trained
from fastmix.mixers.base import Mixer
from fastmix.models.attribution import by_attention, grad_cam, rollout

MOST = 64  # images of a page
LEAST = 160  # pixels that a tile is at least wide
LINE, SIZE, BELOW, GAP = 16, 12, 4, 2  # pixels: a line of text, its letters, and below their feet; between two tiles
HEAT = ((0, 0, 0), (90, 0, 110), (230, 60, 40), (255, 200, 0), (255, 255, 220))  # from nothing to all


def opened(trained: Trained, parts: list[list[str] | str]) -> tuple[Tensor, list[str]]:
    """The images uint8 [B,S,S,3] that sources.named lists, as in validation, and their names.

    Raises ValueError where one cannot be read, or where there are too many for a page.
    """
    loaders = prediction.opened(trained, parts, 8)
    if (count := sum(loader.n for loader in loaders)) > MOST:
        raise ValueError(f"{count} images are too many for a page; name at most {MOST}")
    found, names = [], []
    for loader in loaders:
        for (images, _, valid), entries in zip(loader.epoch(0), loader.entries(0)[0], strict=True):
            for image, row, seen in zip(images, entries.tolist(), valid.tolist(), strict=True):
                if seen:
                    path, inside = loader.name(row)
                    found.append(image.clone())
                    names.append(path if inside is None else f"{path} {inside}")
        for row, reason in loader.reasons.items():
            raise ValueError(f"{loader.name(row)[0]}: {reason}")
    return torch.stack(found), names


def draw(trained: Trained, images: Tensor, names: list[str], mix: str = "", seed: int = 0) -> np.ndarray:
    """The picture uint8 [H,W,3]: a column an image or, with a method `mix`, a mixed pair; the image and its maps.

    Of one image the class is the likeliest; of a pair the two likeliest classes of its images alone. Attention has one
    map for all classes. Raises ValueError for a method that mixes other than two images, and for one image to mix.
    """
    cfg, model = trained.cfg, trained.model
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    batch = Batch(images, labels, step_rng(seed, 0, 0), cfg.data.mean, cfg.data.std, torch.float32)
    x = batch.mix()
    with torch.no_grad():
        shares = model(x).softmax(1)
    batch.labels = shares.argmax(1)
    classes, partners = batch.labels[:, None], None
    if mix:
        plan = _pairs(trained, mix, batch)
        x, partners = batch.mix(plan), plan.partner.long()
        classes = torch.stack([batch.labels, batch.labels[partners]], 1)
        with torch.no_grad():
            shares = model(x).softmax(1)
    if by_attention(model):
        maps = rollout(model, x)[None]
    else:
        maps = torch.stack([grad_cam(model, x, column) for column in classes.T])
    shown = picture.unnormalise(x, cfg.data.mean, cfg.data.std)
    tiles = [shown, *(heat(shown, part.cpu().numpy()) for part in maps)]
    lines = []
    for k, mine in enumerate(classes.tolist()):
        who = [k] if partners is None else [k, int(partners[k])]
        said = [(names[i].rpartition("/")[2], f"{100 * shares[k, c]:.0f} % {trained.info.classes[c]}")
                for i, c in zip(who, mine, strict=True)]  # fmt: skip
        lines.append([word for both in said for word in both])
    return _page(tiles, lines)


def heat(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Images uint8 [B,H,W,3] darkened, and over them maps [B,H,W] from 0 to 1 in colours."""
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(maps, stops, channel) for channel in zip(*HEAT, strict=True)], 3)
    return np.rint(0.45 * images + 0.55 * colours).astype(np.uint8)


def _pairs(trained: Trained, name: str, batch: Batch):
    """The method's plan of the batch, on its device."""
    if len(batch) < 2:
        raise ValueError("one image cannot be mixed: name two or more")
    rows = {row: {} for row in mixers.MIXERS} | trained.cfg.mixers
    mixer = mixers.build(name, rows, trained.cfg.fidelity)
    without = type(mixer).plan is Mixer.plan and type(mixer).decide is Mixer.decide
    plan = None if without else mixer.decide(trained.model, batch, criterion(trained.cfg))
    if plan is None or plan.sources is not None:
        raise ValueError(f"{name} does not mix two images into one; cutmix and mixup do")
    return plan.to(batch.images.device)


def _page(tiles: list[np.ndarray], lines: list[list[str]]) -> np.ndarray:
    """Rows of tiles uint8 [B,H,W,3], enlarged by a whole factor, and under each column its lines."""
    scale = -(-LEAST // tiles[0].shape[2])
    rows = [np.pad(part.repeat(scale, 1).repeat(scale, 2), ((0, 0), (0, GAP), (0, GAP), (0, 0))) for part in tiles]
    pictures = np.concatenate([np.concatenate([*row], 1) for row in rows])
    wide = rows[0].shape[2]
    canvas = Image.new("RGB", (pictures.shape[1], pictures.shape[0] + LINE * max(map(len, lines))))
    canvas.paste(Image.fromarray(pictures))
    pen = ImageDraw.Draw(canvas)
    for column, words in enumerate(lines):
        for row, text in enumerate(words):
            place = column * wide + 2, pictures.shape[0] + (row + 1) * LINE - BELOW
            lettering.write(pen, place, lettering.fitted(text, wide - 4, SIZE), SIZE, (255, 255, 255))
    return np.asarray(canvas)
