"""A trained model ready for use, from a run folder, a checkpoint of one, or exported weights wherever they lie."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from fastmix import config, distributed, mixers
from fastmix.engine import loaders, validation
from fastmix.engine.task import Task, precision
from fastmix.engine.training import described
from fastmix.models import weights
from fastmix.models.info import KEY, Info, from_text
from fastmix.pipelines.packing.layouts import load_classes


@dataclass
class Trained:
    """A model in eval mode, and all that is known of it.

    where   the file of its weights
    kind    "ema", the moving average of its weights, or "raw"
    cfg     the run's config, of which `info` is a part; without a run, `info` and defaults
    """

    where: Path
    kind: str
    info: Info
    cfg: config.Config
    model: nn.Module
    task: Task
    device: torch.device


def load(
    where: Path,
    checkpoint: str = "last",
    raw: bool = False,
    classes: Path | None = None,
    device: str = "auto",
    compute: str | None = None,
) -> Trained:
    """The model of a run folder (its last or best `checkpoint`), of a checkpoint, or of exported weights.

    raw: the weights themselves, where there is their average too. classes: names, for runs that did not keep them, as
    load_classes reads them. compute: fp32, fp16, bf16 or auto; None: as in the run. Raises ValueError.
    """
    info = _in_metadata(where)
    if info is None or (where.parent / "config.yaml").is_file():
        subject = validation.of_run(where, checkpoint, [])
        info = info or _beside(subject, classes)
        tree = config.to_tree(subject.cfg)
    else:
        subject, tree = validation.Subject(None, str(where), weights.read(where).sets), {}
    cfg = _config(info, tree, where)
    kind = "raw" if raw or "ema" not in subject.sets else "ema"
    own = distributed.init(device)
    cfg.precision = precision(compute or cfg.precision, own)
    values = validation.chosen(subject, kind)[kind]
    model = validation.network(cfg, len(info.classes), values, subject.checkpoint, info.size, own)
    task = Task(model, mixers.MIXERS["vanilla"](), cfg).to(own).eval()
    return Trained(Path(subject.checkpoint), kind, info, cfg, model, task, own)


def _in_metadata(path: Path) -> Info | None:
    """What exported weights say of their model."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    return from_text(told[KEY], path) if KEY in told else None


def _beside(subject: validation.Subject, classes: Path | None) -> Info:
    """What the run folder says; of an older run its config, and class names from where they can be had."""
    told = Path(subject.checkpoint).with_name("model.json")
    if told.is_file():
        return from_text(told.read_text(encoding="utf-8"), told)
    if classes is not None:
        return described(subject.cfg, load_classes(classes))
    try:
        val = loaders.validation(subject.cfg, torch.device("cpu"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{subject.checkpoint}: there is no model.json beside it to tell the names of its classes, and its "
            f"validation data cannot be asked ({error}); give --classes FROM"
        ) from None
    return described(subject.cfg, val.class_names)


def _config(info: Info, tree: dict, where: object) -> config.Config:
    """A run's config, or the defaults, of the model and the images that `info` tells of."""
    told = asdict(info)
    args = {key: value for key, value in info.args.items() if key not in ("pretrained", "checkpoint_path")}
    model = {"name": info.name, "args": args, "classes": len(info.classes)}
    data = {key: told[key] for key in ("size", "interpolation", "mean", "std")}
    data |= {"val_size": None, "val_resize": info.resize}
    tree = tree | {"model": tree.get("model", {}) | model, "data": tree.get("data", {}) | data}
    return config.from_tree(tree, str(where))
