"""What the tests of all methods share: a small task for each, and a step of it."""

import torch
from torch import nn

from fastmix import config, models
from fastmix.engine import optim
from fastmix.engine.method import step_rng
from fastmix.engine.task import Task
from fastmix.mixers import build
from helpers import attending, teaching
from helpers.mixing import noise

CLASS_TOKEN = ("transmix", "mixpro", "tlalign", "tokenmix_attn", "smmix", "mergemix")
OPTIONS = {
    "comixup": {"group": 4},
    "fmix": {"bank": 8},
    "attentivemix": {"teacher": teaching.NAME, "size": 64},
    "tokenmix": {"teacher": teaching.NAME, "size": 64},
    "supermix": {"teacher": teaching.NAME, "steps": 2, "side": 8, "sigma": 1.0},
    "mixpro": {"cell": 16},
    "tlalign": {"patch": 8},
    "tokenmix_attn": {"patch": 8},
    "choice": {"of": {"mixup": {"prob": 0.5}, "automix": {"prob": 0.5}}},  # one has parameters, the other has none
    "decoupledmix": {"of": {"cutmix": {}}},
    "sumix": {"of": {"cutmix": {}}},
}


def network(name: str, size: tuple[int, int] = (64, 64)) -> nn.Module:
    """A small model that the method works with."""
    if name in CLASS_TOKEN:
        return attending.network(size)
    return models.build(config.Model(teaching.NAME), teaching.CLASSES)


def task_of(
    name: str, teacher: str, size: tuple[int, int] = (64, 64), device: str = "cpu"
) -> tuple[Task, torch.optim.Optimizer]:
    """A method's task on a device, and its optimiser, made there as in a run: SGD's has its momentum from the start."""
    options = dict(OPTIONS.get(name, {}))
    if "teacher" in options:
        options["weights"] = teacher
    cfg = config.Config(precision="fp32", optim=config.Optim(name="sgd", lr=0.05, momentum=0.9))
    task = Task(network(name, size), build(name, {name: options}), cfg).train().to(device)
    return task, optim.build(cfg.optim, task.model, task.mixer.param_groups())


def batch(n: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    given = noise(n, size, seed)
    return given.images, torch.arange(n) % attending.CLASSES


def step(task: Task, opt: torch.optim.Optimizer, k: int, given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """One training step on images and labels, as the loop makes it; the loss."""
    torch.manual_seed(k)
    task.mixer.set_progress(k / 10)
    loss = task(*given, step_rng(0, k, 0))
    loss.backward()
    opt.step()
    opt.zero_grad()
    task.mixer.after_step(task.model)
    return loss.detach()
