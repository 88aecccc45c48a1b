"""Mixing ends and layers thaw at their epochs, whatever wraps the task; a resume lands in the same phase."""

import torch
from torch import nn

from fastmix import config, models
from fastmix.engine.phases import Phases
from fastmix.engine.task import Task
from fastmix.mixers import build


def task(mix="automix", **tree):
    cfg = config.from_tree(
        {"epochs": 10, "precision": "fp32", "data": {"size": 32}, "mix": mix, "mixers": {mix: {}}} | tree, "test"
    )
    return cfg, Task(models.build(config.Model("test_resnet"), 4), build(mix, cfg.mixers), cfg)


def test_the_last_epochs_are_not_mixed():
    cfg, run = task(mix_off=0.25)
    phases, learned = Phases(cfg, run), [p for p in run.mixer.parameters() if p.requires_grad]
    assert learned
    for epoch in range(10):
        lines = phases.enter(epoch)
        assert run.mixing == (epoch < 8) and all(p.requires_grad == run.mixing for p in learned)
        assert lines == (["epoch 8: mixing is off"] if epoch == 8 else [])


def test_layers_thaw_at_their_epoch():
    cfg, run = task("vanilla", model={"name": "test_resnet", "freeze": ["layer1"], "unfreeze": 3})
    phases = Phases(cfg, run)
    for epoch in range(5):
        lines = phases.enter(epoch)
        run.train()
        assert all(p.requires_grad == (epoch >= 3) for p in run.model.layer1.parameters())
        norms = [m for m in run.model.layer1.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and all(m.training == (epoch >= 3) for m in norms) and run.model.fc.weight.requires_grad
        assert lines == (["epoch 3: frozen layers thaw"] if epoch == 3 else [])


def test_entered_in_the_middle_as_after_a_resume():
    cfg, run = task(mix_off=0.5, model={"name": "test_resnet", "freeze": ["backbone"], "unfreeze": 2})
    assert Phases(cfg, run).enter(7) and not run.mixing and all(p.requires_grad for p in run.model.parameters())


def test_without_mixing_the_loss_is_that_of_vanilla():
    _, run = task("cutmix")
    _, plain = task("vanilla")
    images, labels = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8), torch.arange(8) % 4
    run.eval(), plain.eval()
    run.mixing = False
    assert torch.equal(run(images, labels, None), plain(images, labels, None))
