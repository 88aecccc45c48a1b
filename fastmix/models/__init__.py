"""Backbones: timm's by name, ours registered beside them, in the form that trains fastest."""

from __future__ import annotations

import difflib
import os
from importlib import import_module

import torch
from torch import Tensor, nn

import fastmix.compat  # noqa: F401  (before timm, which the modules of this folder import)
from fastmix.config import Model
from fastmix.distributed import world
from fastmix.errors import foreign
from fastmix.ranges import shown


def build(cfg: Model, classes: int, seed: int = 0, device: str | torch.device = "cpu") -> nn.Module:
    """The model `cfg.name` with `classes` outputs, initialised from `seed`, on the device, channels-last if asked.

    `cfg.args` go to timm.create_model. DeiT and Swin run at one size of image, which `img_size` sets (224 if left out;
    32 and 64 work). PVT runs at any size from 32 on and starts its position embeddings for `img_size`. MogaNet accepts
    `img_size`; ResNets, EfficientNet, MobileNetV2 and ConvNeXt do not: they run at any size from 32 on.
    Raises ValueError for an unknown name or an argument that the model does not take.
    """
    timm = load_timm()
    if not timm.is_model(cfg.name):
        near = difflib.get_close_matches(cfg.name, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise ValueError(f"unknown model {cfg.name!r}; {hint}")
    path = cfg.args.get("checkpoint_path")
    if path and not os.path.isfile(str(path)):
        raise ValueError(f"model.args.checkpoint_path is {shown(path)}, which is no file")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with foreign(f"model {cfg.name}{f' with model.args {shown(cfg.args)}' * bool(cfg.args)}"):
            model = timm.create_model(cfg.name, num_classes=classes, **cfg.args)
        if not (cfg.weights or cfg.args.get("pretrained") or cfg.args.get("checkpoint_path")):
            _initialise(model)
    if cfg.sync_bn and world() > 1:
        if torch.device(device).type != "cuda":
            raise ValueError("model.sync_bn: several processes share batch statistics on GPUs only; set it to false")
        from timm.layers import convert_sync_batchnorm

        model = convert_sync_batchnorm(model)
    if cfg.fused_norm == "auto" and torch.device(device).type == "cuda":
        import_module("fastmix.models.fused_norm").fuse(model)
    return model.to(device, memory_format=torch.channels_last if cfg.channels_last else torch.preserve_format)


def require_sizes(model: nn.Module, cfg: Model, sizes: list[int]) -> None:
    """Raises ValueError unless the model, built of `cfg`, classifies RGB images of these sizes. Changes nothing."""
    training, device = model.training, next(model.parameters()).device
    for size in sizes:
        with torch.no_grad(), foreign(f"model {cfg.name} cannot see images of {size} pixels"):
            logits = model.eval()(torch.zeros(1, 3, size, size, device=device))
            if not isinstance(logits, Tensor) or logits.shape != (1, cfg.classes):
                raise ValueError(f"it gives no scores of {cfg.classes} classes")
    model.train(training)


def to_size(model: nn.Module, size: int, name: str) -> None:
    """Sets a model of one size of image to another, in eval mode: position embeddings are resized, windows keep their
    share. Raises ValueError where it cannot see images of that size.
    """
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=(size, size))
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} cannot see images of {size} pixels ({error})") from None


def classifier(model: nn.Module) -> list[str]:
    """Names of the parameters that make logits of features."""
    heads = model.get_classifier()
    heads = heads if isinstance(heads, (tuple, list)) else (heads,)
    own = {id(p) for head in heads if isinstance(head, nn.Module) for p in head.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in own]


def load_timm():
    """The timm package, knowing our backbones."""
    for name in ("cifar", "moganet", "pvt", "wide_resnet"):
        import_module(f"fastmix.models.{name}")
    return import_module("timm")


def _initialise(model: nn.Module) -> None:
    """Where the benchmark starts otherwise than timm: a ResNet's classifier at N(0, 0.01) with bias 0, a ViT's class
    token at trunc-normal 0.02. (timm has the Kaiming fan-out convolutions, the zero last batch-norm of a
    ResNet's blocks, and trunc-normal 0.02 for the rest of a ViT.)"""
    from timm.models import ResNet, VisionTransformer

    if isinstance(model, ResNet):
        nn.init.normal_(model.fc.weight, std=0.01)
        nn.init.zeros_(model.fc.bias)
    elif isinstance(model, VisionTransformer) and model.cls_token is not None:
        nn.init.trunc_normal_(model.cls_token, std=0.02)
