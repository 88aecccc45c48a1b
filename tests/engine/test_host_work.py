"""No host work grows with the batch: a step of 24 images makes the same Python and the same operations as one of 8.

Counted on the CPU: Python's lines (so each turn of a loop) and calls, calls of C, and what torch dispatches, of the
whole step: plan, mix, forward, backward, optimiser. No method is an exception as its tables train it; BOUNDED are those
with other options. Not counted: the inside of a compiled call, which on the CPU is the numba pass; a launch of Triton
only the tests marked cuda run through, and there what autograd's own thread does in Python is not counted.
"""

import numpy as np
import pytest
import torch

from fastmix import MIXERS, config
from fastmix.engine import optim
from fastmix.engine.method import step_rng
from fastmix.engine.task import Task
from fastmix.mixers import build
from helpers import mixing, teaching
from helpers.counting import growth, host_work
from helpers.tasks import batch, network, step, task_of

SIZE = (32, 32)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return teaching.teacher_file(tmp_path_factory.mktemp("teacher"), teaching.trained())


@pytest.mark.parametrize(
    "work",
    [
        lambda n: [k + 1 for k in range(n)],
        lambda n: sum(torch.ones(n).unbind()),
        lambda n: {len(row) for row in [()] * n},
    ],
    ids=["comprehension", "operations", "C calls"],
)
def test_work_for_each_sample_is_noticed(work):
    assert growth(work)


def test_work_for_all_samples_at_once_is_not():
    assert not growth(lambda n: (torch.ones(n, 3).sum(), np.arange(n).sum(), [k for k in range(5)]))


@pytest.mark.long
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MIXERS)
def test_a_step_does_not_grow(name, device, teacher):
    task, opt = task_of(name, teacher, SIZE, device)
    given = {n: [tensor.to(device) for tensor in batch(n, SIZE)] for n in (8, 24)}

    def taken(n: int):
        if name == "adautomix":
            task.mixer.steps = 0  # every other step is of the other kind
        step(task, opt, 1, given[n])

    assert not growth(taken)


def test_an_optimiser_is_made_where_its_task_is(monkeypatch):
    """Without a GPU: on the device without memory."""
    seen = []
    monkeypatch.setattr(
        optim, "build", lambda cfg, model, extra: seen.extend(p.device.type for p in model.parameters())
    )
    task_of("cutmix", "", SIZE, "meta")
    assert set(seen) == {"meta"}


REDRAWN = [row for row in mixing.ROWS if "openmixup" in row and mixing.mixer_of(row).redraws]
BOUNDED = dict.fromkeys(REDRAWN, "draws partners again while an image meets itself, ten times at most") | {
    "gridmix-sample-openmixup": "turns once for each hole of the image that has most of them across",
    "choice-sample": "has those as children",
}


@pytest.mark.parametrize("row", mixing.ROWS)
def test_a_plan_in_every_granularity_and_variant_does_not_grow(row):
    mixer, given = mixing.mixer_of(row), {n: mixing.noise(n, (16, 16)) for n in (8, 24)}

    def mixed(n: int):
        given[n].rng = step_rng(0, 1, 0)
        given[n].mix(mixer.plan(given[n]))

    found = growth(mixed)
    if row in BOUNDED:
        print(f"{row}: not the same, for it {BOUNDED[row]}")
        lines = [sum(host_work(lambda n=n: mixed(n))[0].values()) for n in (8, 24)]
        assert lines[1] < 1.5 * lines[0], "three times the images"
    else:
        assert not found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["randaugment", "three"])
def test_augmenting_and_erasing_do_not_grow(kind, device):
    augment = config.Augment(kind=kind, jitter=(0.3, 0.3, 0.3))
    cfg = config.Config(precision="fp32", augment=augment, erase=config.Erase(prob=0.5))
    task = Task(network("cutmix", SIZE), build("cutmix", {"cutmix": {}}), cfg).to(device)
    given = {n: [tensor.to(device) for tensor in batch(n, SIZE)] for n in (8, 24)}

    def mixed(n: int):
        made = task.batch(*given[n], step_rng(0, 1, 0))
        return made.mix(task.mixer.plan(made).to(device))

    assert not growth(mixed)
