"""Augmentation in runs: what a config draws, where in a step it stands, and that a seed says all of it."""

import math

import numpy as np
import pytest
import torch

from fastmix.config import load
from fastmix.engine.augment import Augmentation, ColorJitter, RandAugment, ThreeAugment, augmentation
from fastmix.kernels.randaugment import randaugment
from fastmix.kernels.randaugment.cases import Case


def task(*words: str):
    from fastmix.engine.task import Task
    from fastmix.mixers import MIXERS

    cfg = load("quickstart", ["precision=fp32", *words])
    return Task(torch.nn.Identity(), MIXERS["mixup"](alpha=1.0), cfg)


def test_the_config_says_what_is_drawn():
    words = ["augment.kind=randaugment", "augment.magnitude=6", "augment.std=.inf", "augment.fill=[104, 116, 124]"]
    made = task(*words, "augment.jitter=[0.1, 0, 0]", "augment.variant=mmcls").augmentation
    policies = [RandAugment(magnitude=6, std=math.inf, variant="mmcls"), ColorJitter(0.1)]
    assert made == Augmentation(policies, "bicubic", (104, 116, 124))
    three = task("augment.kind=three", "augment.interpolation=bilinear", "data.mean=[0.5, 0.25, 1]").augmentation
    assert three == Augmentation([ThreeAugment()], "bilinear", (128, 64, 255))
    assert augmentation(load("quickstart")) is None
    with pytest.raises(ValueError, match="augment.kind is 'rand'"):
        load("quickstart", ["augment.kind=rand"])


def test_training_batches_are_augmented_before_erasing_and_validation_is_not():
    images, labels = Case(8, (24, 20)).arguments()["images"], torch.arange(8)
    before = images.clone()
    made = task("augment.kind=randaugment", "augment.prob=1", "erase.prob=0.5")
    rng, same = (np.random.default_rng(7) for _ in range(2))
    table = made.augmentation.draw(same, 8, (24, 20))
    wanted = randaugment(images, table, "bicubic", made.augmentation.fill)
    batch = made.batch(images, labels, rng)
    assert torch.equal(batch.images, wanted) and not torch.equal(wanted, before) and torch.equal(images, before)
    plain = task("erase.prob=0.5").batch(images, labels, same)
    assert torch.equal(batch.erase.boxes, plain.erase.boxes)
    mixed = batch.mix()
    assert torch.equal(batch.images, wanted), "the mix pass writes memory of its own"
    assert torch.equal(made.batch(images, labels).mix(), task().batch(images, labels).mix())
    place = batch.images.data_ptr()
    del batch
    again = made.batch(images, labels, np.random.default_rng(7))
    assert again.images.data_ptr() == place and torch.equal(again.mix(), mixed)


def test_without_augmentation_nothing_is_drawn():
    images, rng = torch.zeros(8, 24, 20, 3, dtype=torch.uint8), np.random.default_rng(0)
    batch = task().batch(images, torch.arange(8), rng)
    assert batch.images is images
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_a_run_is_a_function_of_the_seed(tmp_path, monkeypatch):
    from fastmix import files, train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    words = ["quickstart", "epochs=1", "precision=fp32", "model.name=test_resnet", "data.size=32", "mix=mixup"]
    words += ["data.train=shapes:train?n=96&size=32", "data.val=shapes:val?n=10&size=32", "augment.jitter=[0.1,0,0.1]"]
    runs = {"none": 1, "randaugment": 1, "randaugment again": 2, "three": 1}
    for name, workers in runs.items():
        assert train.main([*words, f"augment.kind={name.split()[0]}", f"data.workers={workers}", f"out={name}"]) == 0
    weights = {name: files.read_torch(tmp_path / name / "last.pt")["task"] for name in runs}

    def equal(a, b):
        return all(torch.equal(value, weights[b][key]) for key, value in weights[a].items())

    assert equal("randaugment", "randaugment again")
    assert not any(equal("none", name) for name in ("randaugment", "three"))


def test_the_benchmark_measures_every_policy_against_its_peers(capsys):
    from fastmix.bench import augment, main

    main(["augment", "--batch", "3", "--size", "32", "--repeats", "2"])
    table = capsys.readouterr().out
    for name in augment.NAMES:
        lines = [line for line in table.splitlines() if line.startswith(name)]
        assert "fastmix" in lines[0] and len(lines) >= 2
    with pytest.raises(ValueError, match="--repeats"):
        main(["augment", "--repeats", "0"])
