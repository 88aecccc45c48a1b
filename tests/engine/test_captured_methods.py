"""Every method's captured step, on a CPU: which are captured, that they are the ordinary steps in every bit, and that
two replays do the same operations, with the same numbers, on the same memory, whatever was drawn in between.
"""

import pytest
import torch

from fastmix import MIXERS, config
from fastmix.engine import captured_step, optim
from fastmix.engine.captured_step import CapturedStep
from fastmix.engine.ema import Ema
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.mixers import build
from helpers import ROOT, tasks, teaching
from helpers.recording import Recording

pytestmark = pytest.mark.gradient

SIZE, BATCH, MOST_STEPS = (32, 32), 4, 24
REFUSED = ["recursivemix"]
SHORT = ("automix", "comixup", "transmix")
MORE = {  # options whose passes differ from those of the tests' small ones, and what is drawn comes again soon
    "automix": {"lam_margin": 0.0, "mask_adjust": 1.0, "block_prob": 0.5},
    "adautomix": {"samples": 3, "lam_margin": 0.0},
    "puzzlemix": {"blocks": 4},
    "guidedmixup": {"saliency": "ap", "clean_lam": 0.5},
    "mixpro": {"cell": 16, "pal": False},
    "smmix": {"scope": [0.5, 0.5]},
    "sumix": {"of": {"puzzlemix": {"blocks": 2}}},
    "supermix": {"labels": "teacher"},
    "choice": {"of": {"mixup": {}, "attentivemix": {"size": 32}}},
    "decoupledmix": {"of": {"manifoldmix": {}, "cutmix": {}}},
}
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return teaching.teacher_file(tmp_path_factory.mktemp("teacher"), teaching.trained())


def options_of(name: str, teacher: str) -> dict:
    options = tasks.OPTIONS.get(name, {}) | MORE.get(name, {})
    if name == "choice":
        options["of"]["attentivemix"] |= tasks.OPTIONS["attentivemix"] | {"weights": teacher, "size": 32}
    return options | ({"weights": teacher} if "teacher" in options else {})


def made(kind: type[Step], name: str, teacher: str, **options) -> Step:
    """A step of a method from the same start each time, with rates that fp32 holds, clipping and an average."""
    tree = {"optim": {"name": "sgd", "lr": 0.0625, "clip": 1.0}, "schedule": {"per": "epoch"}, "precision": "fp32"}
    cfg = config.from_tree(tree | {"log_mixed": True}, "the test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = Task(tasks.network(name, SIZE), build(name, {name: options_of(name, teacher)}), cfg).train()
    opt = optim.build(cfg.optim, task.model, task.mixer.param_groups())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return kind(cfg, task, opt, scaler, 1000, Ema(task.model, 0.9), **options)


def replayed(name: str, teacher: str) -> tuple[Step, Step, Recording]:
    """An ordinary and a captured step of a method, taken until one of a signature has been replayed twice, and the
    recorded replays. Asserts that the losses are the same.
    """
    side = Recording()
    one, other = made(Step, name, teacher), made(CapturedStep, name, teacher, side=side)
    for k in range(MOST_STEPS):
        given = tasks.batch(BATCH, SIZE, seed=k)
        losses = one(*given, k), other(*given, k)
        assert torch.equal(*(torch.stack(each) for each in losses)), k
        if any(len(side.of(record.work)) == 2 and is_step(record) for record in side.records):
            return one, other, side
    raise AssertionError("no signature came twice")


def equal(one: dict, two: dict) -> bool:
    pairs = [(value, two[key]) for key, value in one.items()]
    return all(torch.equal(*pair) if isinstance(pair[0], torch.Tensor) else pair[0] == pair[1] for pair in pairs)


def is_step(record) -> bool:
    return any(what.startswith("aten._fused_sgd_") for what, _ in record.calls)


METHODS = [name for name in MIXERS if name not in REFUSED]


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in METHODS]
)
def test_replays_are_the_ordinary_steps_and_do_the_same(name, teacher, monkeypatch):
    monkeypatch.setattr(captured_step, "WARM", 1)
    one, other, side = replayed(name, teacher)
    assert equal(one.task.state_dict(), other.task.state_dict())
    assert equal(one.ema.module.state_dict(), other.ema.module.state_dict())
    assert torch.equal(one.task.tally.sums, other.task.tally.sums)
    for first in side.records:
        for second in side.of(first.work):
            assert first.calls == second.calls
        assert not [what for what, _ in first.calls if what.startswith(WAITS)]


def test_which_are_captured(teacher):
    """And the documents say so."""
    cfg, opt = config.Config(precision="bf16"), torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    refused = []
    for name in MIXERS:
        try:
            captured_step.check(cfg, build(name, {name: options_of(name, teacher)}), opt, torch.device("cuda"))
        except ValueError:
            refused.append(name)
    assert refused == REFUSED
    says = f"Captured are {len(METHODS)} of the {len(MIXERS)} methods of `MIXERS`, all but `{'`, `'.join(REFUSED)}`"
    assert says in " ".join((ROOT / "docs" / "design.md").read_text().split())
