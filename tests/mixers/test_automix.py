"""AutoMix: a step by hand, who learns from what, the teacher, the mask, and that the block learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmix import MIXERS
from fastmix.kernels.mix_logits import mix_logits
from fastmix.kernels.plan import Plan
from fastmix.mixers.automix import rescaled_to
from fastmix.mixers.mixblock import AutoMixBlock
from fastmix.mixers.momentum import momentum_at
from fastmix.targets import CrossEntropy
from helpers.automixing import (
    CLASSES,
    Recorder,
    attention,
    batch_of,
    conv,
    every,
    gradients,
    inputs,
    network,
    normalised,
    numbers,
    planes,
    prepared,
    same_as_by_hand,
    take_step,
)
from helpers.mixing import FixedLam, constants

pytestmark = pytest.mark.gradient


def masks(block, z, partner, lam, size=(64, 64)):
    a, b = (planes(z, lam), planes(z[partner], 1 - lam)) if block.lam_concat else (z, z[partner])
    logits = attention(conv(block.query, a), conv(block.query, b), conv(block.value, b))
    return F.interpolate(logits, size, mode="nearest").sigmoid()


def mask_term(s, lam):
    return 0.1 * max(((1 - s).mean() - lam).abs() - 0.1, torch.zeros(()))


@pytest.mark.parametrize("lam_concat", [True, False])
@pytest.mark.parametrize("net", ["test_resnet", "deit_tiny_patch16_224"])
def test_a_step_is_that_by_hand(net, lam_concat):
    same_as_by_hand("automix", net, masks, mask_term, lam_concat=lam_concat)


@pytest.mark.parametrize("channels, count", [(256, "33k"), (384, "74k"), (1024, "526k")])
def test_the_block_has_the_published_size(channels, count):
    found = sum(p.numel() for p in AutoMixBlock(channels).parameters())
    d = channels // 2
    assert found == d * (channels + 1) + d + (channels + 1) + 1 and f"{found // 1000}k" == count


@pytest.mark.parametrize("lam", [0.05, 0.5, 0.95])
@every
def test_masks_begin_near_one_half(name, lam):
    mixer = MIXERS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        block = mixer.mix_block(256)
    partner = torch.arange(7, -1, -1, dtype=torch.int32)
    projected = block.project(numbers(8, 256, 14, 14).relu())
    if name == "adautomix":
        shares = block(projected, [torch.arange(8), partner], [lam, 1 - lam]).softmax(1)
    else:
        shares = block(projected, partner, lam).sigmoid()
    assert (shares - 0.5).abs().max() < 0.05 and 0 < shares.min() and shares.max() < 1 and shares.std() > 0


def test_the_masks_mean_costs_nothing_near_lambda_and_else_by_its_distance():
    mixer = MIXERS["automix"](mask_weight=0.2, mask_schedule="constant")
    batch = batch_of(4, (8, 10))

    def loss(mean: float, lam: float) -> float:
        area = torch.full((4,), (1 - mean) * 80, dtype=torch.float64)
        return mixer.mask_loss(area, area, batch, lam, mixer.weight()).item()

    for mean, lam in [(0.5, 0.5), (0.45, 0.54), (0.5, 0.401), (0.0, 0.099)]:
        assert loss(mean, lam) == 0
    for mean, lam in [(0.5, 0.7), (0.9, 0.2), (1.0, 0.0)]:
        assert loss(mean, lam) == pytest.approx(0.2 * (abs(mean - lam) - 0.1), abs=1e-9)


def test_the_weight_of_the_mask_falls_by_a_cosine_or_stays():
    falling, constant = MIXERS["automix"](), MIXERS["automix"](mask_schedule="constant")
    for t, expected in [(0.0, 0.1), (1 / 3, 0.075), (0.5, 0.05), (1.0, 0.0)]:
        falling.set_progress(t)
        constant.set_progress(t)
        assert falling.weight() == pytest.approx(expected, abs=1e-12) and constant.weight() == 0.1


def reach(term: int | None, net: str) -> dict[str, bool]:
    """Which parts get a gradient from one of the losses: 0 teacher's, 1 mixed, 2 clean, none of them: the mask's."""
    model = network(net)
    mixer = prepared("automix", model, mask_weight=5.0 if term is None else 0.0)
    mixer(model, batch_of(lam=0.9), Recorder(-1 if term is None else term)).backward()
    head = model.get_classifier()
    inner = [p for p in model.parameters() if all(p is not other for other in head.parameters())]
    parts = {"backbone": inner, "classifier": head.parameters(), "head": mixer.head.parameters()}
    parts |= {"block": mixer.block.parameters()}
    assert all(p.grad is None for p in [*mixer.teacher.parameters(), *mixer.teacher_head.parameters()])
    return {name: any(p.grad.abs().max() > 0 for p in params) for name, params in parts.items()}


@pytest.mark.parametrize("net", ["test_resnet", "deit_tiny_patch16_224"])
def test_who_learns_from_what(net):
    none = dict.fromkeys(("backbone", "classifier", "head", "block"), False)
    assert reach(0, net) == none | {"block": True}
    assert reach(1, net) == none | {"backbone": True, "classifier": True}
    assert reach(2, net) == none | {"backbone": True, "head": True}
    assert reach(None, net) == none | {"block": True}


@every
def test_all_parameters_have_a_gradient_in_every_step(name):
    options = {} if name == "adautomix" else {"block_prob": 0.0}
    model = network()
    mixer = prepared(name, model, **options)
    criterion = Recorder()
    mixer(model, batch_of(), criterion).backward()
    assert all(g is not None for g in gradients(model, mixer))
    assert len(criterion.seen) == (3 if name == "adautomix" else 2), "the teacher's loss is off"


def test_momentum_follows_its_schedule():
    values = [momentum_at(t, 0.999, 0.99999, 0.1) for t in (0, 0.0999, 0.1, 0.5, 1)]
    assert values[:2] == [0.999, 0.999]
    assert values[2:] == pytest.approx([0.99902, 0.999495, 0.99999], abs=5e-6)


@every
def test_the_teacher_is_the_moving_average_of_the_parameters(name):
    model = network()
    mixer = prepared(name, model, momentum=(0.5, 0.9), momentum_start=0.3)
    pairs = list(zip([*model.parameters(), *mixer.head.parameters()],
                     [*mixer.teacher.parameters(), *mixer.teacher_head.parameters()], strict=True))  # fmt: skip
    assert all(torch.equal(q, k) for q, k in pairs)
    expected = [k.double() for _, k in pairs]
    for step, t in enumerate((0.0, 0.25, 0.5, 0.75)):
        take_step(model, mixer, batch_of(seed=step), t)
        m = 0.5 if t < 0.3 else 0.9 - 0.4 * (np.cos(np.pi * t) + 1) / 2
        expected = [m * k + (1 - m) * q.double() for (q, _), k in zip(pairs, expected, strict=True)]
    for (_, k), value in zip(pairs, expected, strict=True):
        assert k.grad is None and not k.requires_grad
        assert (k - value).abs().max() < 1e-6 * value.abs().max() + 1e-9
    assert any((q - k).abs().max() > 1e-4 for q, k in pairs)


@pytest.mark.parametrize("lam", [0.05, 0.94])
def test_near_the_ends_the_student_sees_ordinary_mixup_and_the_teacher_the_mask(lam):
    model = network()
    mixer, batch = prepared("automix", model), batch_of(lam=lam)
    student, teacher = inputs(model), inputs(mixer.teacher)
    mixer(model, batch, CrossEntropy())
    rng = FixedLam(lam)
    for_k, for_q = (torch.from_numpy(rng.permutation(6)) for _ in "kq")
    x = normalised(batch)
    assert torch.equal(student[1], batch.mix(Plan.blend(for_q.int(), lam)))
    assert (student[1] - (lam * x + (1 - lam) * x[for_q])).abs().max() < 1e-4
    assert (teacher[0] - (lam * x + (1 - lam) * x[for_k])).abs().max() > 0.1
    assert torch.equal(student[0], batch.mix()), "the clean batch comes first"


def test_inside_the_margin_the_student_sees_the_mask():
    model, lam = network(), 0.1
    mixer, batch = prepared("automix", model), batch_of(lam=lam)
    student = inputs(model)
    mixer(model, batch, CrossEntropy())
    rng = FixedLam(lam)
    _, for_q = (torch.from_numpy(rng.permutation(6)) for _ in "kq")
    assert (student[1] - batch.mix(Plan.blend(for_q.int(), lam))).abs().max() > 0.1


def test_labels_are_the_lambda_that_was_drawn():
    model, batch, criterion = network(), batch_of(), Recorder()
    prepared("automix", model)(model, batch, criterion)
    rng = np.random.default_rng(0)
    lams = rng.beta(2.0, 2.0, 2)
    partners = [torch.from_numpy(rng.permutation(6)) for _ in "kq"]
    for targets, lam, partner in zip(criterion.seen, lams, partners, strict=False):
        assert torch.equal(targets.labels, torch.stack([batch.labels, batch.labels[partner]], 1))
        assert torch.allclose(targets.weights, torch.tensor([lam, 1 - lam]).float().expand(6, 2))
    clean = criterion.seen[2]
    assert torch.equal(clean.labels, batch.labels[:, None]) and (clean.weights == 1).all()


@every
def test_identical_images_stay_as_they_are(name):
    model = network()
    mixer, batch = prepared(name, model), batch_of()
    batch.images = batch.images[:1].expand_as(batch.images).contiguous()
    student, teacher = inputs(model), inputs(mixer.teacher)
    mixer(model, batch, CrossEntropy())
    for x in (*student, *teacher):
        assert torch.equal(x, batch.mix())


def test_adjusted_masks_have_the_mean_lambda():
    model = network()
    lam = 0.3
    for mode, exact in (("nearest", 1e-3), ("bilinear", 1e-3)):
        mixer = prepared("automix", model, mask_adjust=1.0, mode=mode)
        batch = constants(6, (64, 64), seed=3)
        batch.labels, batch.rng = batch.labels % CLASSES, FixedLam(lam, 3)
        seen = inputs(model)
        mixer(model, batch, CrossEntropy())
        rng = FixedLam(lam, 3)
        _, partner = (torch.from_numpy(rng.permutation(6)) for _ in "kq")
        clean = normalised(batch)
        others = partner != torch.arange(6)
        mask = ((seen[1] - clean[partner]) / (clean - clean[partner]))[others, 0]
        assert others.any() and mask.std() > 0.01
        assert (mask.mean((1, 2)) - lam).abs().max() < exact
    own = numbers(3, 5, 7).sigmoid()
    for lam in (0.1, 0.5, 0.9):
        found = rescaled_to(own, lam)
        assert 0 < found.min() and found.max() < 1
        assert torch.allclose(found.mean((1, 2)), torch.tensor(lam), atol=1e-5)


def toy(n: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Grey 8 x 8 images with one of three colours in the left or the right half; labels; which half."""
    images = np.full((n, 8, 8, 3), 128, np.uint8)
    labels, half = rng.integers(0, 3, n), rng.integers(0, 2, n)
    for image, label, side in zip(images, labels, half, strict=True):
        image[:, 4 * side : 4 * side + 4, label] = 255
    return torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(half)


def test_the_block_learns_to_show_both_images():
    """A frozen teacher that sums up colours, and says "none" where they are weak: the mask moves to the half in which
    the partner has its colour."""
    rng, mean, std = np.random.default_rng(0), (128 / 255,) * 3, (1.0,) * 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block, expand = AutoMixBlock(32), nn.Conv2d(3, 32, 1)
    optimiser, losses = torch.optim.Adam(block.parameters(), 0.05), []
    for _ in range(200):
        images, labels, half = toy(32, rng)
        partner = torch.from_numpy(rng.permutation(32)).int()
        with torch.no_grad():
            z = expand((images.permute(0, 3, 1, 2) - 128) / 127).relu()
        logits = block(block.project(z), partner, 0.5)
        mixed, _, _ = mix_logits(images, partner, logits, mean, std)
        seen = torch.cat([20 * mixed.mean((2, 3)), torch.full((32, 1), 5.0)], 1)
        both = 0.5 * (F.one_hot(labels, 4) + F.one_hot(labels[partner.long()], 4)).float()
        loss = F.cross_entropy(seen, both)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    other = half[partner.long()]
    apart = half != other  # of these both can be seen
    s = logits.detach().sigmoid().view(32, 8, 2, 4).mean((1, 3))  # left, right
    gain = s.gather(1, other[:, None]) - s.gather(1, half[:, None])
    assert gain[apart].mean() > 0.5
