"""Step against its own words: a step written out with torch's unfused optimisers, in the order of the docstring."""

import numpy as np
import pytest
import torch
from torch import nn

from fastmix import config, models
from fastmix.engine import optim
from fastmix.engine.ema import Ema
from fastmix.engine.method import step_rng
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.mixers.cutmix import CutMix
from helpers.backbones import SMOOTH

pytestmark = pytest.mark.gradient

EPOCH_STEPS = 3


class Noted(CutMix):
    """Keeps what it is told, and when."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def set_progress(self, t):
        self.heard.append(("progress", t))

    def forward(self, model, batch, criterion):
        self.heard.append(("forward", len(batch)))
        return super().forward(model, batch, criterion)

    def after_step(self, model):
        self.heard.append(("after", model.fc.weight.detach().clone()))


def start(*words: str) -> tuple[config.Config, Task]:
    tree = {"precision": "fp32", "seed": 3, "epochs": 2, "data": {"size": 32}, "schedule": {"per": "step"}}
    tree["model"] = {"name": "test_resnet", "classes": 5, "args": {"drop_rate": 0.3} | SMOOTH}
    cfg = config.from_tree(config.over(tree, words), "test")
    model = models.build(cfg.model, 5, 0, torch.device("cpu"))
    return cfg, Task(model, Noted(), cfg).train()


def batches(count: int):
    rng = np.random.default_rng(0)
    for _ in range(count):
        images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
        yield torch.from_numpy(images), torch.from_numpy(rng.integers(0, 5, 6))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("accum, clip", [(1, None), (2, 0.05)])
def test_a_step_is_what_it_says(name, accum, clip):
    words = [f"optim.name={name}", "optim.lr=0.02", "optim.weight_decay=0.1", f"accum={accum}", "erase.prob=0.5"]
    words += ["optim.eps=0.01"]  # else AdamW makes much of the rounding of gradients near zero
    cfg, task = start(*words, "ema.decay=0.7", "ema.every=2", *([f"optim.clip={clip}"] if clip else []))
    _, other = start(*words)
    ema = Ema(task.model, 0.7)
    step = Step(cfg, task, optim.build(cfg.optim, task.model), torch.amp.GradScaler(enabled=False), EPOCH_STEPS, ema)
    parameters = list(other.model.parameters())
    plain = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    options = {"momentum": 0.9} if name == "sgd" else {"eps": 0.01}
    opt = plain(parameters, 0.0, weight_decay=0.1, fused=False, foreach=False, **options)
    average = [p.detach().double().clone() for p in parameters]
    for k, (images, labels) in enumerate(batches(4)):
        losses = step(images, labels, k)
        torch.manual_seed(step_rng(3, k, 0, accum).integers(2**63))
        opt.param_groups[0]["lr"] = optim.learning_rate(cfg.schedule, 0.02, k, EPOCH_STEPS, 2)
        assert step.lr == opt.param_groups[0]["lr"]
        n, expected = 6 // accum, []
        for part in range(accum):
            own = slice(part * n, part * n + n)
            expected.append(other(images[own], labels[own], step_rng(3, k, 0, part)))
            (expected[-1] / accum).backward()
        torch.testing.assert_close(losses, [loss.detach() for loss in expected], rtol=1e-4, atol=1e-5)
        norm = torch.sqrt(sum(p.grad.double().square().sum() for p in parameters))
        if clip:
            assert norm > clip
            for p in parameters:
                p.grad *= clip / (norm + 1e-6)
        opt.step()
        opt.zero_grad()
        if k % 2:
            average = [0.7 * a + 0.3 * p.detach().double() for a, p in zip(average, parameters, strict=True)]
        for p, q in zip(task.model.parameters(), parameters, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        heard = task.mixer.heard[-accum - 2 :]
        assert [what for what, _ in heard] == ["progress"] + ["forward"] * accum + ["after"]
        assert heard[0][1] == k / (2 * EPOCH_STEPS) and torch.equal(heard[-1][1], task.model.fc.weight)
        assert all(p.grad is None for p in task.model.parameters())
    for got, wanted in zip(ema.module.parameters(), average, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


def test_steps_of_a_process_are_a_function_of_their_number():
    """A step repeated on the same weights gives the same loss, another number another one."""
    cfg, task = start("optim.lr=0.0", "optim.momentum=0")
    task.model.apply(lambda m: setattr(m, "momentum", 0.0) if isinstance(m, nn.BatchNorm2d) else None)
    step = Step(cfg, task, optim.build(cfg.optim, task.model), torch.amp.GradScaler(enabled=False), EPOCH_STEPS)
    images, labels = next(batches(1))
    one, again, other = (step(images, labels, k)[0] for k in (4, 4, 5))
    assert torch.equal(one, again) and not torch.equal(one, other)
