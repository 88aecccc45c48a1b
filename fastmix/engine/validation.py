"""Trained weights measured on validation data, each image exactly once: what is measured, and how it is seen."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fastmix import config, distributed, files, mixers, models
from fastmix.engine import imagenet_real, loaders, per_class
from fastmix.engine.evaluate import predict
from fastmix.engine.task import Task, precision
from fastmix.models import seen, weights
from fastmix.models.info import Info
from fastmix.pipelines.loader import Loader
from fastmix.runs import confusion, run_folder


@dataclass
class Subject:
    """What is validated: weights by kind, "raw" and "ema" (None: timm downloads them), and how.

    info: what the model is, where its file or run folder tells it. note: what is to be said of the file.
    """

    cfg: config.Config
    checkpoint: str
    sets: dict[str, dict | None]
    info: Info | None = None
    note: str = ""


def of_run(where: Path, checkpoint: str, words: list[str]) -> Subject:
    """A run, by its folder (then `checkpoint` is last or best), a file of weights in it, or its export anywhere.

    words: settings over the run's config, or over what the export tells.

    Raises ValueError.
    """
    path = where / f"{checkpoint}.pt" if where.is_dir() else where
    if where.is_dir() and not (where / "config.yaml").is_file():
        raise ValueError(f"{where}: no run folder (no config.yaml in it)")
    beside = path.parent / "config.yaml"
    cfg = config.load(beside, words) if beside.is_file() else None
    if not path.exists():
        raise ValueError(f"{path}: no such run folder or checkpoint")
    found = weights.read(path)
    if found.config is not None and not where.is_dir():
        cfg = config.from_tree(config.over(found.config, words), str(path))
    if cfg is None and found.info is not None:
        cfg = config.from_tree(config.over(found.info.tree, words), str(path))
    if cfg is None:
        raise ValueError(
            f"{path}: neither it nor a config.yaml beside it says what model it is; validate it with --model NAME "
            f"--weights {path}"
        )
    if path.suffix == ".safetensors" and cfg.ema.decay:  # a run exports its average
        found.sets = {"ema": found.sets["raw"]}
    cfg.model.args.pop("checkpoint_path", None)
    cfg.model.args.pop("pretrained", None)
    note = files.note(path) if found.config is not None else ""
    return Subject(cfg, str(path), found.sets, found.info, note)


def of_timm(name: str, file: str, words: list[str], interpolation: str | None = None, cropped: bool = False) -> Subject:
    """A timm model by name, which says how it was trained to see images; file: its weights, or "timm".

    cropped: the user says how images are resized and cropped. Raises ValueError.
    """
    own = seen.trained(name)
    data = seen.as_trained(own, name, cropped)
    data["interpolation"] = interpolation or data["interpolation"]
    model = {"name": name} | ({"classes": own["num_classes"]} if file == "timm" else {})
    cfg = config.from_tree(config.over({"data": data, "model": model}, words), name)
    if file == "timm":
        return Subject(cfg, f"timm:{name}", {"raw": None})
    return Subject(cfg, file, weights.read(Path(file)).sets)


def view(
    data: config.Data, size: int | None, resize: int | None, crop_pct: float | None, interpolation: str | None
) -> None:
    """Changes how validation images are seen, where asked. Without `resize` and `crop_pct` (a share: resize = size /
    share, rounded down) the resize keeps its proportion to the size.
    """
    old = data.val_size or data.size
    if size:
        data.val_size = size
        data.val_resize = data.val_resize and round(data.val_resize * size / old)
    if crop_pct is not None:
        data.val_resize = math.floor((size or old) / crop_pct)
    data.val_resize = resize or data.val_resize
    data.interpolation = interpolation or data.interpolation


def validate(
    subject: Subject,
    kind: str | None = None,
    flip: bool = False,
    by_class: bool = False,
    real: Path | None = None,
    names: str | None = None,
) -> tuple[dict, dict[str, str]]:
    """The result, and with by_class the tables `per_class` and `confusion` as CSV; the same on every process.

    kind: "raw" or "ema" alone, where there are both. flip: mean of the logits of an image and its mirror image. real: a
    file of ImageNet-ReaL's labels; names: for it, the images that a .beton was made from.

    top1, top5 (percent), loss, images; real_*; ema_* for the average where both kinds are measured. `ema` says which
    kind the first ones are. With checkpoint, model, size, resize, interpolation, flip, precision, device, processes,
    seconds, images_per_s (loading included) and versions. Raises ValueError.
    """
    cfg, sets = subject.cfg, chosen(subject, kind, by_class)
    device, val, classes = opened(cfg)
    new = imagenet_real.read(real, val.labels, val.given, names) if real else None
    torch.backends.cudnn.benchmark = True
    result, tables, seconds = {}, {}, 0.0
    for one, values in sets.items():
        model = network(cfg, classes, values, subject.checkpoint, val.view.size, device)
        task = Task(model, mixers.MIXERS["vanilla"](), cfg).to(device)
        began = time.perf_counter()
        found = predict(model, task, val, flip, bar=True)
        seconds += time.perf_counter() - began
        scores = found.scores() | (imagenet_real.scores(found, new) if new else {})
        ema = one == "ema" and len(sets) > 1
        result |= {f"ema_{k}": v for k, v in scores.items() if not k.endswith("images")} if ema else scores
        if by_class:
            tables["per_class"] = per_class.as_csv(per_class.per_class(found, val.class_names))
            tables["confusion"] = confusion.as_csv(*per_class.confusion(found, val.class_names))
    seen = {"size": val.view.size, "resize": val.view.resize, "interpolation": val.view.interpolation}
    told = {"ema": [*sets] == ["ema"], "checkpoint": subject.checkpoint, "model": cfg.model.name, **seen}
    told |= {"flip": flip, "precision": cfg.precision, "device": device.type, "processes": distributed.world()}
    pace = {"seconds": round(seconds, 3), "images_per_s": round(len(sets) * result["images"] / seconds, 1)}
    return result | told | pace | {"versions": run_folder.versions()}, tables


def opened(cfg: config.Config) -> tuple[torch.device, Loader, int]:
    """Joins the other processes and opens the config's validation data: device, loader and the number of classes.

    cfg.precision becomes what the device has; what looks odd in the data is told. Raises ValueError.
    """
    device = distributed.init(cfg.device)
    cfg.precision = precision(cfg.precision, device)
    val = loaders.validation(cfg, device)
    classes = loaders.classes(cfg, val)
    if distributed.rank() == 0:
        sys.stderr.writelines(f"{line}\n" for line in loaders.warnings(val))
    return device, val, classes


def network(cfg: config.Config, classes: int, values: dict | None, where: str, size: int, device) -> torch.nn.Module:
    """The config's model with these weights (None: timm's published ones), in eval mode, for images of `size` pixels.

    `where` the weights come from begins the errors, which are ValueErrors.
    """
    if values is None:
        model = _pretrained(cfg, classes, device)
    else:
        model = models.build(cfg.model, classes, 0, device)
        weights.put(values, model, where)
    models.to_size(model, size, cfg.model.name)
    return model


def chosen(subject: Subject, kind: str | None, by_class: bool = False) -> dict[str, dict | None]:
    """The weights of that kind, or all. Raises ValueError where there are none of it, or where a table needs one."""
    if kind and kind not in subject.sets:
        raise ValueError(f"{subject.checkpoint}: only {' and '.join(subject.sets)} weights are in it, no {kind} ones")
    if by_class and not kind and len(subject.sets) > 1:
        raise ValueError(
            f"{subject.checkpoint} holds raw weights and their average: tables of classes need --ema or --raw"
        )
    return {kind: subject.sets[kind]} if kind else subject.sets


def _pretrained(cfg: config.Config, classes: int, device):
    """The model with timm's published weights. Raises ValueError where they cannot be had."""
    cfg.model.args["pretrained"] = True
    try:
        return models.build(cfg.model, classes, 0, device)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the weights of {cfg.model.name} cannot be had ({reason}); fetch the file where there is a network and "
            "give --weights FILE"
        ) from None
