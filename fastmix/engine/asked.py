"""Whom methods ask, when their pictures are drawn: networks, trained or not, and what trained methods have learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fastmix import config, models
from fastmix.errors import foreign
from fastmix.mixers.base import Mixer
from fastmix.mixers.momentum import MomentumMixer
from fastmix.models import weights
from fastmix.models.sites import classes


@dataclass
class Network:
    """A model in eval mode, and what it is: `text`, in words.

    row, options, method: of the run that trained it, the row of its method, that row's content, and what the method has
    beside the model.
    """

    model: nn.Module
    text: str
    row: str | None = None
    options: dict | None = None
    method: dict | None = None


def networks(
    named: list[config.Model], files: list[Path], untrained: bool, seed: int, count: int, size: int, device
) -> list[Network]:
    """The networks that files, run folders and checkpoints hold, then, if untrained, those of the names that are left.

    named: models, for files that do not tell what they hold, in their order; seed: of random weights; count: classes of
    the data; size: pixels a side of its images. Raises ValueError.
    """
    left, found = list(named), []
    for path in map(_file, files):
        content = weights.read(path)
        values, row, options = content.sets.get("ema", content.sets["raw"]), None, None
        if content.config is not None:
            run = config.from_tree(content.config, str(path))
            model, row, options = run.model, run.mix, run.mixers.get(run.mix)
        elif content.info is not None:
            model = config.from_tree(content.info.tree, str(path)).model
        elif left:
            model = left.pop(0)
        else:
            raise ValueError(f"{path}: it does not say what model it is: give --model NAME")
        model = replace(model, weights="", args=_plain(model.args))
        net = models.build(model, model.classes or count, seed, device)
        weights.put(values, net, path)
        found.append(Network(net, f"{model.name} of {path}", row, options, content.method))
    for model in left if untrained else []:
        model = replace(model, weights="", args=_plain(model.args))
        found.append(Network(models.build(model, count, seed, device), f"{model.name}, untrained"))
    for network in found:
        models.to_size(network.model, size, network.text)
    return found


def prepared(mixer: Mixer, name: str, network: Network, count: int, untrained: bool) -> str:
    """Makes a mixer ready to be asked for pictures with that network; returns what is to be said of what it learned.

    name: of its row; count: classes of the data. Raises ValueError where the two do not go together.
    """
    own = network.row == name and bool(network.method)
    if not own and (known := classes(network.model)) < count:
        raise ValueError(f"{network.text} knows {known} classes, the images are of {count}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixer.prepare(network.model)
    mixer.to(next(network.model.parameters()).device)
    learns = any(isinstance(module, MomentumMixer) for module in mixer.modules())
    if own:
        with foreign(f"{network.text}: what {name} has learned there does not fit it"):
            mixer.load_state_dict(network.method)
        return f"mix block trained in {network.text.split(' of ')[-1]}" if learns else ""
    if learns and not untrained:
        raise ValueError(f"{name} draws by a mix block: give --weights RUN of a run that trained it, or --untrained")
    return "untrained mix block" if learns else ""


def _file(where: Path) -> Path:
    """The file of a run folder that holds its method too, if there is one; a file itself. Raises ValueError."""
    if not where.is_dir():
        return where
    for name in ("last.pt", "best.pt", "model.safetensors"):
        if (where / name).is_file():
            return where / name
    raise ValueError(f"{where}: a folder without last.pt, best.pt or model.safetensors of a run")


def _plain(args: dict) -> dict:
    return {key: value for key, value in args.items() if key not in ("pretrained", "checkpoint_path")}
