"""python -m fastmix.validate RUN [key=value ...]: top-1 and top-5 of trained weights on validation data.

RUN is a run folder, a checkpoint of one, or its model.safetensors. `--model NAME --weights FILE` takes weights of any
timm model, `--weights timm` the published ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fastmix import cli, config

SHOWN = ("top1", "top5", "loss", "images", "s")  # last words of the keys that are printed


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.validate", description="Validate trained weights, each image exactly once.")
    parser.add_argument("words", nargs="*", metavar="RUN key=value", help="a run folder, a checkpoint of one or its "
                        "model.safetensors; then settings over its config, such as data.val=FILE")  # fmt: skip
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"), help="of a run folder")
    parser.add_argument("--model", help="a timm model instead of a run, with --weights; words are then settings")
    parser.add_argument("--weights", help="a .safetensors or .pth file, or timm for the published weights")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ema", action="store_true", help="only the moving average, where there are both")
    kind.add_argument("--raw", action="store_true", help="only the weights themselves, where there are both")
    parser.add_argument("--size", type=int, help="pixels a side; the resize keeps its proportion to it")
    resize = parser.add_mutually_exclusive_group()
    resize.add_argument("--resize", type=int, help="short side in pixels, before the centre crop")
    resize.add_argument("--crop-pct", type=float, help="the same as a share: resize = size / share, rounded down")
    parser.add_argument("--interpolation", choices=config.CHOICES["data.interpolation"])
    parser.add_argument("--flip", action="store_true", help="mean of the logits of an image and of its mirror image")
    parser.add_argument("--per-class", type=Path, metavar="FILE.csv", help="write the scores of each class")
    parser.add_argument("--real", type=Path, metavar="real.json", help="score against ImageNet-ReaL's labels too")
    parser.add_argument("--names", metavar="FOLDER", help="for --real with a .beton: the images that it was made from")
    parser.add_argument("--json", type=Path, help="write the result here too")
    args = parser.parse_intermixed_args(argv)
    for path in (args.json, args.per_class):
        if path and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent} to write it to")
    subject = _timm(args) if args.model else _run(args)

    from fastmix import distributed

    try:
        result, table = validate(subject, args)
        if distributed.rank() == 0:
            print(", ".join(_words(key, value) for key, value in result.items() if key.split("_")[-1] in SHOWN))
            if args.json:
                _write(args.json, json.dumps(result) + "\n")
            if args.per_class:
                _write(args.per_class, table)
    finally:
        distributed.close()
    return 0


@dataclass
class Subject:
    """What is validated: weights by kind, "raw" and "ema" (None: timm downloads them), and how."""

    cfg: config.Config
    checkpoint: str
    sets: dict[str, dict | None]


def validate(subject: Subject, args: argparse.Namespace) -> tuple[dict, str]:
    """The result, and the table of classes as CSV, if asked for; the same on every process.

    top1, top5 (percent), loss, images; real_*; ema_* for the average where both kinds are measured. `ema` says which
    kind the first ones are. With checkpoint, model, size, resize, interpolation, flip, precision, device, processes,
    seconds, images_per_s (loading included) and versions.
    """
    import torch

    from fastmix import distributed, mixers, models, train
    from fastmix.engine import imagenet_real, loaders, per_class
    from fastmix.engine.evaluate import predict
    from fastmix.engine.task import Task, precision
    from fastmix.models import weights

    cfg, sets = subject.cfg, _chosen(subject, args)
    device = distributed.init(cfg.device)
    cfg.precision = precision(cfg.precision, device)
    val = loaders.validation(cfg, device)
    classes = loaders.classes(cfg, val)
    new = imagenet_real.read(args.real, val.labels, cfg.data.val, args.names) if args.real else None
    torch.backends.cudnn.benchmark = True
    result, table, seconds = {}, "", 0.0
    for kind, values in sets.items():
        model = _pretrained(cfg, classes, device) if values is None else models.build(cfg.model, classes, 0, device)
        if values is not None:
            weights.put(values, model, subject.checkpoint)
        models.to_size(model, val.view.size, cfg.model.name)
        task = Task(model, mixers.MIXERS["vanilla"](), cfg).to(device)
        began = time.perf_counter()
        found = predict(model, task, val, args.flip, bar=True)
        seconds += time.perf_counter() - began
        scores = found.scores() | (imagenet_real.scores(found, new) if new else {})
        ema = kind == "ema" and len(sets) > 1
        result |= {f"ema_{k}": v for k, v in scores.items() if not k.endswith("images")} if ema else scores
        if args.per_class:
            table = per_class.as_csv(per_class.per_class(found, val.class_names))
    view = {"size": val.view.size, "resize": val.view.resize, "interpolation": val.view.interpolation}
    told = {"ema": [*sets] == ["ema"], "checkpoint": subject.checkpoint, "model": cfg.model.name, **view}
    told |= {"flip": args.flip, "precision": cfg.precision, "device": device.type, "processes": distributed.world()}
    pace = {"seconds": round(seconds, 3), "images_per_s": round(len(sets) * result["images"] / seconds, 1)}
    return result | told | pace | {"versions": train.versions()}, table


def _run(args: argparse.Namespace) -> Subject:
    """A run, by its folder or by a file of weights in it."""
    if not args.words:
        raise ValueError("name a run folder or a checkpoint, or give --model NAME --weights FILE")
    if args.weights:
        raise ValueError("--weights needs --model NAME, which says what they are the weights of")
    from fastmix.models import weights

    run, *words = args.words
    where = Path(run)
    path = where / f"{args.checkpoint}.pt" if where.is_dir() else where
    if where.is_dir() and not (where / "config.yaml").is_file():
        raise ValueError(f"{where}: no run folder (no config.yaml in it)")
    if not path.exists():
        raise ValueError(f"{path}: no such run folder or checkpoint")
    found = weights.read(path)
    if found.config is not None and not where.is_dir():
        cfg = config.from_tree(config.over(found.config, words), str(path))
    elif (path.parent / "config.yaml").is_file():
        cfg = config.load(path.parent / "config.yaml", words)
    else:
        raise ValueError(f"{path}: no config.yaml beside it says what model it is; give --model NAME --weights {path}")
    if path.suffix == ".safetensors" and cfg.ema.decay:  # a run exports its average
        found.sets = {"ema": found.sets["raw"]}
    cfg.model.args.pop("checkpoint_path", None)
    cfg.model.args.pop("pretrained", None)
    return Subject(_viewed(cfg, args), str(path), found.sets)


def _timm(args: argparse.Namespace) -> Subject:
    """A timm model by name; it says how it was trained to see images."""
    if not args.weights:
        raise ValueError(f"--model {args.model} needs --weights FILE, or --weights timm for the published ones")
    import torch

    from fastmix import models
    from fastmix.models import weights

    with torch.device("meta"):
        own = models.build(config.Model(args.model), 1000, device="meta").pretrained_cfg
    if own.get("crop_mode", "center") != "center" and not (args.resize or args.crop_pct):
        raise ValueError(f"{args.model} was made for crop_mode {own['crop_mode']!r}; choose a --resize or --crop-pct")
    size = (own.get("test_input_size") or own["input_size"])[-1]
    data = {"size": own["input_size"][-1], "val_size": size, "mean": list(own["mean"]), "std": list(own["std"])}
    data |= {"val_resize": math.floor(size / (own.get("test_crop_pct") or own["crop_pct"]))}
    model = {"name": args.model} | ({"classes": own["num_classes"]} if args.weights == "timm" else {})
    interpolation = {"interpolation": args.interpolation or own["interpolation"]}
    tree = config.over({"data": data | interpolation, "model": model}, args.words)
    cfg = _viewed(config.from_tree(tree, args.model), args)
    if args.weights == "timm":
        return Subject(cfg, f"timm:{args.model}", {"raw": None})
    return Subject(cfg, args.weights, weights.read(Path(args.weights)).sets)


def _viewed(cfg: config.Config, args: argparse.Namespace) -> config.Config:
    """The config with the size, resize and interpolation asked for."""
    data = cfg.data
    old = data.val_size or data.size
    if args.size:
        data.val_size = args.size
        data.val_resize = data.val_resize and round(data.val_resize * args.size / old)
    if args.crop_pct is not None:
        if not 0 < args.crop_pct <= 1:
            raise ValueError(f"--crop-pct is {args.crop_pct}; it must be a share above 0, up to 1")
        data.val_resize = math.floor((args.size or old) / args.crop_pct)
    data.val_resize = args.resize or data.val_resize
    data.interpolation = args.interpolation or data.interpolation
    return cfg


def _chosen(subject: Subject, args: argparse.Namespace) -> dict[str, dict | None]:
    kind = "ema" if args.ema else "raw" if args.raw else None
    if kind and kind not in subject.sets:
        raise ValueError(f"{subject.checkpoint}: only {' and '.join(subject.sets)} weights are in it, no {kind} ones")
    if args.per_class and not kind and len(subject.sets) > 1:
        raise ValueError(f"{subject.checkpoint} holds raw weights and their average: --per-class needs --ema or --raw")
    return {kind: subject.sets[kind]} if kind else subject.sets


def _pretrained(cfg: config.Config, classes: int, device):
    """The model with timm's published weights. Raises ValueError where they cannot be had."""
    from fastmix import models

    cfg.model.args["pretrained"] = True
    try:
        return models.build(cfg.model, classes, 0, device)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the weights of {cfg.model.name} cannot be had ({reason}); fetch the file where there is a network and "
            "give --weights FILE"
        ) from None


def _words(key: str, value: float) -> str:
    percent = key.endswith(("top1", "top5"))
    return f"{key} {value:.2f} %" if percent else f"{key} {value:g}" if isinstance(value, int) else f"{key} {value:.4g}"


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(cli.run(main, "validate"))
