"""The config's two loaders, one process's share of each."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from fastmix import kernels
from fastmix.config import Config, Data
from fastmix.distributed import rank, world
from fastmix.launch import local_world
from fastmix.pipelines import loader_class
from fastmix.pipelines.loader import Loader
from fastmix.pipelines.selection import held_out
from fastmix.pipelines.sources.resolve import exists, name, words
from fastmix.pipelines.view import View
from fastmix.ranges import size


def training(cfg: Config, device: torch.device) -> Loader:
    """Random crops in random order; a step's images are shared out over the processes. Raises ValueError."""
    parts = world() * cfg.accum
    if cfg.batch_total % parts:
        raise ValueError(
            f"batch_total is {cfg.batch_total}, which {world()} processes with accum {cfg.accum} cannot share equally"
        )
    part, group = cfg.batch_total // parts, cfg.column.gpu_batch
    if cfg.fidelity == "openmixup" and group and part > group and part % group:
        raise ValueError(
            f"fidelity openmixup mixes among {group} images (column.gpu_batch); a part of {part} is no multiple of it"
        )
    data = cfg.data
    view = View(
        size=data.size,
        crop=data.crop,
        scale=data.scale,
        ratio=data.ratio,
        pad=data.pad,
        pad_mode=data.pad_mode,
        flip=data.flip,
        resize=data.val_resize if data.crop == "centre" else None,
        interpolation=data.interpolation,
        decode=data.decode,
    )
    if data.ramp is not None:
        low, begin, end = data.ramp
        if low < 32 or not 0 <= begin <= end:
            raise ValueError(f"data.ramp is {list(data.ramp)}; give [pixels from 32, first epoch, last epoch]")
        view.at(low)
    return _loader(cfg, "train", cfg.batch_total // world(), view, device)


def validation(cfg: Config, device: torch.device) -> Loader:
    """The centre of every image, decoded exactly (or by the GPU, if training is), each image once over all processes.

    Raises ValueError.
    """
    data = cfg.data
    view = View(
        size=data.val_size or data.size,
        crop="centre",
        flip=0.0,
        resize=data.val_resize,
        interpolation=data.interpolation,
        decode="gpu" if data.decode == "gpu" else "exact",
    )
    return _loader(cfg, "val", max(1, cfg.batch_total // (world() * cfg.accum)), view, device)


def resolution(cfg: Config, epoch: int) -> int:
    """Pixels a side of an epoch's training images: data.size, or on the way there, in multiples of 32.

    Linear between the two epochs of data.ramp, as ffcv-imagenet trains.
    """
    if cfg.data.ramp is None:
        return cfg.data.size
    low, begin, end = cfg.data.ramp
    share = min(max((epoch - begin) / max(end - begin, 1), 0.0), 1.0)
    return cfg.data.size if share == 1 else max(32, round((low + share * (cfg.data.size - low)) / 32) * 32)


def sizes(cfg: Config) -> list[int]:
    """The pixels a side of all images that the model will see, in training and validation."""
    return sorted({resolution(cfg, epoch) for epoch in range(cfg.epochs)} | {cfg.data.val_size or cfg.data.size})


def classes(cfg: Config, *loaders: Loader) -> int:
    """The number of classes, on which config and data must agree. Raises ValueError.

    Data without class names (a .beton file of another program) need not contain the last of the classes.
    """
    count = cfg.model.classes or loaders[0].classes
    named = [loader for loader in loaders if loader.class_names != [str(k) for k in range(loader.classes)]]
    for loader in loaders:
        if loader.classes > count or (loader in named and loader.classes < count):
            raise ValueError(f"{loader.source} has {loader.classes} classes, but the model is to have {count}")
    for loader in named:
        if loader.class_names != named[0].class_names:
            raise ValueError(
                f"{loader.source} and {named[0].source} do not have the same classes: convert the one with "
                "--classes of the other"
            )
    return count


def warnings(*loaders: Loader) -> list[str]:
    """A line on each thing that looks odd in the data, once."""
    return list(dict.fromkeys(f"warning: {line}" for loader in loaders for line in loader.warnings))


def require(cfg: Config, split: str) -> None:
    """Raises ValueError where the source of a split, "train" or "val", is not there."""
    source = source_of(cfg.data, split)
    lacks = "" if cfg.data.loader == "synthetic" else next((word for word in words(source) if not exists(word)), "")
    if lacks or not (source or cfg.data.loader == "synthetic"):
        names = "names" if isinstance(source, list) else "is"
        what = f"data.{split} {names} {lacks!r}, which does not exist" if lacks else f"data.{split} is empty"
        raise ValueError(
            f"{what}: give data.{split}=PATH of a .beton file (`python -m fastmix.convert` makes one of a folder of "
            f"images), or with data.loader=folder of a folder that holds a folder for each class"
        )


def source_of(data: Data, split: str) -> str | list[str]:
    """Where the images of a split, "train" or "val", lie."""
    return data.train if data.split else getattr(data, split)


def choices(cfg: Config, data: Loader, val: Loader) -> list[str]:
    """A line on each choice that was made of the data: what was held out, how classes are balanced or weighted."""
    lines, sizes = [], np.bincount(data.labels[data.rows], minlength=data.classes)
    if cfg.data.split:
        held = np.bincount(val.labels[val.rows], minlength=val.classes)
        lines.append(f"split: {sizes.sum()} images to train with and {held.sum()} held out, of a class at least "
                     f"{sizes[sizes > 0].min()} and {held[held > 0].min()}")  # fmt: skip
    if cfg.data.balance != "none":
        shown = np.bincount(data.labels[data.order(0) % data.n], minlength=data.classes)
        lines.append(f"balance: {cfg.data.balance}; classes of {sizes[sizes > 0].min()} to {sizes.max()} images are "
                     f"shown {shown[sizes > 0].min()} to {shown.max()} times an epoch")  # fmt: skip
    if isinstance(cfg.loss.class_weights, list):
        lines.append(f"class weights: from {min(cfg.loss.class_weights):.4g} to {max(cfg.loss.class_weights):.4g}")
    return lines


def _part(cfg: Config, split: str, labels: np.ndarray, class_names: list[str]) -> np.ndarray:
    """Which images are those of a split, bool [n]."""
    try:
        held = held_out(labels, class_names, cfg.data.split, cfg.seed)
    except ValueError as error:
        raise ValueError(f"data.split: {name(cfg.data.train)}: {error}") from None
    return held if split == "val" else ~held


def _loader(cfg: Config, split: str, batch: int, view: View, device: torch.device) -> Loader:
    kernels.check(device)
    require(cfg, split)
    options = {"os_cache": cfg.data.os_cache} if cfg.data.loader == "beton" else {}
    for key, given in {"locality=shard": cfg.data.locality == "shard", "cache_size": cfg.data.cache_size}.items():
        if given and cfg.data.loader != "beton":
            raise ValueError(f"data.{key} is the loader beton's, not that of data.loader={cfg.data.loader}")
    if cfg.data.cache_size and split == "train":
        options["cache_size"] = size(cfg.data.cache_size)
    if cfg.data.locality == "shard" and split == "train":
        options["window"] = cfg.data.window
        if world() > 1 and world() % local_world():
            raise ValueError(
                f"data.locality=shard needs as many processes on each machine, not {world()} by {local_world()} on one"
            )
        options["machines"] = max(1, world() // local_world())
    return loader_class(cfg.data.loader)(
        source_of(cfg.data, split),
        batch,
        view=view,
        train=split == "train",
        seed=cfg.seed,
        rank=rank(),
        world=world(),
        repeats=cfg.data.repeats if split == "train" else 1,
        workers=cfg.data.workers,
        device=device,
        choose=partial(_part, cfg, split) if cfg.data.split else None,
        balance=cfg.data.balance if split == "train" else "none",
        bad=cfg.data.bad,
        **options,
    )
