"""`fidelity: openmixup` against closed forms, written from that project's formulas in float64, on the same draws."""

from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastmix import Batch, Targets, config
from fastmix.engine import captured_step, loaders
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.mixers import build
from fastmix.models import build as network
from helpers.mixing import NO_NORM
from helpers.teaching import NAME, teacher_file, trained
from helpers.transformers import PATCH, batch_of, heard, matrices, vit

SIDE, COUNT, BANK = 28, 6, 8


class Noted(np.random.Generator):
    """A generator that keeps what it drew, by the kind of draw."""

    def __init__(self, seed: int):
        super().__init__(np.random.Philox(seed))
        self.drawn = defaultdict(list)

    def __getattribute__(self, name):
        draw = super().__getattribute__(name)
        if name not in ("beta", "uniform", "random", "integers", "permutation"):
            return draw

        def noted(*args):
            value = draw(*args)
            self.drawn[name].append(np.atleast_1d(value))
            return value

        return noted


def theirs(name: str, drawn: dict, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The mixed images [B,H,W,3] float64 and the weight of the own label. OpenMixup's first axis of a box is that of x
    where ours is of y: on square images, whose two draws have one law, only a name.
    """
    one = {kind: [values[0] for values in found] for kind, found in drawn.items()}
    partner, own = x[drawn["permutation"][-1]], x.clone()
    pixel = np.arange(SIDE)

    def pasted(lam: float) -> tuple[slice, slice]:
        """The clipped box of CutMix around the two whole numbers that were drawn."""
        half = int(SIDE * lam) // 2
        return tuple(slice(*np.clip([centre - half, centre + half], 0, SIDE)) for centre in one["integers"][-2:])

    if name == "mixup":
        lam = one["beta"][0]
        return lam * x + (1 - lam) * partner, lam
    if name == "cutmix":
        box = pasted(np.sqrt(1 - one["beta"][0]))
        own[(slice(None), *box)] = partner[(slice(None), *box)]
    if name == "resizemix":
        tau = one["beta"][0] if 0.1 <= one["beta"][0] <= 0.8 else one["uniform"][0]
        box = pasted(tau)
        shape = [s.stop - s.start for s in box]
        own[(slice(None), *box)] = F.interpolate(partner.permute(0, 3, 1, 2), shape).permute(0, 2, 3, 1)  # nearest
    if name in ("cutmix", "resizemix"):
        return own, 1 - (box[0].stop - box[0].start) * (box[1].stop - box[1].start) / SIDE**2
    if name == "smoothmix":
        sigma = one["uniform"][0] * SIDE
        y, x_ = (np.exp(-((pixel + 0.5 - centre) ** 2) / (2 * sigma**2)) for centre in one["integers"])
        kernel = torch.from_numpy(np.outer(y, x_))[:, :, None]
        return x * (1 - kernel) + partner * kernel, kernel.mean().item()
    if name == "gridmix":
        holes, (aspect, area), (cy, cx) = one["integers"][0], one["uniform"], one["random"]
        width = int(np.sqrt(int(SIDE * SIDE * area) / aspect))
        height = int(width * aspect)
        top, left, cell = int((SIDE - height) * cy), int((SIDE - width) * cx), -(-width // holes)
        hole = min(max(int(cell * np.sqrt(1 - one["beta"][0])), 1), cell - 1)
        mask = np.zeros((SIDE, SIDE))
        for i in range(-(-height // cell) + 1):
            for j in range(holes + 1):
                y, x_ = min(cell * i, height), min(cell * j, width)
                mask[top + y : top + min(y + hole, height), left + x_ : left + min(x_ + hole, width)] = 1
        mask = torch.from_numpy(mask)[:, :, None]
        return x * (1 - mask) + partner * mask, 1 - mask.mean().item()
    assert name == "fmix"
    parts = np.random.default_rng(0).standard_normal((BANK, 2, SIDE // 2 + 1, 2))[one["integers"][0]]
    rows, columns = np.fft.fftfreq(SIDE)[:2, None], np.fft.fftfreq(SIDE)[: SIDE // 2 + 1]
    parts = parts / np.maximum(np.hypot(rows, columns), 1 / SIDE)[..., None] ** 3
    field = np.fft.irfftn(parts[0] + 1j * parts[1], (SIDE, SIDE), (0, 1))
    count = one["beta"][0] * SIDE**2
    count = int(np.ceil(count) if one["random"][0] < 0.5 else np.floor(count))
    mask = np.zeros(SIDE**2)
    mask[field.ravel().argsort()[::-1][:count]] = 1
    mask = torch.from_numpy(mask.reshape(SIDE, SIDE, 1))
    return x * mask + partner * (1 - mask), count / SIDE**2


def images(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, 5]).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "fmix", "gridmix", "smoothmix", "resizemix"])
def test_a_method_is_that_projects_function_on_its_draws(name):
    options = {"fmix": {"bank": BANK}, "gridmix": {"alpha": 0.8}, "smoothmix": {}}.get(name, {"alpha": 1.0})
    mixer = build(name, {name: options}, "openmixup")
    for seed in range(30):
        batch = Batch(images(seed), torch.arange(COUNT), Noted(seed), **NO_NORM)
        plan = mixer.plan(batch)
        if name == "resizemix" and plan.own[0] == 1:
            continue  # an empty box, an error there
        mixed, own = theirs(name, batch.rng.drawn, batch.images.double() / 255)
        assert (batch.mix(plan).permute(0, 2, 3, 1).double() - mixed).abs().max() < (
            5e-3 if name == "smoothmix" else 1e-4
        )
        targets = Targets.of(batch.labels, plan)
        assert (targets.weights.double() - torch.tensor([own, 1 - own])).abs().max() < 2e-3
        assert torch.equal(targets.labels[:, 1], torch.from_numpy(batch.rng.drawn["permutation"][-1]))


def test_attentivemix_is_that_projects_function_on_its_draws(tmp_path):
    row = {"attentivemix": {"teacher": NAME, "weights": teacher_file(tmp_path, trained())}}
    mixer = build("attentivemix", row, "openmixup")
    for seed in range(10):
        batch = Batch(images(seed), torch.arange(COUNT), Noted(seed), **NO_NORM)
        attention = torch.from_numpy(np.random.default_rng([seed, 6]).random((COUNT, 7, 7), np.float32))
        plan, drawn = mixer.plan(batch, attention), batch.rng.drawn
        top = attention.flatten(1).topk(min(max(1, int(49 * drawn["beta"][0][0])), 49)).indices
        mask = torch.zeros(COUNT, 49, dtype=torch.float64).scatter(1, top, 1).view(COUNT, 7, 7)
        mask = mask.repeat_interleave(SIDE // 7, 1).repeat_interleave(SIDE // 7, 2)[..., None]
        x = batch.images.double() / 255
        mixed = mask * x + (1 - mask) * x[drawn["permutation"][-1]]
        assert (batch.mix(plan).permute(0, 2, 3, 1).double() - mixed).abs().max() < 1e-6
        own = mask[0].mean().item()
        assert (Targets.of(batch.labels, plan).weights.double() - torch.tensor([own, 1 - own])).abs().max() < 1e-6


def test_transmix_is_that_projects_function_on_its_draws():
    mixer, model = build("transmix", {"transmix": {}}, "openmixup"), vit()
    for seed in range(6):
        batch = batch_of(5, seed=seed)
        side, batch.rng = batch.size[0], Noted(seed)
        found = heard(mixer, model, batch)
        drawn = batch.rng.drawn
        half = int(side * np.sqrt(1 - drawn["beta"][0][0])) // 2
        edges = [np.clip([c[0] - half, c[0] + half], 0, side) for c in drawn["integers"][:2]]
        mask = torch.zeros(side, side, dtype=torch.float64)
        mask[slice(*edges[0]), slice(*edges[1])] = 1
        partner = torch.from_numpy(drawn["permutation"][-1])
        x = batch.mix()
        x = torch.where(mask > 0, x[partner], x)
        attention = matrices(model, x)[-1][:, 0, 1:]
        patches = mask[::PATCH, ::PATCH].flatten()  # nearest, as its Upsample
        own = (attention * (1 - patches)).sum(1) / attention.sum(1)
        own = (0.5 * (1 - mask.mean()) + 0.5 * own).mean()
        assert (found.targets.weights.double() - torch.stack([own, 1 - own])).abs().max() < 1e-5
        assert torch.equal(found.targets.labels, torch.stack([batch.labels, batch.labels[partner]], 1))


def test_what_a_row_says_wins_and_choices_pass_it_on():
    rows = {
        "both": {"mixer": "choice", "of": {"fmix": {"spectrum": "paper"}, "cutmix": {"variant": "paper"}, "mixup": {}}}
    }
    fmix, cutmix, mixup = build("both", rows, "openmixup").mixers
    assert (fmix.spectrum, fmix.variant) == ("paper", "openmixup")
    assert (cutmix.variant, mixup.variant) == ("paper", "openmixup")
    plain = build("both", rows)
    assert {mixer.variant for mixer in plain.mixers} == {"paper"}
    assert build("tlalign", {"tlalign": {}}, "openmixup"), "what has no variant is as ever"


# ---- groups of the published size ----


def task_of(*words: str) -> Task:
    tree = {
        "precision": "fp32",
        "mix": "cutmix",
        "batch_total": 12,
        "data": {"size": 16},
        "mixers": {"cutmix": {"alpha": 1.0}},
    }
    tree["model"] = {"name": "test_resnet", "classes": 5}
    cfg = config.from_tree(config.over(tree, words), "test")
    return Task(network(cfg.model, 5, 0, torch.device("cpu")), build("cutmix", cfg.mixers, cfg.fidelity), cfg).train()


def a_batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(4)
    return torch.from_numpy(rng.integers(0, 256, (n, 16, 16, 3), np.uint8)), torch.from_numpy(rng.integers(0, 5, n))


def test_images_are_mixed_in_groups_that_draw_alike():
    images, labels = a_batch(12)
    whole, grouped = task_of("fidelity=openmixup"), task_of("fidelity=openmixup", "column.gpu_batch=4")
    loss = grouped(images, labels, np.random.default_rng(1), np.random.default_rng(2))
    parts = [
        whole(x, y, np.random.default_rng(1), np.random.default_rng(2))
        for x, y in zip(images.split(4), labels.split(4), strict=True)
    ]
    assert torch.equal(loss, sum(parts) / 3)
    assert not torch.equal(loss, whole(images, labels, np.random.default_rng(1), np.random.default_rng(2)))
    assert torch.equal(task_of("column.gpu_batch=4")(images, labels, np.random.default_rng(2)),
                       task_of()(images, labels, np.random.default_rng(2))), "fidelity paper mixes all"  # fmt: skip


def test_erased_boxes_follow_their_images():
    images, labels = a_batch(12)
    words = ["fidelity=openmixup", "erase.prob=0.9", "column.gpu_batch=4"]
    task, plain = task_of(*words), task_of("fidelity=paper", "erase.prob=0.9")
    batch = plain.batch(images, labels, np.random.default_rng(3))
    together = torch.cat([group.mix() for group in batch.groups(4)])
    assert torch.equal(together, batch.mix()) and batch.groups(12)[0] is batch and batch.groups(None)[0] is batch
    assert task(images, labels, np.random.default_rng(3), np.random.default_rng(4)).isfinite()


def test_processes_share_the_draws_of_the_mix_and_no_others(monkeypatch):
    task = task_of("fidelity=openmixup")
    step = Step(task.cfg, task, torch.optim.SGD(task.parameters(), 0.1), torch.amp.GradScaler("cpu", enabled=False), 10)
    firsts = []
    for process in (0, 1):
        monkeypatch.setattr("fastmix.engine.step.rank", lambda process=process: process)
        firsts.append([rng.random() for rng in step.generators(3, 0)])
    assert firsts[0][1] == firsts[1][1] and len({*firsts[0], *firsts[1]}) == 3
    assert step.generators(3, 1)[1].random() != firsts[0][1] != step.generators(4, 0)[1].random()


def test_parts_that_are_no_whole_groups_are_refused():
    cfg = config.load("r50_100ep", ["fidelity=openmixup", "batch_total=96", "data.train=shapes:train"])
    with pytest.raises(ValueError, match="among 64 images .*; a part of 96 is no multiple of it$"):
        loaders.training(cfg, torch.device("cpu"))


def test_a_captured_step_is_refused():
    task = task_of("fidelity=openmixup")
    opt = torch.optim.SGD(task.parameters(), 0.1)
    with pytest.raises(ValueError, match="^cuda_graph: fidelity openmixup mixes in groups"):
        captured_step.check(task.cfg, task.mixer, opt, torch.device("cuda"))


@pytest.mark.long
def test_the_published_columns_say_how_many_images_a_gpu_had():
    for name in config.find("quickstart").parent.glob("*.yaml"):
        cfg = config.load(name)
        for mix in cfg.mixers if cfg.column.table else []:
            row = config.load(name, [f"mix={mix}"])
            assert row.batch_total // row.accum % row.column.gpu_batch == 0, (name, mix)
