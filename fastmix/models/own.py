"""What a model that is not timm's is like inside: seen by one pass, in which every module's output is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

SIZES = (224, 64, 32, 28)  # pixels a side that are tried in turn, where nothing says what the model takes
COUNT = 2  # images of the pass, so that their dimension is known from a single token


@dataclass(frozen=True)
class Seen:
    """Paths of modules; None, or none, where there is no such place."""

    classes: int
    classifier: str | None  # the linear layer whose outputs are the logits
    features: str | None  # the last map [B,C,h,w], or tokens [B,N,C], with as many channels as the classifier takes
    attention: tuple[str, ...]  # nn.MultiheadAttention of a class token and a square of patches, in the pass's order
    patch: int | None  # pixels a side of such a patch
    channels: dict[str, int] = field(repr=False)  # of each module that gives a map or tokens


def seen(model: nn.Module, size: int | None = None) -> Seen:
    """What a pass in eval mode showed, which is made once; size: pixels a side of its images.

    Raises ValueError for a model that gives no logits [B, classes] of images of any of those sizes.
    """
    if "_seen_by_fastmix" not in vars(model):
        model._seen_by_fastmix = _look(model, size)
    return model._seen_by_fastmix


def _look(model: nn.Module, size: int | None) -> Seen:
    given = getattr(model, "image_size", None)  # torchvision's ViT
    sizes = (size,) if size else (given,) if isinstance(given, int) else SIZES
    for side in sizes:
        try:
            return _read(*_outputs(model, side), side)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
    tried = " or ".join(map(str, sizes))
    raise ValueError(
        f"{type(model).__name__} cannot be looked at with images of {tried} pixels ({why}): say image_size=N"
    )


def _outputs(model: nn.Module, side: int) -> tuple[Tensor, list[tuple[str, nn.Module, tuple, Tensor]]]:
    """Logits of blank images, and of each module, as they end: its path, itself, what it was given and gave."""
    found, hooks, modes = [], [], [(module, module.training) for module in model.modules()]

    def note(path: str):
        return lambda module, given, output: found.append((path, module, given, output))

    for path, module in model.named_modules():
        if path:
            hooks.append(module.register_forward_hook(note(path)))
    like = next(model.parameters())
    try:
        model.eval()
        with torch.no_grad():
            logits = model(torch.zeros(COUNT, 3, side, side, device=like.device, dtype=like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != COUNT:
        raise ValueError("it gives no tensor of logits [B, classes]")
    return logits, found


def _read(logits: Tensor, found: list, side: int) -> Seen:
    classifier, features, takes, attention, patch = None, None, None, [], None
    channels = {}
    for path, module, _, output in found:
        if isinstance(module, nn.Linear) and isinstance(output, Tensor) and output.data_ptr() == logits.data_ptr():
            classifier, takes = path, module.in_features
    for path, module, given, output in found:
        if isinstance(module, nn.MultiheadAttention) and given and _has_class_token(module, given[0]):
            attention.append(path)
            patch = side // math.isqrt(given[0].shape[1] - 1)
        if not isinstance(output, Tensor) or len(output) != COUNT or output.ndim not in (3, 4):
            continue
        channels[path] = output.shape[1 if output.ndim == 4 else 2]
        places = output[0].numel() // channels[path]
        if channels[path] == takes and places > 1:
            features = path
    return Seen(logits.shape[1], classifier, features, tuple(attention), patch, channels)


def _has_class_token(module: nn.MultiheadAttention, query: Tensor) -> bool:
    """Whether it attends from a class token, which comes first, and a square of patches to themselves."""
    if not module.batch_first or module.in_proj_weight is None or query.ndim != 3 or len(query) != COUNT:
        return False
    patches = query.shape[1] - 1
    return patches > 0 and math.isqrt(patches) ** 2 == patches
