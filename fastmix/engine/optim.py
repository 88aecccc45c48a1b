"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import replace

import torch
from torch import nn

from fastmix.config import Config, Optim, Schedule
from fastmix.engine.lamb import Lamb


def build(cfg: Optim, model: nn.Module, extra: list[dict] = ()) -> torch.optim.Optimizer:
    """SGD, AdamW or LAMB over the model's parameters and a mixer's own groups (`extra`).

    On a GPU NVIDIA apex's fused optimisers where that module is installed, else torch's fused ones; LAMB is that of
    lamb.py (You et al. 2020 as in NVIDIA's code: global-norm clip 1, trust ratio on decayed parameters).
    """
    cuda = next(model.parameters()).is_cuda
    groups = param_groups(cfg, model) + own_groups(cfg, extra)
    common = {"lr": cfg.lr, "weight_decay": cfg.weight_decay}
    apex = _apex() if cuda and cfg.fused == "auto" else None
    if cfg.name == "sgd":
        if apex and cfg.momentum:
            return apex.FusedSGD(groups, momentum=cfg.momentum, nesterov=cfg.nesterov, **common)
        opt = torch.optim.SGD(groups, momentum=cfg.momentum, nesterov=cfg.nesterov, fused=True, **common)
        for p in (p for group in opt.param_groups for p in group["params"] if cfg.momentum):
            opt.state[p]["momentum_buffer"] = torch.zeros_like(p)  # which a first step that overflows leaves undefined
        return opt
    common |= {"betas": cfg.betas, "eps": cfg.eps}
    if cfg.name == "adamw":
        return apex.FusedAdam(groups, **common) if apex else torch.optim.AdamW(groups, fused=True, **common)
    return apex.FusedLAMB(groups, **common) if apex else Lamb(groups, **common)


def param_groups(cfg: Optim, model: nn.Module) -> list[dict]:
    """The model's trained parameters: decayed ones, then spared ones (`weight_decay` 0), of the last layer first.

    With layer_decay d each layer has groups of its own with `lr_scale` d^k, k layers below the last (Clark et al. 2020;
    Bao et al. 2022, BEiT). timm's models say which parameters a layer is. Raises ValueError for one that does not.
    """
    depths = _depths(model) if cfg.layer_decay != 1 else {}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault((depths.get(name, 0), _spared(name, p, cfg.no_decay)), []).append(p)
    out = []
    for (depth, spared), params in sorted(groups.items()):
        scale = {"lr_scale": cfg.layer_decay**depth} if depths else {}
        out.append({"params": params} | scale | ({"weight_decay": 0.0} if spared else {}))
    return out


def own_groups(cfg: Optim, extra: list[dict]) -> list[dict]:
    """A mixer's groups (`Mixer.param_groups`) as the optimiser takes them: spared parameters apart, without names."""
    out = []
    for group in extra:
        parts: dict[bool, list[nn.Parameter]] = {}
        for entry in group["params"]:
            name, p = entry if isinstance(entry, tuple) else ("", entry)
            spared = bool(name) and "weight_decay" not in group and _spared(name, p, cfg.no_decay)
            parts.setdefault(spared, []).append(p)
        out += [group | {"params": part} | ({"weight_decay": 0.0} if spared else {}) for spared, part in parts.items()]
    return out


def learning_rate(cfg: Schedule, lr: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of optimiser step `step` (from 0).

    min + (lr - min) * (1 + cos(pi p)) / 2 with p = epoch / epochs (constant within an epoch) or step / steps. During
    the T steps of warm-up it is multiplied by w = 1 - (1 - t/T)(1 - factor), or with `ramp` is lr * w instead.
    """
    p = (step // steps_per_epoch) / epochs if cfg.per == "epoch" else step / (epochs * steps_per_epoch)
    value = cfg.min_lr + (lr - cfg.min_lr) * (1 + math.cos(math.pi * p)) / 2
    warmup = cfg.warmup_epochs * steps_per_epoch
    if step < warmup:
        share = 1 - (1 - step / warmup) * (1 - cfg.warmup_factor)
        return share * (lr if cfg.warmup == "ramp" else value)
    return value


def rates(opt: torch.optim.Optimizer, cfg: Config, step: int, steps_per_epoch: int) -> tuple[float, list[float]]:
    """The model's learning rate at `step`, and that of each group.

    A group is scaled by its `lr_scale`, or follows its `own_lr`: [lr, min_lr] by the same cosine without warm-up.
    """
    lr, each = learning_rate(cfg.schedule, cfg.optim.lr, step, steps_per_epoch, cfg.epochs), []
    for group in opt.param_groups:
        each.append(lr * group.get("lr_scale", 1.0))
        if "own_lr" in group:
            own, lowest = group["own_lr"]
            schedule = replace(cfg.schedule, min_lr=lowest, warmup_epochs=0)
            each[-1] = learning_rate(schedule, own, step, steps_per_epoch, cfg.epochs)
    return lr, each


def set_rates(opt: torch.optim.Optimizer, cfg: Config, step: int, steps_per_epoch: int) -> float:
    """Gives every group its learning rate at `step` and returns the model's."""
    lr, each = rates(opt, cfg, step, steps_per_epoch)
    for group, value in zip(opt.param_groups, each, strict=True):
        group["lr"] = value
    return lr


def _spared(name: str, p: torch.Tensor, rules: list[str]) -> bool:
    bias = name.endswith("bias")
    for rule in rules:
        if rule == "bias":
            hit = bias
        elif rule == "norm":
            hit = p.ndim <= 1 and not bias
        else:
            hit = fnmatch.fnmatch(name, rule) or rule in name.split(".")
        if hit:
            return True
    return False


def _depths(model: nn.Module) -> dict[str, int]:
    """Parameter name -> layers between it and the last one, as timm counts them."""
    from fastmix.models import load_timm

    load_timm()
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        raise ValueError(f"optim.layer_decay: {type(model).__name__} does not say what its layers are; leave it at 1")
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    return {name: last - layer for name, layer in layers.items()}


def _apex():
    """NVIDIA's apex.optimizers, or None. The PyPI package of that name is another project."""
    try:
        from apex import optimizers
    except ImportError:
        return None
    return optimizers if hasattr(optimizers, "FusedLAMB") else None
