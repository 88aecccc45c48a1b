"""RecursiveMix against loops over pixels and samples in float64, torchvision's RoI-Align, and itself after a resume."""

import copy
import inspect
import math
import shutil
from importlib import import_module

import numpy as np
import pytest
import torch

from fastmix import Targets, files
from fastmix.engine.checkpoint import joined
from fastmix.mixers import RecursiveMix, build
from fastmix.mixers.recursivemix import HISTORY, along, region
from fastmix.targets import CrossEntropy
from helpers import small_runs
from helpers.backbones import NAMES, SMOOTH, make, size_of
from helpers.graphs import Counted
from helpers.mixing import SIDE, clipped_length, noise, shapes, within
from helpers.small_runs import launch, run, same, stop_at
from helpers.transformers import CLASSES, batch_of, heard, vit

pytestmark = pytest.mark.gradient


def prepared(model: torch.nn.Module, **options) -> RecursiveMix:
    mixer = RecursiveMix(**options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixer.prepare(model)
    return mixer


def step(mixer, model, *parts, smoothing: float = 0.0) -> list:
    """What the criterion was given in each part of a step, whose loss it keeps."""
    mixer.set_progress(0.0)
    found = [heard(mixer, model, part, smoothing) for part in parts]
    mixer.after_step(model)
    return found


# ---- the paper's formulas ----


def box_of(rng: np.random.Generator, alpha: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """y0, y1, x0, x1 of the next draws."""
    side = math.sqrt(rng.uniform(0, alpha))
    centres, edges = [int(rng.integers(0, length)) for length in size], []
    for centre, length in zip(centres, size, strict=True):
        half = int(length * side) // 2
        edges += [max(centre - half, 0), min(centre + half, length)]
    return tuple(edges)


def resized(image: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    """An image [3,H,W], pixel by pixel."""
    out = torch.empty(3, height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            if mode == "nearest":
                out[:, y, x] = image[:, y * image.shape[1] // height, x * image.shape[2] // width]
                continue
            place = [k * (full - 1) / (part - 1) if part > 1 else 0.0
                     for k, part, full in ((y, height, image.shape[1]), (x, width, image.shape[2]))]  # fmt: skip
            (v, u), out[:, y, x] = map(int, place), 0
            for dy in (0, 1):
                for dx in (0, 1):
                    weight = (1 - abs(place[0] - v - dy)) * (1 - abs(place[1] - u - dx))
                    at = min(v + dy, image.shape[1] - 1), min(u + dx, image.shape[2] - 1)
                    out[:, y, x] += weight * image[:, at[0], at[1]]
    return out


def roi_align(features: torch.Tensor, box: tuple, scale: float) -> torch.Tensor:
    """torchvision's in plain torch, of one box for all samples, to one cell. [B,C]"""
    import_module("fastmix.compat")
    theirs = inspect.unwrap(import_module("torchvision.ops.roi_align")._roi_align)
    y0, y1, x0, x1 = box
    boxes = torch.tensor([[i, x0, y0, x1, y1] for i in range(len(features))], dtype=features.dtype)
    return theirs(features, boxes, scale, 1, 1, -1, True).flatten(1)


class Paper:
    """The method, sample by sample in float64, with torchvision's RoI-Align."""

    def __init__(self, model, head, alpha: float, omega: float, mode: str, smoothing: float):
        self.model, self.head, self.smoothing = model, head, smoothing
        self.alpha, self.omega, self.mode, self.past = alpha, omega, mode, None

    def loss(self, batch) -> torch.Tensor:
        h, w = batch.size
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (batch.mean, batch.std))
        x = (batch.images.permute(0, 3, 1, 2).double() / 255 - mean) / std
        labels = torch.eye(CLASSES, dtype=torch.float64)[batch.labels]
        y0, y1, x0, x1 = box_of(batch.rng, self.alpha, batch.size)
        share = (y1 - y0) * (x1 - x0) / (h * w) if self.past else 0.0
        if share:
            for i in range(len(x)):
                image, label, _ = self.past[i % len(self.past)]
                x[i, :, y0:y1, x0:x1] = resized(image, y1 - y0, x1 - x0, self.mode)
                labels[i] = (1 - share) * labels[i] + share * label
        features = self.model.forward_features(x.float())
        logp = self.model.forward_head(features).double().log_softmax(1)
        total = 0
        for i in range(len(x)):
            target = (1 - self.smoothing) * labels[i] + self.smoothing / CLASSES
            total = total - (target * logp[i]).sum()
        if share:
            r = roi_align(features.double(), (y0, y1, x0, x1), features.shape[3] / w)
            inside = (r @ self.head.weight.double().T + self.head.bias.double()).log_softmax(1)
            for i in range(len(x)):
                p = self.past[i % len(self.past)][2]
                total = total + self.omega * share * (p * (p.log() - inside[i])).sum()
        self.past = [*zip(x, labels, logp.detach().exp(), strict=True)]
        self.share = share
        return total / len(x)


@pytest.mark.parametrize("mode, omega, smoothing", [("nearest", 0.7, 0.0), ("bilinear", 0.1, 0.1)])
def test_losses_and_gradients_of_a_run_are_those_of_the_paper(mode, omega, smoothing):
    model = make("test_resnet", **SMOOTH).train()
    mixer = prepared(model, alpha=0.9, omega=omega, mode=mode)
    other = copy.deepcopy(model)
    paper, shares = Paper(other, copy.deepcopy(mixer.head), 0.9, omega, mode, smoothing), []
    for k in range(5):
        batch, given = (batch_of(4, (64, 64), seed=k) for _ in range(2))
        [found], expected = step(mixer, model, batch, smoothing=smoothing), paper.loss(given)
        assert found.loss.item() == pytest.approx(expected.item(), rel=2e-5)
        assert (found.targets.dense(CLASSES).double() - torch.stack([p[1] for p in paper.past])).abs().max() < 1e-6
        nets = ((found.loss, model, mixer.head), (expected, other, paper.head))
        ours, theirs = (torch.autograd.grad(loss, [*net.parameters(), *head.parameters()], allow_unused=True)
                        for loss, net, head in nets)  # fmt: skip
        largest = max(g.abs().max() for g in theirs if g is not None)
        for a, b in zip(ours, theirs, strict=True):
            assert (a - (0 if b is None else b)).abs().max() < 1e-4 * largest
        shares.append(paper.share)
    assert shares[0] == 0 and sum(share > 0.02 for share in shares) >= 3
    assert (mixer.labels > 0).sum(1).max() > 2, "labels of labels"


@pytest.mark.parametrize("cells, stride", [((7, 7), 32), ((2, 3), 32), ((8, 8), 4), ((1, 1), 16)])
def test_a_region_is_torchvisions_roi_align(cells, stride):
    rng = np.random.default_rng(cells[1])
    features = torch.from_numpy(rng.normal(size=(2, 3, *cells)))
    size = tuple(stride * n for n in cells)
    for _ in range(60):
        (y0, y1), (x0, x1) = (sorted(rng.choice(length + 1, 2, replace=False).tolist()) for length in size)
        expected = roi_align(features, (y0, y1, x0, x1), 1 / stride)
        found = region(torch.nn.Identity(), features, (y0, y1, x0, x1), size)
        assert (found - expected).abs().max() < 1e-6
    assert not along(5, 5, 32, 4).any()
    whole = region(torch.nn.Identity(), features, (0, size[0], 0, size[1]), size)
    assert torch.allclose(whole, features.mean((2, 3)), atol=1e-6), "of all of it: the mean"


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_share_has_the_mean_of_its_law(alpha):
    mixer = RecursiveMix(alpha=alpha)
    mixer.images = torch.zeros(1, 3, 1, 1)
    batch, shares = shapes(1, (SIDE, SIDE), seed=5), []
    for _ in range(8000):
        y0, y1, x0, x1 = mixer.box(batch)
        shares.append((y1 - y0) * (x1 - x0) / SIDE**2)
    sides = np.arange(SIDE + 1)
    edges = np.minimum(np.append(sides, SIDE + 1) ** 2 / (alpha * SIDE**2), 1)  # of floor(H sqrt(S)), S < alpha
    exact = sum(p * clipped_length(s, SIDE) ** 2 for p, s in zip(np.diff(edges), sides, strict=True)) / SIDE**2
    assert within(np.array(shares), exact) and max(shares) <= alpha


# ---- the history ----


def test_the_first_step_is_not_mixed_and_its_loss_is_the_criterions():
    model = vit()
    mixer = prepared(model)
    batch = batch_of(5)
    assert torch.equal(mixer.shown(model, batch_of(5), CrossEntropy()).images, batch.mix())
    [found] = step(mixer, model, batch_of(5), smoothing=0.1)
    assert found.loss.item() == pytest.approx(
        CrossEntropy(0.1)(found.logits, Targets.of(batch.labels)).item(), rel=1e-6
    )
    assert torch.equal(mixer.images, batch.mix())
    assert torch.equal(mixer.predictions, found.logits.softmax(1))
    assert not any(part.requires_grad for part in (mixer.images, mixer.labels, mixer.predictions))


def numbered(n: int, size: tuple[int, int] = (32, 32), seed: int = 0):
    """Image i has the value 10 i everywhere."""
    batch = batch_of(n, size, seed)
    batch.images = (10 * torch.arange(n, dtype=torch.uint8))[:, None, None, None].expand(n, *size, 3).contiguous()
    return batch


@pytest.mark.parametrize("first, second", [((6,), (3, 3)), ((2, 2, 2), (6,)), ((3,), (3, 3)), ((6,), (2, 2))])
def test_sample_i_of_a_step_meets_sample_i_of_the_one_before(first, second):
    """Whatever the parts; where there were fewer it begins anew."""
    model, inputs = vit(), []
    mixer = prepared(model, alpha=1.0)
    model.register_forward_pre_hook(lambda module, given: inputs.append(given[0].clone()))
    batches = [numbered(n, seed=2) for n in first]
    for k, batch in enumerate(batches):
        batch.images = batch.images + 10 * sum(first[:k])
    step(mixer, model, *batches)
    before = mixer.images.clone()
    assert torch.equal(before, numbered(sum(first)).mix())
    inputs.clear()
    parts = [numbered(n, seed=9) for n in second]
    for part in parts:
        part.images = 255 - 0 * part.images
    boxes = [box_of(np.random.default_rng(9), 1.0, (32, 32)) for _ in second]
    step(mixer, model, *parts)
    for k, (x, (y0, y1, x0, x1)) in enumerate(zip(inputs, boxes, strict=True)):
        for i in range(len(x)):
            old = before[(sum(second[:k]) + i) % sum(first)]
            assert y1 - y0 > 1 and (x[i, :, y0:y1, x0:x1] == old[:, :1, :1]).all()
    assert torch.equal(mixer.images, torch.cat(inputs))


def test_images_of_another_size_fit_into_the_box():
    model = make("test_resnet").train()
    mixer = prepared(model, alpha=1.0)
    for n, size in ((6, (64, 64)), (3, (96, 64)), (8, (32, 32)), (2, (64, 64))):
        before = mixer.images
        [found] = step(mixer, model, batch_of(n, size, seed=4))
        box = y0, y1, x0, x1 = box_of(np.random.default_rng(4), 1.0, size)
        assert found.loss.isfinite() and mixer.images.shape == (n, 3, *size) and y1 > y0 and x1 > x0
        for i in range(n if len(before) else 0):
            expected = resized(before[i % len(before)].double(), y1 - y0, x1 - x0, "nearest")
            assert torch.equal(mixer.images[i, :, y0:y1, x0:x1].double(), expected), box


def test_what_is_not_a_step_leaves_the_history_as_it_is():
    """A picture, and the passes that measure batch statistics."""
    model = vit()
    mixer = prepared(model)
    step(mixer, model, batch_of(4))
    twin = copy.deepcopy(mixer)
    mixer.shown(model, batch_of(4, seed=1), CrossEntropy())
    for seed in (2, 3):
        mixer.set_progress(0.0)
        mixer(model, batch_of(4, seed=seed), CrossEntropy())
    one, two = (step(m, model, batch_of(4, seed=5))[0].loss for m in (mixer, twin))
    assert torch.equal(one, two) and all(map(torch.equal, mixer.buffers(), twin.buffers()))


def test_a_choice_keeps_it_while_another_method_is_drawn():
    model = vit()
    mixer = build("choice", {"choice": {"of": {"recursivemix": {}, "vanilla": {}}}})
    mixer.prepare(model)
    own = mixer.mixers[0]
    for k in range(8):
        drawn = mixer.draw(np.random.default_rng(k))
        before = own.images
        step(mixer, model, batch_of(3, seed=k))
        assert (own.images is before) == (drawn == 1)


# ---- checkpoints ----


def test_a_checkpoint_fits_whose_history_has_another_size_and_no_other():
    model = vit()
    mixer, other = prepared(model), prepared(model)
    for n in (4, 3):
        step(mixer, model, batch_of(n))
        other.load_state_dict(copy.deepcopy(mixer.state_dict()))
        assert all(torch.equal(getattr(mixer, part), getattr(other, part)) for part in HISTORY)
    good = mixer.state_dict()
    for part, wrong in (("images", torch.zeros(3, 4, 32, 32)), ("labels", torch.zeros(2, CLASSES)),
                        ("predictions", torch.zeros(3, CLASSES + 1)), ("labels", torch.zeros(3, CLASSES).long()),
                        ("images", torch.zeros(0, 3, 32, 32))):  # fmt: skip
        fresh = prepared(model)
        with pytest.raises(RuntimeError, match="size mismatch"):
            fresh.load_state_dict(good | {part: wrong})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = ", recursivemix: {alpha: 0.9}, both: {mixer: choice, of: {recursivemix: {}, cutmix: {}}}}"
    (tmp_path / "small.yaml").write_text(small_runs.SMALL.strip().removesuffix("}") + rows)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [(), ("accum=2", "precise_bn=40", "data.val_size=32", "data.size=48", "data.ramp=[32, 1, 1]", "precision=bf16")],
    ids=str,
)
def test_a_run_resumes_bit_for_bit(folder, monkeypatch, words):
    """At a step within an epoch and, with what may disturb it, accumulated parts and growing images."""
    words = ("mix=recursivemix", "log_every=1", *words)
    assert run(*words, "out=whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert run(*words, "out=parts") == 75
    saved = files.read_torch(folder / "parts/last.pt")["task"]
    assert len(saved["mixer.images"]) == 20 and saved["mixer.labels"].shape == (20, 10)
    assert run(*words, "out=parts", resume=True) == 0
    same(folder / "whole/last.pt", folder / "parts/last.pt")


@pytest.mark.long
def test_two_processes_have_a_history_each_and_resume_bit_for_bit(running, folder):
    """At step 1 one process has drawn the method, the other has not."""
    words = ("mix=both", "seed=0", "log_every=1", "mix_off=0.5")
    launch(running, *words, "out=whole", "save_every=1")
    stopped = {"before": ("faults.during", "SIGTERM", "1"), "says": "stopped at step 1 of 10, saved"}
    launch(running, *words, "out=parts", **stopped)
    saved = files.read_torch(folder / "parts/last.pt")["processes"]
    histories = [value for each in saved for key, value in each["buffers"]["task"].items() if key.endswith("images")]
    assert [*map(len, histories)] == [10, 0] and not torch.equal(*histories)
    shutil.copytree("parts", "alone")
    launch(running, *words, "out=parts", "--resume")
    same(folder / "whole/last.pt", folder / "parts/last.pt")
    assert run(*words, "out=alone", resume=True) == 0


def test_what_one_process_takes_of_several():
    one, two = torch.arange(6.0).view(2, 3), torch.ones(2, 3)
    assert torch.equal(joined([one, two]), (one + two) / 2)
    assert torch.equal(joined([one, torch.ones(3, 3)]), one) and torch.equal(
        joined([torch.empty(0), two]), torch.empty(0)
    )
    assert torch.equal(joined([torch.tensor(3), torch.tensor(5)]), torch.tensor(3))


# ---- networks, and what is refused ----


@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_tells_what_is_in_the_box(name):
    size = size_of(name)
    model = make(name, size).train()
    mixer = prepared(model, alpha=1.0)
    for k in range(2):
        [found] = step(mixer, model, noise(2, size, k))
    found.loss.backward()
    assert found.loss.isfinite() and mixer.head.weight.grad.abs().max() > 0


def test_a_compiled_model_has_one_graph():
    model = vit()
    mixer = prepared(model)
    eager, twin, backend = copy.deepcopy(model), copy.deepcopy(mixer), Counted()
    model.compile(backend=backend, fullgraph=True)
    for seed in range(3):
        pairs = ((mixer, model), (twin, eager))
        (one,), (two,) = (step(m, net, batch_of(4, seed=seed)) for m, net in pairs)
        grads = [
            torch.autograd.grad(f.loss, [*net.parameters()]) for f, (_, net) in zip((one, two), pairs, strict=True)
        ]
        assert torch.equal(one.loss, two.loss)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))
        assert backend.graphs == 1
    torch._dynamo.reset()


def test_what_does_not_fit_is_said_in_one_line():
    for options in ({"alpha": 1.5}, {"alpha": 0}, {"omega": -1}, {"mode": "bicubic"}):
        with pytest.raises(ValueError, match=f"^RecursiveMix: {next(iter(options))} is "):
            RecursiveMix(**options)
    headless = make("test_resnet")
    headless.reset_classifier(0)
    with pytest.raises(ValueError, match="^RecursiveMix: test_resnet has no linear classifier, beside which"):
        RecursiveMix().prepare(headless)
