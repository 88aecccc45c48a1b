"""Sites: the places inside a backbone whose features can be read or replaced, by names that all backbones share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

STEMS = ("maxpool", "stem", "patch_embed", "stages.0.embed", "bn1")  # the first that a model has is its stem


@dataclass
class Reading:
    """What a site gave in the last forward pass; None before the first."""

    value: Tensor | None = None


def name_of(model: nn.Module) -> str:
    """The name under which timm made the model, or that of its class."""
    return getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__


def sites(model: nn.Module) -> dict[str, str]:
    """Names of a timm model's sites, in the order of the forward pass -> the modules whose output they are.

    "stem", then "stage1" to "stage4", of stride 4 to 32 (a quarter of it behind the stem of CIFAR), or "block0",
    "block1", ... of a ViT, which has one stride. PVT's stem gives no map and has no name.
    Raises ValueError for a model that does not tell its stages.
    """
    stages = getattr(model, "feature_info", None)
    if not stages:
        raise ValueError(f"{name_of(model)} does not tell its stages (feature_info), as timm's models do")
    stages = [(info["module"], info["reduction"]) for info in stages]
    known = {path for path, _ in model.named_modules()}
    stem = next((path for path in STEMS if path in known), None)
    found = {"stem": stem} if stem else {}
    if len({stride for _, stride in stages}) == 1:
        return found | {f"block{k}": path for k, (path, _) in enumerate(stages)}
    return found | {f"stage{int(math.log2(stride)) - 1}": path for path, stride in stages if stride >= 4}


@contextmanager
def rewrite(model: nn.Module, site: str, change: Callable[[Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, change(input, output) of the site's module replaces its output, in its own layout (None: it stays).

    A compiled model runs eagerly inside: a compiled pass would not notice the hook.
    Raises ValueError for a site that the model does not have.
    """
    path = sites(model).get(site)
    if path is None:
        raise ValueError(f"{name_of(model)} has no site {site!r}; choose one of {', '.join(sites(model))}")
    hook = model.get_submodule(path).register_forward_hook(lambda module, given, output: change(given[0], output))
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        hook.remove()


@contextmanager
def read(model: nn.Module, site: str) -> Iterator[Reading]:
    """Inside, the yielded Reading holds the site's output of the last forward pass as a map [B,C,h,w], detached.

    Raises ValueError for a site that the model does not have.
    """
    reading = Reading()

    def keep(given: Tensor, output: Tensor) -> None:
        reading.value = as_map(model, given, output.detach())

    with rewrite(model, site, keep):
        yield reading


def as_map(model: nn.Module, given: Tensor, output: Tensor) -> Tensor:
    """A site's output as a map [B,C,h,w], where `given` is what its module was given; a view, class token left out."""
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else output
    if hasattr(model, "to_map"):
        return model.to_map(output, (given.shape[-2] // 2, given.shape[-1] // 2))
    h, w = model.patch_embed.grid_size
    return output[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))


def last_map(model: nn.Module, x: Tensor) -> Tensor:
    """The feature map [B,C,h,w] whose mean `classifier` judges; the network behind it is not run, nothing is compiled.

    ConvNeXt normalises after its pooling: here at each place of the map.
    Raises ValueError for a model that classifies from a class token.
    """
    if getattr(model, "global_pool", None) == "token":
        raise ValueError(f"{name_of(model)} classifies from a class token, not from a map; choose another model")
    features = as_map(model, x, model.forward_features(x))
    norm = getattr(getattr(model, "head", None), "norm", None)
    return features if norm is None else norm(features)


def classifier(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [classes,C] and bias [classes] of the model's linear classifier; raises ValueError if it has none."""
    linear = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"{name_of(model)} has no linear classifier")
    return linear.weight, linear.bias
