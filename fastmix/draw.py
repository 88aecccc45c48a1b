"""python -m fastmix.draw [CONFIG] IMAGES [key=value ...] --mix NAME ...: what methods make of images, as one PNG.

A block a method, a column a sample: the image, its partner, the mask (white where the image itself is seen), what the
network is given, and how much each label counts. IMAGES is a .beton file, a folder or shapes:train.
"""

from __future__ import annotations

import argparse
import sys
from itertools import cycle
from pathlib import Path

from fastmix import cli, config

LEFT, LINE, GAP = 56, 16, 2  # pixels: names of the rows, at the left; a line of text; between two images
LEAST = 96  # pixels that an image is at least wide, by a whole factor, so that its labels can be read
WHITE, GREY = (255, 255, 255), (150, 150, 150)
COLOURS = ((230, 80, 60), (70, 140, 240), (90, 190, 80), (240, 190, 50), (180, 100, 210), (60, 200, 200))


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.draw", description="Draw images as training methods mix them.")
    parser.add_argument("words", nargs="+", metavar="[CONFIG] IMAGES key=value", help="a config, if wanted, whose "
                        "hyper-parameters hold; the images; settings such as mixers.cutmix.alpha=1")  # fmt: skip
    parser.add_argument("--mix", nargs="+", required=True, metavar="NAME", help="methods, or rows of the config")
    parser.add_argument("--n", type=int, default=6, help="images, which are also the batch")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images and of the mixing")
    parser.add_argument("--size", type=int, help="pixels a side")
    parser.add_argument("--model", help="whom the methods ask that ask a model: a timm model instead of the config's")
    trained = parser.add_mutually_exclusive_group()
    trained.add_argument("--weights", type=Path, help="of that model: a .safetensors or .pth file, or a checkpoint")
    trained.add_argument("--untrained", action="store_true", help="ask a model with random weights")
    parser.add_argument("--across", type=int, default=1, help="blocks side by side")
    parser.add_argument("--out", type=Path, default=Path("draw.png"))
    args = parser.parse_intermixed_args(argv)
    if not args.out.parent.is_dir():
        raise ValueError(f"{args.out}: there is no folder {args.out.parent} to write it to")
    for option in ("n", "across", "size"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise ValueError(f"--{option} is {value}; it must be at least 1")
    args.words += [word for word in args.mix if "=" in word]  # settings behind the names
    args.mix = [word for word in args.mix if "=" not in word]
    cfg = _config(args)

    from fastmix import distributed
    from fastmix.engine import picture

    try:
        picture.save(args.out, draw(cfg, args))
    finally:
        distributed.close()
    print(f"{args.out}: {', '.join(args.mix)}")
    return 0


def draw(cfg: config.Config, args: argparse.Namespace):
    """The picture uint8 [H,W,3]: a block for each of args.mix, args.across of them side by side."""
    import numpy as np
    import torch

    from fastmix import distributed, mixers
    from fastmix.batch import Batch
    from fastmix.engine import loaders
    from fastmix.engine.task import criterion, step_rng

    rows = [mixers.build(name, cfg.mixers) for name in args.mix]
    device = distributed.init(cfg.device)
    loader = loaders.training(cfg, device)
    images, labels, _ = next(iter(batches := loader.epoch(0)))
    batches.close()
    model = _model(cfg, args, loader, device)
    blocks = []
    for name, mixer in zip(args.mix, rows, strict=True):
        batch = Batch(images, labels, step_rng(cfg.seed, 0, 0), cfg.data.mean, cfg.data.std, torch.float32)
        plan = _decided(name, mixer, model, batch, criterion(cfg), cfg.model.name)
        blocks.append(block(name, batch, plan, loader.class_names))
    wide = [blocks[k : k + args.across] for k in range(0, len(blocks), args.across)]
    wide = [np.hstack([_tall(part, max(len(p) for p in parts)) for part in parts]) for parts in wide]
    width = max(part.shape[1] for part in wide)
    return np.vstack([np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0))) for part in wide])


def block(title: str, batch, plan, class_names: list[str]):
    """One method's part of the picture, uint8 [h,w,3]: a line for the title, rows of images, lines of labels.

    Images stand GAP pixels apart, LEFT from the left and LINE from the top. With more than two sources each has its row
    and its colour in the mask; the image itself is white.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from fastmix.engine import picture
    from fastmix.kernels.plan import Plan
    from fastmix.targets import Targets

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
    import torch

    from fastmix.kernels.mix import mix

    number = torch.arange(len(plan), device=plan.table.device)
    seen = []
    for k in range(len(plan)):
        white = (255 * (number == k)).byte()[:, None, None, None].expand(-1, *size, 3)
        seen.append(mix(white, plan, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))[:, 0])
    return torch.stack(seen, 1)


def _masks(weights, others: list[list[int | None]] | None):
    """Masks uint8 [B,H,W,3] from provenances [B,B,H,W]: the own weight as grey, or each source in its colour."""
    import numpy as np

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
    import numpy as np

    return np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)))


def _config(args: argparse.Namespace) -> config.Config:
    """The config, or every mixer's defaults, with the images and how they are shown: whole centres, in random order."""
    settings = [word for word in args.words if "=" in word.partition("?")[0]]
    paths = [word for word in args.words if word not in settings]
    if not 1 <= len(paths) <= 2:
        raise ValueError(
            f"{len(paths)} words are no settings; name the images (a .beton file, a folder or shapes:train) and, "
            "before them, a config if wanted"
        )
    if len(paths) == 2:
        cfg = config.load(paths[0], settings)
    else:
        cfg = config.from_tree(config.over({"mixers": {name: {} for name in args.mix}}, settings), "draw")
    from fastmix.pipelines.sources.resolve import is_packed

    data, old = cfg.data, cfg.data.size
    data.train, data.loader = paths[-1], "beton" if is_packed(paths[-1]) else "folder"
    data.size = old if args.size is None else args.size
    data.val_resize = data.val_resize and round(data.val_resize * data.size / old)
    data.crop, data.flip, data.repeats, data.ramp, data.decode = "centre", 0.0, 1, None, "exact"
    cfg.batch_total, cfg.accum, cfg.seed = args.n, 1, args.seed
    if args.model:
        cfg.model = config.Model(args.model)
    return cfg


class _Nobody:
    """Stands where there is no model: whoever asks it is told what to give."""

    def __init__(self, question: str):
        self.__dict__["question"] = question

    def __getattr__(self, name: str):
        raise ValueError(self.question)

    def __call__(self, *given):
        raise ValueError(self.question)


def _model(cfg: config.Config, args: argparse.Namespace, loader, device):
    """The model that some methods ask, with the weights that were given; None: nobody said which ones."""
    from fastmix import models
    from fastmix.engine import loaders
    from fastmix.models import weights

    if not (args.weights or args.untrained):
        return None
    model = models.build(cfg.model, loaders.classes(cfg, loader), cfg.seed, device)
    if args.weights:
        found = weights.read(args.weights).sets
        weights.put(found.get("ema", found["raw"]), model, args.weights)
    models.to_size(model, loader.view.size, cfg.model.name)
    return model


def _decided(name: str, mixer, model, batch, criterion, asked: str):
    """The plan of a batch. Raises ValueError for a method without one, or that asks a model that is not given."""
    from fastmix.mixers.base import Mixer

    if type(mixer).plan is Mixer.plan and type(mixer).decide is Mixer.decide:
        raise ValueError(f"{name} has no plan that could be drawn: it mixes inside the network")
    question = (
        f"{name} asks the model: give --weights FILE with weights of {asked} (--model names another), or --untrained"
    )
    return mixer.decide(_Nobody(question) if model is None else model, batch, criterion)


if __name__ == "__main__":
    sys.exit(cli.run(main, "draw"))
