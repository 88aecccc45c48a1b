"""fp16 with a loss scale, on a CPU: AutoMix on a ViT, whose mix block has the smallest gradients and q the largest."""

import numpy as np
import pytest
import torch

from fastmix import config, mixers, models
from fastmix.engine import optim
from fastmix.engine.method import step_rng
from fastmix.engine.step import Step
from fastmix.engine.task import Task

pytestmark = pytest.mark.gradient

VIT = {
    "name": "deit_tiny_patch16_224",
    "classes": 5,
    "args": {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3},
}
START = 65536.0  # GradScaler's first scale


def training(precision: str, confidence: float = 1.0) -> tuple[Task, Step, torch.amp.GradScaler]:
    """confidence: what the classifier's weights are multiplied by; the surer the network, the larger its gradients."""
    tree = {"precision": precision, "seed": 1, "epochs": 4, "mix": "automix", "batch_total": 12, "data": {"size": 64}}
    tree |= {"model": VIT, "optim": {"name": "adamw", "lr": 1e-3}}
    tree |= {"mixers": {"automix": {"alpha": 2.0, "block": {"lr": 1e-3, "min_lr": 1e-4}}}}
    cfg = config.from_tree(tree, "test")
    model = models.build(cfg.model, 5, 1, torch.device("cpu"))
    with torch.no_grad():
        model.get_classifier().weight.mul_(confidence)
    task = Task(model, mixers.build("automix", cfg.mixers), cfg).train()
    opt = optim.build(cfg.optim, model, task.mixer.param_groups())
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    return task, Step(cfg, task, opt, scaler, 20), scaler


def easy_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Classes that differ in brightness."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 5, 12))
    images = rng.integers(0, 120, (12, 64, 64, 3)) + 25 * labels.numpy()[:, None, None, None]
    return torch.from_numpy(images.astype(np.uint8)), labels


def of_the_block(precision: str, scale: float) -> torch.Tensor:
    """The gradient of its queries' weights, unscaled in fp32."""
    task, _, _ = training(precision)
    with torch.autocast("cpu", torch.float16, enabled=precision == "fp16"):
        loss = task(*easy_images(), step_rng(1, 0, 0))
    (loss * scale).backward()
    return task.mixer.block.query.weight.grad / scale


def test_scaled_gradients_do_not_underflow():
    exact, bare, scaled = of_the_block("fp32", 1.0), of_the_block("fp16", 1.0), of_the_block("fp16", START)
    assert not (exact == 0).any()
    assert (bare == 0).float().mean() > 0.1 and not (scaled == 0).any()
    wrong, near = ((found - exact).norm() / exact.norm() for found in (bare, scaled))
    assert near < 0.02 and near < wrong / 5


@pytest.mark.long
def test_training_goes_on_after_an_overflow():
    task, step, scaler = training("fp16", confidence=20.0)
    images, labels = easy_images()
    losses, skipped = [], 0
    for number in range(80):
        before, scale = [p.detach().clone() for p in step.task.parameters() if p.requires_grad], scaler.get_scale()
        losses.append(step(images, labels, number)[0].item())
        after = [p.detach() for p in step.task.parameters() if p.requires_grad]
        if scaler.get_scale() < scale:
            skipped += 1
            assert all(map(torch.equal, before, after)), "a step that overflows is none"
        else:
            moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert np.mean(moved) > 0.95 and all(p.isfinite().all() for p in after)
    assert START == 2.0**16 and 1 <= skipped < 12, "it overflows at the first scale, and recovers"
    assert scaler.get_scale() == START / 2**skipped and np.isfinite(losses).all()
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:5])
