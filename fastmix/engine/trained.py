"""A trained model ready for use, from a run folder, a checkpoint of one, or exported weights wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fastmix import config, distributed, mixers
from fastmix.engine import loaders, validation
from fastmix.engine.task import Task, precision
from fastmix.engine.training import described
from fastmix.errors import words
from fastmix.models.info import Info
from fastmix.pipelines.packing.layouts import load_classes


@dataclass
class Trained:
    """A model in eval mode, and all that is known of it.

    where   the file of its weights
    kind    "ema", the moving average of its weights, or "raw"
    cfg     the run's config, of which `info` is a part; without a run, `info` and defaults
    note    what is to be said of the file
    """

    where: Path
    kind: str
    info: Info
    cfg: config.Config
    model: nn.Module
    task: Task
    device: torch.device
    note: str = ""


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
    subject = validation.of_run(where, checkpoint, [])
    info = subject.info or _older(subject, classes)
    cfg = _config(subject.cfg, info, subject.checkpoint)
    kind = "raw" if raw or "ema" not in subject.sets else "ema"
    own = distributed.init(device)
    cfg.precision = precision(compute or cfg.precision, own)
    values = validation.chosen(subject, kind)[kind]
    model = validation.network(cfg, len(info.classes), values, subject.checkpoint, info.size, own)
    task = Task(model, mixers.MIXERS["vanilla"](), cfg).to(own).eval()
    return Trained(Path(subject.checkpoint), kind, info, cfg, model, task, own, subject.note)


def _older(subject: validation.Subject, classes: Path | None) -> Info:
    """Of a run that has no model.json: its config, and class names from where they can be had."""
    if classes is not None:
        return described(subject.cfg, load_classes(classes))
    try:
        val = loaders.validation(subject.cfg, torch.device("cpu"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{subject.checkpoint}: there is no model.json beside it to tell the names of its classes, and its "
            f"validation data cannot be asked ({words(error)}); give --classes FROM"
        ) from None
    return described(subject.cfg, val.class_names)


def _config(cfg: config.Config, info: Info, where: str) -> config.Config:
    """The config, of the model and the images that `info` tells of."""
    tree, told = config.to_tree(cfg), info.tree
    return config.from_tree(tree | {part: tree[part] | told[part] for part in told}, where)
