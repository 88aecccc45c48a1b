"""What a line of the log says beside the loss: right numbers, and a run that is the same with and without them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fastmix import MIXERS, Batch, config
from fastmix.engine import loaders, optim
from fastmix.engine.method import step_rng
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.mixers import build
from helpers import tasks
from helpers.small_runs import SMALL, rows, run, same

TERMS = {"puzzlemix": {"clean_lam": 0.5}, "guidedmixup": {"saliency": "ap", "clean_lam": 0.5}}
"""Options with which a method has several terms, where it has one without."""
COMPOSITE = [name for name, mixer in MIXERS.items() if mixer.terms]


def step_of(name: str, options: dict, **settings) -> tuple[Task, Step]:
    cfg = config.from_tree({"precision": "fp32", "optim": {"name": "sgd", "lr": 0.01}, **settings}, "here")
    task = Task(tasks.network(name), build(name, {name: options}), cfg).train()
    opt = optim.build(cfg.optim, task.model, task.mixer.param_groups())
    return task, Step(cfg, task, opt, torch.amp.GradScaler("cpu", enabled=False), 10)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def test_the_automix_family_and_others_have_terms():
    assert {"automix", "samix", "adautomix", "regmixup", "recursivemix", "smmix", "sumix"} <= {*COMPOSITE}


@pytest.mark.parametrize("name", COMPOSITE)
def test_the_terms_of_a_loss_are_all_of_it(name):
    options = tasks.OPTIONS.get(name, {}) | TERMS.get(name, {})
    task, step = step_of(name, options, accum=2)
    losses = step(*tasks.batch(8), 1)
    means = task.tally.means(task.tally.sums.flatten().tolist())
    assert means.keys() == {f"loss_{term}" for term in task.mixer.terms}
    assert sum(means.values()) == pytest.approx(float(sum(losses)) / 2, rel=1e-5)


def test_terms_are_means_over_those_that_have_them():
    """Of two methods one has terms; its steps alone count."""
    task, step = step_of("choice", tasks.OPTIONS["choice"])
    told = []
    for mixer in task.mixer.mixers:
        hear = mixer.listener
        mixer.listener = lambda name, value, hear=hear: (told.append((name, float(value))), hear(name, value))
    for k in range(6):
        step(*tasks.batch(8, seed=k), k)
    means = task.tally.means(task.tally.sums.flatten().tolist())
    q_one = [value for name, value in told if name == "q_one"]
    assert 0 < len(q_one) < 6 and means["loss_q_one"] == pytest.approx(np.mean(q_one), rel=1e-6)


@pytest.mark.parametrize("settings", [{"optim": {"lr": 0.01, "clip": 0.1}}, {"log_grad_norm": True}])
def test_the_gradient_norm_is_that_before_clipping(settings):
    task, step = step_of("cutmix", {}, **settings)
    seen = {}
    for name, p in task.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.update({name: p.grad.double().square().sum()}))
    step(*tasks.batch(8), 1)
    means = task.tally.means(task.tally.sums.flatten().tolist())
    assert means == {"grad_norm": pytest.approx(float(sum(seen.values()).sqrt()), rel=1e-5)}


def test_a_norm_that_is_not_finite_does_not_count():
    task, _ = step_of("cutmix", {}, log_grad_norm=True)
    for value in (1.0, float("inf"), 3.0, float("nan")):
        task.tally.add([("grad_norm", torch.tensor(value))])
    assert task.tally.means(task.tally.sums.flatten().tolist()) == {"grad_norm": 2.0}


CHOICES = [
    ({"of": {"mixup": {"prob": 0.3}, "vanilla": {}}, "granularity": "sample"}, None),
    ({"of": {"vanilla": {}}}, 0.0),
    ({"of": {"automix": {}}}, 1.0),
]


@pytest.mark.parametrize("options, share", CHOICES)
def test_the_share_of_mixed_samples_is_that_of_the_plan(options, share):
    task, step = step_of("choice", options, log_mixed=True)
    images, labels = tasks.batch(16)
    step(images, labels, 3)
    if share is None:
        plan = task.mixer.plan(Batch(images, labels, step_rng(0, 3, 0)))
        share = float(((plan.own.numpy() > 0) & (plan.other.numpy() > 0)).mean())
        assert 0 < share < 1
    assert task.tally.means(task.tally.sums.flatten().tolist())["mixed"] == pytest.approx(share)


def test_without_anything_to_tell_nothing_is_kept():
    task, step = step_of("cutmix", {})
    step(*tasks.batch(8), 0)
    assert task.tally.names == [] and task.tally.sums.shape == (2, 0) and not task.tally.told


def test_a_run_is_the_same_with_all_that_can_be_logged(folder):
    words = ("mix=cutmix", "accum=2", "log_every=1", "model.args.drop_path_rate=0.2", "mix_off=0.5")
    assert run(*words, "out=less") == 0
    assert run(*words, "out=more", "log_grad_norm=true", "log_mixed=true", "log_clean=2") == 0
    same(folder / "less/last.pt", folder / "more/last.pt")
    less, more = rows(folder / "less", "train"), rows(folder / "more", "train")
    assert [row["loss"] for row in less] == [row["loss"] for row in more]
    assert {"grad_norm", "mixed", "clean_top1"}.isdisjoint(less[0]) and all("memory_mb" in row for row in less)
    assert [row["step"] for row in more if "clean_top1" in row] == [2, 4, 6, 8, 10]
    assert all("grad_norm" in row for row in more)
    assert [row["mixed"] for row in more[5:]] == [0.0] * 5, "mixing is off in the second half"


def test_clean_accuracy_is_that_of_the_images_as_they_are(folder):
    """Normalised and judged here, by weights from the checkpoint."""
    import timm

    assert run("mix=cutmix", "out=a", "log_every=1", "log_clean=1", "erase.prob=0.5", "optim.lr=0.01") == 0
    cfg = config.load("a/config.yaml")
    *_, (images, labels, _) = loaders.training(cfg, torch.device("cpu")).epoch(1)
    model = timm.create_model("test_resnet", num_classes=10, checkpoint_path="a/model.safetensors").eval()
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (cfg.data.mean, cfg.data.std))
    x = ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    hits = model.double()(x).argmax(1) == labels
    assert rows(folder / "a", "train")[-1]["clean_top1"] == pytest.approx(100 * float(hits.double().mean()))


def test_memory_of_a_process_is_what_the_system_says(folder):
    import resource

    assert run("mix=vanilla", "out=a") == 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
    found = [json.loads(line)["memory_mb"] for line in (folder / "a/log.jsonl").read_text().splitlines()[:1]]
    assert 0.2 * most < found[0] <= 1.01 * most
