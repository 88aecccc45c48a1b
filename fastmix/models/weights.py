"""Weights out of the files that they come in: our checkpoints, safetensors, and checkpoints as timm writes them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.files import read_torch
from fastmix.models import load_timm
from fastmix.models.info import KEY, Info, from_text
from fastmix.models.openmixup import parts, renamed

_scalar = np.float64(0).__reduce__()[0]
NUMPY = [(_scalar, "numpy.core.multiarray.scalar"), (_scalar, "numpy._core.multiarray.scalar"), np.dtype]
NUMPY += [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]
"""What a number of numpy's is made of, in files of its versions 1 and 2."""
KEYS = {"ema": ("state_dict_ema", "model_ema"), "raw": ("state_dict", "model")}
"""Where timm's checkpoints, and those like them, keep the average and the weights themselves."""


@dataclass
class Weights:
    """State dicts by kind, "raw" and "ema" (the moving average); of a run's checkpoint also its config, as a tree.

    info: what the model is, where the file or the run folder around it tells it. method: of a run's checkpoint also
    what its method has beside the model.
    parts: of a checkpoint of OpenMixup's AutoMix, what else was trained (fastmix/models/openmixup.py).
    """

    sets: dict[str, dict[str, Tensor]]
    config: dict | None = None
    info: Info | None = None
    method: dict | None = None
    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def read(path: Path) -> Weights:
    """The weights in a file. Nothing in it is run. Raises ValueError for one that is damaged or holds none."""
    if path.suffix == ".safetensors":
        tensors, info = _safetensors(path)
        return Weights({"raw": tensors}, info=info)
    with torch.serialization.safe_globals([argparse.Namespace, *NUMPY]):  # timm's arguments, mmcv's best score
        content = read_torch(path)
    if isinstance(content, dict) and "run" in content and "task" in content:
        task = content["task"].items()
        sets = {"raw": {name.removeprefix("model."): value for name, value in task if name.startswith("model.")}}
        sets |= {"ema": content["ema"]} if "ema" in content else {}
        told = path.with_name("model.json")
        info = from_text(told.read_text(encoding="utf-8"), told) if told.is_file() else None
        method = {name.removeprefix("mixer."): value for name, value in task if name.startswith("mixer.")}
        return Weights(sets, content["run"]["config"], info, method)
    sets = {}
    for kind, keys in KEYS.items():
        if key := next((key for key in keys if isinstance(content, dict) and content.get(key)), None):
            sets[kind] = content[key]
    sets = sets or {"raw": content}
    for weights in sets.values():
        if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
            raise ValueError(f"{path}: no weights in it: a state dict is expected, or one under state_dict or model")
    clean = load_timm().models.clean_state_dict
    sets = {kind: clean(sets[kind]) for kind in sorted(sets, reverse=True)}
    return Weights({kind: renamed(values) for kind, values in sets.items()}, parts=parts(sets.get("raw", {})))


def put(weights: dict[str, Tensor], model: nn.Module, where: object) -> None:
    """Gives the model these weights. Raises ValueError of one line unless they are the model's, all and only, and
    finite."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{where}: the weights do not fit the model: {reason[:300]}") from error
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{where}: the weights are not finite: {name}")


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Info | None]:
    """The tensors, and what the model is, where the file says it."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    return tensors, from_text(told[KEY], path) if KEY in told else None
