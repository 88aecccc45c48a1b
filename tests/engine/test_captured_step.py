"""The captured step: on the CPU with a stand-in that replays by doing the captured work again, on a GPU as it is."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fastmix.batch
from fastmix import cli, config, files, models, train
from fastmix.engine import captured_step, checkpoint, optim
from fastmix.engine.captured_step import WARM, CapturedStep
from fastmix.engine.ema import Ema
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.kernels.plan import Plan
from fastmix.mixers import build
from fastmix.mixers.mixup import MixUp
from helpers.backbones import SMOOTH
from helpers.forked import two_processes
from helpers.recording import Again, Record, Recording
from helpers.waiting import no_waits

pytestmark = pytest.mark.gradient

SAMPLE = {"granularity": "sample"}
MIXERS = {
    "vanilla": None,
    "mixup": SAMPLE,
    "cutmix": SAMPLE,
    "fmix": {"bank": 4} | SAMPLE,
    "gridmix": SAMPLE,
    "gridmix_cells": SAMPLE,
    "smoothmix": SAMPLE,
    "resizemix": SAMPLE,
    "saliencymix": {},
}
CHOSEN = {name: options for name, options in MIXERS.items() if name != "saliencymix"}
MIXERS |= {
    "by batch": {"mixer": "choice", "of": {"mixup": {}, "cutmix": {}}},
    "by sample": {"mixer": "choice", "of": CHOSEN} | SAMPLE,
    "two banks": {"mixer": "choice", "of": {n: {"mixer": "fmix", "bank": 4, "seed": k} for k, n in enumerate("ab")}},
    "automix": {"lam_margin": 0.0},
    "puzzlemix": {"blocks": 2},
    "recursivemix": {},
    "regmixup": SAMPLE,
    "decoupled recursivemix": {"mixer": "decoupledmix", "of": {"recursivemix": {}}},
}
PLAIN = [name for name in MIXERS if "recursivemix" not in name]
ADAMW = ("optim.name=adamw", "optim.lr=0.01")
LAMB = ("optim.name=lamb", "optim.lr=0.01")


def configured(mix: str, *words: str, mixers: dict = MIXERS) -> config.Config:
    tree = {"mix": mix, "mixers": mixers, "batch_total": 6, "precision": "fp32", "epochs": 2, "data": {"size": 32}}
    tree["optim"] = {"lr": 0.05, "no_decay": ["norm"]}
    tree["model"] = {"name": "test_resnet", "classes": 5, "args": {"drop_path_rate": 0.3, "drop_rate": 0.2} | SMOOTH}
    return config.from_tree(config.over(tree, words), "test")


def made(kind: type[Step], cfg: config.Config, device: str = "cpu", **options) -> SimpleNamespace:
    """A step of that kind and what it changes, from the same start each time."""
    where = torch.device(device)
    mixer = build(cfg.mix, cfg.mixers)
    model = models.build(cfg.model, 5, 0, where)
    task = Task(model, mixer, cfg).to(where).train()
    opt = optim.build(cfg.optim, model, mixer.param_groups())
    scaler = torch.amp.GradScaler(where.type, enabled=cfg.precision == "fp16", init_scale=2.0**10)
    ema = Ema(model, cfg.ema.decay, cfg.ema.ramp_steps) if cfg.ema.decay else None
    step = kind(cfg, task, opt, scaler, 6, ema, **options)
    return SimpleNamespace(step=step, task=task, opt=opt, scaler=scaler, ema=ema)


def batch(k: int, size: int = 32, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng([k, size])
    images = torch.from_numpy(rng.integers(0, 256, (n, size, size, 3), np.uint8))
    return images, torch.from_numpy(rng.integers(0, 5, n))


@pytest.fixture
def early(monkeypatch):
    """The second step of a signature is captured."""
    monkeypatch.setattr(captured_step, "WARM", 1)


@pytest.fixture
def fp32_rates(monkeypatch):
    """Learning rates that fp32 holds: a tensor of them is what a captured step has."""
    exact = optim.learning_rate
    monkeypatch.setattr(optim, "learning_rate", lambda *args: float(np.float32(exact(*args))))


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def contents(run: SimpleNamespace) -> dict:
    parts = {"task": run.task, "opt": run.opt, "scaler": run.scaler} | ({"ema": run.ema.module} if run.ema else {})
    return {name: part.state_dict() for name, part in parts.items()}


class OfTensors(Step):
    """Its rates are tensors while it steps, as a captured step's are: LAMB rounds their products."""

    def take(self, parts):
        for group in self.opt.param_groups:
            group["lr"] = torch.tensor(group["lr"])
        return super().take(parts)


EVERYTHING = ("erase.prob=0.8", "loss.smoothing=0.1", "optim.clip=0.5", "augment.kind=randaugment", "ema.decay=0.9")
CASES = [(mix, ()) for mix in ("fmix", "by batch", "by sample", "two banks")] + [
    ("vanilla", ADAMW),
    ("cutmix", (*ADAMW, *EVERYTHING)),
    ("mixup", (*EVERYTHING, "ema.every=2", "optim.nesterov=true", "schedule.per=step")),
    ("by batch", (*EVERYTHING, "accum=2")),
    ("saliencymix", ("augment.kind=three", "accum=3")),
    ("by sample", (*ADAMW, "loss.kind=bce", "loss.threshold=0.2", "erase.prob=0.5")),
    ("cutmix", ("precision=bf16",)),
    ("mixup", ("precision=fp16", "optim.clip=0.5")),
    ("mixup", ("precision=fp16", *ADAMW)),
    ("cutmix", (*LAMB, "optim.clip=0.5")),
]


@pytest.mark.parametrize("mix, words", CASES, ids=[" ".join([mix, *words]) for mix, words in CASES])
def test_captured_steps_are_the_ordinary_ones(mix, words, fp32_rates, early):
    """Losses, weights, statistics, optimiser, scaler and average, in every bit."""
    cfg, side = configured(mix, *words), Again()
    one, other = made(OfTensors if cfg.optim.name == "lamb" else Step, cfg), made(CapturedStep, cfg, side=side)
    for k in range(8 if mix in ("by batch", "two banks") else 4):
        assert equal(one.step(*batch(k), k), other.step(*batch(k), k)), k
        assert one.step.lr == other.step.lr
    assert side.captured and side.replayed
    one.step.set_rates(k)
    assert equal(contents(one), contents(other))


def test_a_graph_for_each_size_and_bank_and_no_more_than_the_limit(monkeypatch, fp32_rates, early):
    monkeypatch.setattr(captured_step, "MOST", 3)
    cfg, side = configured("two banks", "ema.decay=0.9"), Again()
    one, other = made(Step, cfg), made(CapturedStep, cfg, side=side)
    for k in range(14):
        size = 32 if k < 7 else 48
        assert equal(one.step(*batch(k, size), k), other.step(*batch(k, size), k)), k
    assert len(other.step.signatures) == 3 >= side.captured >= 2
    assert equal(contents(one), contents(other))


# ---- what is captured reads the same memory and does the same things whatever was drawn ----


def replays(step_of=CapturedStep, mix: str = "mixup", *words: str, steps: int = 3) -> tuple[list[Record], list]:
    side = Recording()
    run = made(step_of, configured(mix, *words), side=side)
    losses = [run.step(*batch(k), k) for k in range(steps)]
    return side.records, losses


@pytest.mark.long
@pytest.mark.parametrize(
    "mix, words",
    [("cutmix", (*ADAMW, *EVERYTHING)), ("mixup", (*EVERYTHING, "accum=2")), ("mixup", ("precision=fp16",))]
    + [("cutmix", (*LAMB, "schedule.per=step")), ("saliencymix", ())]
    + [("by sample", ("precision=bf16", "erase.prob=0.5", "schedule.per=step", "schedule.warmup_epochs=1"))],
)
def test_two_replays_do_the_same_whatever_was_drawn(mix, words, early):
    (first, second), losses = replays(CapturedStep, mix, *words)
    assert not equal(losses[-1], losses[-2])
    assert len(first.calls) == len(second.calls) > 100
    for one, two in zip(first.calls, second.calls, strict=True):
        assert one == two
    assert any(what == "mix" for what, _ in first.calls)
    waits = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select")
    assert not [what for what, _ in first.calls if what.startswith(waits)]


class Baked(MixUp):
    """Its loss has a number that the host drew."""

    def plan(self, batch):
        plan = super().plan(batch)
        self.lam = float(plan.own[0])
        return plan

    def loss(self, model, batch, plan, criterion):
        return self.lam * super().loss(model, batch, plan, criterion)


class Kept(MixUp):
    """Its loss uses a plan that the host has made, instead of the one that lies where it always lies."""

    def plan(self, batch):
        self.kept = super().plan(batch)
        return self.kept

    def loss(self, model, batch, plan, criterion):
        return super().loss(model, batch, self.kept, criterion)


class Sending(MixUp):
    """Its loss sends numbers to the device, if always the same ones."""

    def loss(self, model, batch, plan, criterion):
        blend = Plan.blend(plan.partner, torch.tensor([0.25] * len(batch)))
        return super().loss(model, batch, blend, criterion)


class Drawing(MixUp):
    """Its loss draws."""

    def loss(self, model, batch, plan, criterion):
        return batch.rng.random() * super().loss(model, batch, plan, criterion)


@pytest.mark.parametrize("broken", [Baked, Kept, Sending])
def test_a_method_that_cannot_be_captured_is_found_out(broken, monkeypatch, early):
    monkeypatch.setitem(fastmix.mixers.MIXERS, "mixup", broken)
    (first, second), _ = replays()
    assert len(first.calls) == len(second.calls) and first.calls != second.calls


def test_what_is_captured_has_no_generator(monkeypatch):
    monkeypatch.setitem(fastmix.mixers.MIXERS, "mixup", Drawing)
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'random'"):
        replays(CapturedStep, "mixup", steps=1)


def test_a_learning_rate_that_is_a_number_is_found_out(early):
    class Numbers(CapturedStep):
        set_rates = Step.set_rates

    (first, second), _ = replays(Numbers, "mixup", "schedule.per=step")
    different = {one[0] for one, two in zip(first.calls, second.calls, strict=True) if one != two}
    assert different == {"aten._fused_sgd_.default"}


# ---- checkpoints ----


@pytest.mark.parametrize("words", [("optim.clip=1",), ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("before, after", [(Step, CapturedStep), (CapturedStep, Step), (CapturedStep, CapturedStep)])
def test_a_checkpoint_continues_the_other_kind_of_step(before, after, words, fp32_rates, early, tmp_path):
    cfg = configured("cutmix", *words)

    def start(kind):
        return made(kind, cfg, **({"side": Again()} if kind is CapturedStep else {}))

    whole, one = start(Step), start(before)
    for k in range(6):
        whole.step(*batch(k), k)
    for k in range(3):
        one.step(*batch(k), k)
    files.write_torch(tmp_path / "a.pt", contents(one))
    content = files.read_torch(tmp_path / "a.pt")
    mixer = build(cfg.mix, cfg.mixers)
    model = models.build(cfg.model, 5, 1, torch.device("cpu"))
    task = Task(model, mixer, cfg).train()
    opt, scaler = optim.build(cfg.optim, model), torch.amp.GradScaler("cpu", enabled=False)
    task.load_state_dict(content["task"])
    opt.load_state_dict(content["opt"])
    step = after(cfg, task, opt, scaler, 6, **({"side": Again()} if after is CapturedStep else {}))
    for k in range(3, 6):
        step(*batch(k), k)
    other = SimpleNamespace(task=task, opt=opt, scaler=scaler, ema=None)
    assert equal(contents(other), contents(whole))
    assert all(type(group["lr"]) is float for group in opt.state_dict()["param_groups"])


# ---- several processes ----


def process() -> None:
    """Steps with gradients averaged over the processes, each of which draws its own methods: ordinary and captured."""
    captured_step.WARM, captured_step.WARM_SHARED = 1, 2
    of = {"mixup": {}, "automix": {"lam_margin": 0.0}}
    cfg = configured("several", "accum=2", "ema.decay=0.9", mixers={"several": {"mixer": "choice", "of": of}})
    kept = optim.learning_rate
    optim.learning_rate = lambda *args: float(np.float32(kept(*args)))
    side, place = Again(), torch.distributed.get_rank()
    one, other = made(Step, cfg), made(CapturedStep, cfg, side=side)
    for k in range(8):
        assert equal(one.step(*batch(2 * k + place), k), other.step(*batch(2 * k + place), k)), k
        assert side.captured == 0 or k >= 2
    assert side.replayed >= 4 and equal(contents(one), contents(other))
    shared = [torch.zeros_like(p) for p in other.task.model.parameters()]
    for p, total in zip(other.task.model.parameters(), shared, strict=True):
        torch.distributed.all_reduce(total.copy_(p.detach()))
        torch.testing.assert_close(total / 2, p.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.long
def test_two_processes_replay_as_they_step(running):
    two_processes(running, __file__)


# ---- what is refused ----

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    "mix, words, device, says",
    [
        ("cutmix", (), torch.device("cpu"), "the device is cpu, which has no CUDA graphs"),
        ("recursivemix", (), CUDA, "RecursiveMix pastes a box of another size in each step"),
        ("decoupled recursivemix", (), CUDA, "DecoupledMix holds RecursiveMix, which pastes a box of another size"),
        ("cutmix", ("model.compile=reduce-overhead",), CUDA, "model.compile=reduce-overhead captures graphs itself"),
        ("cutmix", ("model.compile=max-autotune",), CUDA, "model.compile=max-autotune captures graphs itself"),
        ("cutmix", ("optim.name=lamb", "precision=fp16"), CUDA, "lamb in fp16 waits for the device"),
        ("cutmix", ("ddp.compression=powersgd",), CUDA, "powersgd counts steps on the host"),
    ],
)
def test_refused(mix, words, device, says):
    cfg = configured(mix, "cuda_graph=true", *words)
    opt = optim.build(cfg.optim, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=f"^cuda_graph: {says}") as error:
        captured_step.check(cfg, build(cfg.mix, cfg.mixers), opt, device)
    assert "\n" not in str(error.value)


def test_refused_with_apex():
    cfg, mixer = configured("cutmix"), build("cutmix", MIXERS)

    class FusedSGD(torch.optim.SGD):
        pass

    parameters = [torch.zeros(1, requires_grad=True)]
    with pytest.raises(ValueError, match="apex's optimiser .* optim.fused=torch"):
        captured_step.check(cfg, mixer, FusedSGD(parameters), CUDA)


@pytest.mark.parametrize("mix", PLAIN)
def test_taken(mix):
    cfg = configured(mix, "model.compile=default")
    captured_step.check(cfg, build(cfg.mix, cfg.mixers), optim.build(cfg.optim, torch.nn.Linear(2, 2)), CUDA)


SMALL = """
epochs: 2
batch_total: 20
precision: fp32
data: {train: "shapes:train?n=100&size=32", val: "shapes:val?n=20&size=32", size: 32, val_resize: null, workers: 2}
model: {name: test_resnet, args: {drop_path_rate: 0.2, act_layer: gelu, replace_stem_pool: true}}
optim: {lr: 0.05, fused: torch}
mixers: {cutmix: {}}
mix: cutmix
cuda_graph: true
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def test_a_run_is_refused_before_anything_is_written(small):
    with pytest.raises(ValueError, match="cuda_graph: the device is cpu"):
        train.main(["small.yaml", "device=cpu", "out=a"])
    assert not (small / "a").exists()


# ---- on a GPU ----


@pytest.mark.cuda
@pytest.mark.parametrize("words", [(), (*ADAMW, *EVERYTHING), ("precision=bf16", "accum=2"), LAMB], ids=str)
@pytest.mark.parametrize("mix", ["vanilla", "cutmix", "fmix", "by sample", "saliencymix", "puzzlemix", "automix"])
def test_replays_train_as_launched_steps_do(mix, words):
    """To the rounding of atomic additions in the backward pass; dropout and plans are the same."""
    cfg = configured(mix, "optim.fused=torch", "optim.eps=0.01", *words)
    one, other = made(Step, cfg, "cuda"), made(CapturedStep, cfg, "cuda")
    batches = [tuple(t.cuda() for t in batch(k)) for k in range(8)]
    for k, given in enumerate(batches):
        with no_waits() if k > WARM else contextlib.nullcontext():
            losses = one.step(*given, k), other.step(*given, k)
        torch.testing.assert_close(*losses, rtol=2e-2 if "precision=bf16" in words else 1e-3, atol=1e-4)
    assert next(iter(other.step.signatures.values())).replay is not None
    far = 2e-2 if "precision=bf16" in words else 1e-3
    for name, value in one.task.state_dict().items():
        torch.testing.assert_close(other.task.state_dict()[name], value, rtol=far, atol=far)


@pytest.mark.cuda
def test_a_captured_run_continues(small, monkeypatch):
    """An interrupted run and its continuation, captured again, end where the uninterrupted one ends."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # each run chooses its own algorithms
    assert train.main(["small.yaml", "device=cuda", "out=whole"]) == 0
    record = checkpoint.State.record

    def recording(self, loss):
        record(self, loss)
        self.stop = self.stop or self.step + 1 == 5

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.State, "record", recording)
        assert train.main(["small.yaml", "device=cuda", "out=parts", "log_every=1"]) == cli.TRY_AGAIN
    assert files.read_torch(small / "parts/last.pt")["run"]["step"] == 5
    assert train.main(["small.yaml", "device=cuda", "out=parts", "--resume"]) == 0
    whole, parts = (files.read_torch(small / name / "last.pt")["task"] for name in ("whole", "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-3)
