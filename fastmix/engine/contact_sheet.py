"""What methods make of images, side by side: image, partner, mask, what the network sees, and each label's weight."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fastmix import distributed, mixers, models
from fastmix.batch import Batch
from fastmix.config import Config
from fastmix.engine import loaders, picture
from fastmix.engine.method import step_rng
from fastmix.engine.task import criterion
from fastmix.kernels.mix import mix
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import Mixer
from fastmix.models import seen, weights
from fastmix.targets import Targets

LEFT, LINE, GAP = 56, 16, 2  # pixels: names of the rows, at the left; a line of text; between two images
LEAST = 96  # pixels that an image is at least wide, by a whole factor, so that its labels can be read
WHITE, GREY = (255, 255, 255), (150, 150, 150)
COLOURS = ((230, 80, 60), (70, 140, 240), (90, 190, 80), (240, 190, 50), (180, 100, 210), (60, 200, 200))


def draw(cfg: Config, names: list[str], across: int = 1, file: Path | None = None, untrained: bool = False):
    """The picture uint8 [H,W,3]: a block for each row `names` of the config's methods, `across` of them side by side.

    file: weights of the model that some methods ask; untrained: they ask one with random weights. Raises ValueError.
    """
    rows = [mixers.build(name, cfg.mixers, cfg.fidelity) for name in names]
    device, cfg = distributed.init(cfg.device), seen.resolved(cfg)
    loader = loaders.training(cfg, device)
    images, labels, _ = next(iter(batches := loader.epoch(0)))
    batches.close()
    model = _asked(cfg, file, untrained, loader, device)
    blocks = []
    for name, mixer in zip(names, rows, strict=True):
        batch = Batch(images, labels, step_rng(cfg.seed, 0, 0), cfg.data.mean, cfg.data.std, torch.float32)
        plan = _decided(name, mixer, model, batch, criterion(cfg), cfg.model.name)
        blocks.append(block(name, batch, plan, loader.class_names))
    wide = [blocks[k : k + across] for k in range(0, len(blocks), across)]
    wide = [np.hstack([_tall(part, max(len(p) for p in parts)) for part in parts]) for parts in wide]
    width = max(part.shape[1] for part in wide)
    return np.vstack([np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0))) for part in wide])


def block(title: str, batch, plan, class_names: list[str]):
    """One method's part of the picture, uint8 [h,w,3]: a line for the title, rows of images, lines of labels.

    Images stand GAP pixels apart, LEFT from the left and LINE from the top. With more than two sources each has its row
    and its colour in the mask; the image itself is white.
    """
    drawn = Plan.plain(len(batch)).to(batch.images.device) if plan is None else plan.to(batch.images.device)
    targets = Targets.of(batch.labels, drawn)
    several = drawn.sources is not None
    shown, others = batch.images.cpu().numpy(), others_of(drawn)
    names = ["image", *(f"source {k + 2}" if several else "partner" for k in range(len(others[0]))), "mask", "mixed"]
    black = np.zeros_like(shown[0])
    partners = [[black if k is None else shown[k] for k in column] for column in zip(*others, strict=True)]
    masks = _masks(provenance(drawn, batch.size), others if several else None)
    mixed = picture.unnormalise(batch.mix(drawn), batch.mean, batch.std)
    tiles = np.concatenate([shown, *map(np.stack, partners), masks, mixed])
    scale = -(-LEAST // batch.size[1])
    tiles = tiles.repeat(scale, 1).repeat(scale, 2)
    tiles = np.pad(tiles, ((0, 0), (0, GAP), (0, GAP), (0, 0)))
    tall, wide = tiles.shape[1:3]

    captions = [caption(i, targets, drawn, others[i], class_names) for i in range(len(batch))]
    height = 2 * LINE + len(names) * tall + LINE * max(map(len, captions))
    canvas = Image.new("RGB", (LEFT + wide * len(batch), height))
    canvas.paste(Image.fromarray(picture.grid(tiles, len(batch))), (LEFT, LINE))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    pen.text((2, 1), title + ("" if plan is not None else ": not mixed"), WHITE, font)
    for row, name in enumerate(names):
        pen.text((2, LINE + row * tall + 2), name, GREY, font)
    for i, lines in enumerate(captions):
        for row, (text, colour) in enumerate(lines):
            while pen.textlength(text, font) > wide - 4:
                text = text[:-1]
            pen.text((LEFT + i * wide + 2, LINE * (1 + row) + len(names) * tall + 1), text, colour, font)
    return np.asarray(canvas)


def provenance(plan, size: tuple[int, int]):
    """How much of image k is in each pixel of sample i, read back from mixed batches. float32 [B,B,H,W], [i,k]

    The pass that trains mixes a batch in which image k is white and the others are black.
    """
    number = torch.arange(len(plan), device=plan.table.device)
    seen = []
    for k in range(len(plan)):
        white = (255 * (number == k)).byte()[:, None, None, None].expand(-1, *size, 3)
        seen.append(mix(white, plan, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))[:, 0])
    return torch.stack(seen, 1)


def _masks(weights, others: list[list[int | None]] | None):
    """Masks uint8 [B,H,W,3] from provenances [B,B,H,W]: the own weight as grey, or each source in its colour."""
    weights = weights.cpu().numpy()
    colours = np.zeros((len(weights), len(weights), 3))
    for i in range(len(weights)):
        for k, colour in zip(others[i] if others else (), cycle(COLOURS), strict=False):
            if k is not None:
                colours[i, k] = colour
        colours[i, i] = WHITE
    return np.rint(np.einsum("ikhw,ikc->ihwc", weights, colours)).clip(0, 255).astype(np.uint8)


def others_of(plan) -> list[list[int | None]]:
    """The other sources of each sample, all lists equally long."""
    if plan.sources is None:
        return [[k] for k in plan.partner.tolist()]
    pairs = zip(plan.sources.tolist(), plan.weights.tolist(), strict=True)
    found = [
        [*dict.fromkeys(k for k, w in zip(sources, weights, strict=True) if w > 0 and k != i)]
        for i, (sources, weights) in enumerate(pairs)
    ]
    most = max(1, *map(len, found))
    return [sources + [None] * (most - len(sources)) for sources in found]


def caption(i: int, targets, plan, others: list, class_names: list[str]) -> list[tuple[str, tuple]]:
    """What sample i is trained on: a line and its colour for each label."""
    labels, weights = targets.labels[i].tolist(), targets.weights[i].tolist()
    if plan.sources is None:
        who, colours = ("own ", "other "), (WHITE, GREY)
    else:
        who = [""] * len(labels)
        colour = {**dict(zip(others, cycle(COLOURS), strict=False)), i: WHITE}
        colours = [colour.get(k, GREY) for k in plan.sources[i].tolist()]
    lines = [(f"{w}{v:.2f} {class_names[k]}", c) for w, v, k, c in zip(who, weights, labels, colours, strict=True)]
    return lines if plan.sources is None else [line for line, v in zip(lines, weights, strict=True) if v > 0]


def _tall(image, height: int):
    return np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)))


class _Nobody:
    """Stands where there is no model: whoever asks it is told what to give."""

    def __init__(self, question: str):
        self.__dict__["question"] = question

    def __getattr__(self, name: str):
        raise ValueError(self.question)

    def __call__(self, *given):
        raise ValueError(self.question)


def _asked(cfg: Config, file: Path | None, untrained: bool, loader, device):
    """The model that some methods ask, with the weights that were given; None: nobody said which ones."""
    if not (file or untrained):
        return None
    model = models.build(cfg.model, loaders.classes(cfg, loader), cfg.seed, device)
    if file:
        found = weights.read(file).sets
        weights.put(found.get("ema", found["raw"]), model, file)
    models.to_size(model, loader.view.size, cfg.model.name)
    return model


def _decided(name: str, mixer, model, batch, criterion, asked: str):
    """The plan of a batch. Raises ValueError for a method without one, or that asks a model that is not given."""
    if type(mixer).plan is Mixer.plan and type(mixer).decide is Mixer.decide:
        raise ValueError(f"{name} has no plan that could be drawn: it mixes inside the network, or with batches before")
    question = (
        f"{name} asks the model: give --weights FILE with weights of {asked} (--model names another), or --untrained"
    )
    return mixer.decide(_Nobody(question) if model is None else model, batch, criterion)
