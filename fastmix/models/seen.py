"""How a model of timm's was trained to see images, and a config's `model` values replaced by it."""

from __future__ import annotations

import dataclasses
import math

import torch

from fastmix import config, models

AS_MODEL = "model"


def trained(name: str, args: dict | None = None) -> dict:
    """timm's config of the model's published weights."""
    args = {key: value for key, value in (args or {}).items() if key not in ("pretrained", "checkpoint_path")}
    with torch.device("meta"):
        return models.build(config.Model(name, args=args), 1000, device="meta").pretrained_cfg


def as_trained(own: dict, name: str, cropped: bool = False) -> dict:
    """size, val_size, val_resize, interpolation, mean and std of that config, as in `data`.

    cropped: the caller has a resize of his own. Raises ValueError where timm names none, or crops in another way.
    """
    if not own.get("mean"):
        raise ValueError(f"timm does not say how weights of {name} see images: give numbers")
    if own.get("crop_mode", "center") != "center" and not cropped:
        raise ValueError(f"{name} was made for crop_mode {own['crop_mode']!r}; choose a --resize or --crop-pct")
    size = (own.get("test_input_size") or own["input_size"])[-1]
    resize = math.floor(size / (own.get("test_crop_pct") or own["crop_pct"]))
    seen = {"size": own["input_size"][-1], "val_size": size, "val_resize": resize}
    return seen | {"interpolation": own["interpolation"], "mean": list(own["mean"]), "std": list(own["std"])}


def resolved(cfg: config.Config) -> config.Config:
    """The config with each `model` among its data's values replaced by what the model's weights were trained with.

    val_size follows where it is not set and size is `model`. Raises ValueError.
    """
    asked = [field.name for field in dataclasses.fields(cfg.data) if getattr(cfg.data, field.name) == AS_MODEL]
    asked = [name for name in asked if name not in ("train", "val", "loader")]
    if not asked:
        return cfg
    found = as_trained(trained(cfg.model.name, cfg.model.args), cfg.model.name)
    if "size" in asked and cfg.data.val_size is None:
        asked.append("val_size")
    data = dataclasses.replace(cfg.data, **{name: found[name] for name in asked})
    return config.checked(dataclasses.replace(cfg, data=data), f"data of {cfg.model.name}")
