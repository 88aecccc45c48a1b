"""A small training task for every method: networks, options and images that a step of it takes a moment with."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

NAME, CLASSES, SIDE = "test_resnet", 10, 64  # timm's smallest; pixels
CLASS_TOKEN = ("transmix", "mixpro", "tlalign", "tokenmix_attn", "smmix", "mergemix")
VIT = {"img_size": SIDE, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": CLASSES}
OPTIONS = {  # where the defaults do not fit small images, or a method needs to be told something
    "comixup": {"group": 4},
    "fmix": {"bank": 8},
    "attentivemix": {"teacher": NAME, "size": SIDE},
    "tokenmix": {"teacher": NAME, "size": SIDE},
    "supermix": {"teacher": NAME, "steps": 2, "side": 8, "sigma": 1.0},
    "mixpro": {"cell": 16},
    "tlalign": {"patch": 8},
    "tokenmix_attn": {"patch": 8},
    "choice": {"of": {"mixup": {"prob": 0.5}, "cutmix": {"prob": 0.5}}, "granularity": "sample"},
    "decoupledmix": {"of": {"cutmix": {}}},
    "sumix": {"of": {"cutmix": {}}},
    # What is drawn and is no tensor decides which graph a step is: here it is the same in most steps.
    "puzzlemix": {"blocks": 4},
    "guidedmixup": {"mix_prob": 1.0},
    "snapmix": {"mix_prob": 1.0},
    "smmix": {"scope": [0.5, 0.5]},
    "manifoldmix": {"sites": ["stage1"]},
    "automix": {"lam_margin": 0.0},
    "samix": {"lam_margin": 0.0},
    "adautomix": {"lam_margin": 0.0},
}


def network(name: str) -> nn.Module:
    """A small model that the method works with; always the same weights."""
    from fastmix import models
    from fastmix.config import Model

    if name not in CLASS_TOKEN:
        return models.build(Model(NAME), CLASSES, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.load_timm().create_model("vit_tiny_patch16_224", **VIT)


def mixer(name: str):
    """The method with its small options; a teacher's weights are random ones."""
    from fastmix.mixers import build

    options = dict(OPTIONS.get(name, {}))
    if "teacher" in options:
        options["weights"] = teacher()
    return build(name, {name: options})


@cache
def teacher() -> str:
    """A file of random weights of the network NAME, kept as long as this process."""
    from safetensors.torch import save_file

    folder = tempfile.TemporaryDirectory()
    _kept.append(folder)
    path = Path(folder.name, "teacher.safetensors")
    save_file({key: value.contiguous() for key, value in network("vanilla").state_dict().items()}, path)
    return str(path)


_kept: list[tempfile.TemporaryDirectory] = []


def batch(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of noise, uint8 [n,SIDE,SIDE,3], and labels int64 [n]."""
    images = np.random.default_rng([seed, 1]).integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)
    return torch.from_numpy(images), torch.arange(n) % CLASSES
