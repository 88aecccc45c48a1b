"""Backbones: timm's by name, ours registered beside them, in the form that trains fastest."""

from __future__ import annotations

import difflib
from importlib import import_module

import torch
from torch import nn

from fastmix.config import Model


def build(cfg: Model, classes: int, seed: int = 0, device: str | torch.device = "cpu") -> nn.Module:
    """The model `cfg.name` with `classes` outputs, initialised from `seed`, on the device, channels-last if asked.

    Raises ValueError for an unknown name or an argument that the model does not take.
    """
    timm = load_timm()
    if not timm.is_model(cfg.name):
        near = difflib.get_close_matches(cfg.name, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise ValueError(f"unknown model {cfg.name!r}; {hint}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(cfg.name, num_classes=classes, **cfg.args)
        except TypeError as error:
            raise ValueError(f"model {cfg.name}: {error}") from None
        _initialise(model)
    return model.to(device, memory_format=torch.channels_last if cfg.channels_last else torch.preserve_format)


def load_timm():
    """The timm package, importable beside a CPU build of torch and knowing our backbones."""
    import_module("fastmix.compat")  # before torchvision, which timm imports
    import_module("fastmix.models.cifar")
    return import_module("timm")


def _initialise(model: nn.Module) -> None:
    """ResNets: the classifier starts at N(0, 0.01), bias 0, as in the benchmark; timm's own start does the rest
    (Kaiming fan-out convolutions, the last batch-norm of each block zero)."""
    if type(model).__name__ == "ResNet":
        nn.init.normal_(model.fc.weight, std=0.01)
        nn.init.zeros_(model.fc.bias)
