"""A model that begins with trained weights: what of a file fits, what begins anew, and a line on each."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fastmix import models
from fastmix.config import Model
from fastmix.models import seen, weights

TIMM = "timm"
FEW = 3  # names in a line
ANEW = "weights: the classifier begins anew: "


def build(
    cfg: Model, names: list[str], seed: int = 0, device: str | torch.device = "cpu"
) -> tuple[nn.Module, list[str]]:
    """The model with len(names) outputs and the weights that `cfg.weights` names, and what was loaded, in lines.

    A file may be of this project (then its moving average is taken where there is one), of timm, torchvision,
    Lightning or OpenMixup: the names of wrappers before those of the model do not matter. What timm's own loading would
    convert or resize (position embeddings) is. A classifier of other classes begins anew, by timm's reset_classifier.
    Raises ValueError of one line for a file that is not this model's.
    """
    if cfg.weights == TIMM:
        own = seen.trained(cfg.name, cfg.args)["num_classes"]
        try:
            model = models.build(replace(cfg, args=cfg.args | {"pretrained": True}), own, seed, device)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"model.weights is timm, but the weights of {cfg.name} cannot be had ({reason}); fetch the file where "
                "there is a network and give model.weights=FILE"
            ) from None
        lines, anew = [f"weights: timm's of {cfg.name}"], f"timm's is of {own} classes" if own != len(names) else ""
    else:
        model = models.build(cfg, len(names), seed, device)
        lines, anew = fit(weights.read(found(cfg.weights)), model, names, cfg.weights) if cfg.weights else ([], "")
    if anew:
        lines.insert(1, ANEW + anew)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.reset_classifier(len(names))
        model.to(device)
    return model, lines


def parts(cfg: Model) -> dict[str, dict[str, Tensor]]:
    """What the file of `cfg.weights` holds besides the model: the parts that a method of OpenMixup trained."""
    return weights.read(found(cfg.weights)).parts if cfg.weights not in ("", TIMM) else {}


def found(where: str) -> Path:
    """The file itself, or that of a run folder: its export, else its last checkpoint. Raises ValueError."""
    path = Path(where)
    if not path.is_dir():
        return path
    for name in ("model.safetensors", "last.pt", "best.pt"):
        if (path / name).is_file():
            return path / name
    raise ValueError(f"model.weights: {path} is a folder without model.safetensors, last.pt or best.pt of a run")


def fit(content: weights.Weights, model: nn.Module, names: list[str], where: str) -> tuple[list[str], str]:
    """Gives the model what fits of the weights in a file; tells it in lines, and why the classifier is to begin anew.

    Raises ValueError of one line.
    """
    given = content.sets.get("ema") or content.sets["raw"]
    own, head = model.state_dict(), models.classifier(model)
    stored = converted(aligned(given, own, head), model, where)
    anew = [name for name in head if name in stored and stored[name].shape != own[name].shape]
    if not anew and content.info and content.info.classes != names:
        anew = [name for name in head if name in stored]
    fits = {name: value for name, value in stored.items() if name in own and name not in anew}
    _refuse(stored, fits, own, head, where)
    model.load_state_dict(fits, strict=False)

    lines = [f"weights: {len(fits)} of {len(own)} tensors from {where}"]
    lines += [f"weights: {line}" for line in _resized(given, fits)]
    lacking = [name for name in head if name not in stored]
    why = f"{some(anew)} in the file are of other classes" if anew else ""
    if lacking and not anew:
        why = f"{some(lacking)} not in the file"
    if others := [name for name in stored if name not in own]:
        lines.append(f"weights: not the model's, left out: {some(others)}")
    return lines, why


def aligned(given: dict[str, Tensor], own: dict[str, Tensor], head: list[str]) -> dict[str, Tensor]:
    """The tensors without the name of what the model was wrapped in: the prefix with which most are the model's."""
    counts = Counter(
        name[: len(name) - len(key)] for name in given for key in own if name == key or name.endswith(f".{key}")
    )
    prefix = max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")
    out = {name.removeprefix(prefix): value for name, value in given.items()}
    for key in head:  # which may lie in another wrapper: backbone.conv1.weight, but head.fc.weight
        if key not in out and (other := next((name for name in given if name.endswith(f".{key}")), None)):
            out[key] = out.pop(other)
    return out


def converted(stored: dict[str, Tensor], model: nn.Module, where: str) -> dict[str, Tensor]:
    """The tensors as timm's own loading of that model would make them."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return stored
    try:
        return convert(dict(stored), model)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{where}: its tensors are not those of a {type(model).__name__} ({reason})") from None


def some(names: list[str]) -> str:
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")


def _refuse(stored: dict, fits: dict, own: dict, head: list[str], where: str) -> None:
    """Raises ValueError unless the tensors are those of this architecture, all of them but the classifier's."""
    what = f"{where}: not weights of this model"
    if not any(name not in head for name in fits):
        raise ValueError(f"{what}: it holds {some(list(stored))}; the model has {some(list(own))}")
    for name, value in fits.items():
        if value.shape != own[name].shape:
            shapes = f"{list(value.shape)} in the file, {list(own[name].shape)} in the model"
            raise ValueError(f"{what}: {name} is {shapes}")
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{where}: {name} holds numbers that are not finite")
    lacking = [n for n in own if n not in fits and n not in head and not n.endswith("num_batches_tracked")]
    if lacking:
        raise ValueError(f"{what}: {some(lacking)} not in the file")
    inside = {name.split(".")[0] for name in own}
    if deeper := [name for name in stored if name not in own and name.split(".")[0] in inside]:
        raise ValueError(f"{what}: the file has also {some(deeper)}")


def _resized(given: dict[str, Tensor], fits: dict[str, Tensor]) -> list[str]:
    """Lines on tensors of another shape in the file than in the model."""
    before = {name.split(".")[-1]: tuple(value.shape) for name, value in given.items() if "pos_embed" in name}
    after = {name: tuple(value.shape) for name, value in fits.items() if "pos_embed" in name}
    pairs = {name: (before.get(name.split(".")[-1]), shape) for name, shape in after.items()}
    return [f"{name} resized from {list(a)} to {list(b)}" for name, (a, b) in pairs.items() if a and a != b]
