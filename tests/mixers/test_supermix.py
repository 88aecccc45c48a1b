"""SuperMix: its masks, the quantity that they lower, when they stop, and the labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage, special, stats
from torch import nn

from fastmix import MIXERS, Targets
from fastmix.kernels.plan import ONE
from fastmix.mixers.supermix_online import Drawn, divergence, gaussian, optimise, recognised, weight
from fastmix.targets import CrossEntropy
from helpers.mixing import noise
from helpers.teaching import CLASSES, NAME, teacher_file, trained


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return teacher_file(tmp_path_factory.mktemp("teacher"), trained())


@pytest.fixture
def mixer(file):
    options = {"teacher": NAME, "weights": file, "side": 8, "sigma": 1.0, "steps": 3}
    return lambda **more: MIXERS["supermix"](**options | more)


def halves(n: int = 6, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of class 0, bright on the left in channel 0, and of class 1, bright on the right in channel 1."""
    first, second = torch.zeros(2, n, 3, size, size)
    first[:, 0, :, : size // 2] = 1
    second[:, 1, :, size // 2 :] = 1
    return first, second


def brightness(x: torch.Tensor) -> torch.Tensor:
    """A teacher that is linear in the pixels, so the divergence is convex in the mask: logits [B,3] from channels."""
    return 12 * x.mean((2, 3))


def pairs(n: int = 6) -> torch.Tensor:
    return torch.tensor([0, 1]).expand(n, 2)


def lams(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).beta(3, 3, n).astype(np.float32))


def loss_of(raw, first, second, classes, lam, sparsity, classify=brightness) -> np.ndarray:
    """What is lowered, in float64 and from the definition: two masks that are sigmoids over their sum."""
    up = F.interpolate(raw.double(), first.shape[2:], mode="bilinear").sigmoid()
    masks = up / up.sum(1, keepdim=True)
    assert (masks.sum(1) - 1).abs().max() < 1e-12 and (masks > 0).all() and (masks < 1).all()
    with torch.no_grad():
        logits = classify((masks[:, :1] * first + masks[:, 1:] * second).to(first.dtype)).double().numpy()
    target = np.zeros(logits.shape)
    for i, (c, share) in enumerate(zip(classes.tolist(), lam.tolist(), strict=True)):
        target[i, c[0]] += share
        target[i, c[1]] += 1 - share
    assert np.allclose(target.sum(1), 1)
    kl = special.rel_entr(target, special.softmax(logits, axis=1)).sum(1)
    return kl + sparsity * (masks * (masks - 1)).abs().mean((1, 2, 3)).numpy()


def asked(made, batch) -> tuple:
    """What a batch draws, partner and lam, its raw masks, and the teacher's classes."""
    drawn = made.draw(batch, None)
    return drawn.partner, drawn.lam, *made.masks(batch, drawn)


# ---- masks ----


def test_the_two_weights_are_sigmoids_over_their_sum_and_begin_at_a_half():
    raw = 4 * torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    up = F.interpolate(raw.double(), (12, 20), mode="bilinear", align_corners=False).sigmoid()
    found = weight(raw, (12, 20))
    assert torch.allclose(found.double(), up[:, 0] / up.sum(1), atol=1e-6)
    assert torch.allclose(1 - found, weight(raw.flip(1), (12, 20)), atol=1e-6)
    assert (weight(torch.zeros(1, 2, 5, 5), (12, 20)) == 0.5).all()
    assert weight(torch.full((1, 2, 5, 5), -1e4), (12, 20)).isfinite().all()


def test_the_first_mixture_is_the_average(mixer):
    batch = noise(4, (32, 32))
    made = mixer()
    partner, lam, raw, _ = asked(made, batch)
    plan = made.put(batch, torch.zeros_like(raw), Drawn(partner, lam))
    clean = batch.mix()
    assert torch.allclose(batch.mix(plan), (clean + clean[partner.long()]) / 2, atol=1e-5)


def test_pixels_are_weighted_by_the_masks(mixer):
    batch = noise(4, (32, 40))
    made = mixer(size=64)
    partner, lam, raw, _ = asked(made, batch)
    plan = made.put(batch, raw, Drawn(partner, lam))
    own = weight(raw, (32, 40))[:, None].double()
    clean = batch.mix().double()
    assert own.std((1, 2, 3)).min() > 1e-4, "the masks have moved"
    mixed = own * clean + (1 - own) * clean[partner.long()]
    assert (batch.mix(plan) - mixed).abs().max() < 5 / ONE + 1e-5  # weights are rounded to 2**-16
    assert torch.equal(plan.own, lam) and torch.equal(plan.other, 1 - lam)
    assert Targets.of(batch.labels, plan).weights[:, 0].tolist() == lam.tolist()


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.3])
def test_the_blur_is_scipys_with_zeros_outside(sigma):
    values = np.random.default_rng(0).normal(size=(16, 16))
    blur = gaussian(16, sigma).double().numpy()
    reach = int(5 * sigma) // 2
    wanted = ndimage.gaussian_filter(values, sigma, mode="constant", radius=reach)
    assert np.allclose(blur @ values @ blur, wanted, atol=1e-6)


# ---- the quantity that is lowered ----


def test_the_divergence_is_scipys_and_one_hot_where_the_classes_coincide():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    classes, lam = torch.from_numpy(np.random.default_rng(1).integers(7, size=(50, 2))), lams(50)
    target = np.zeros((50, 7))
    for i in range(50):
        target[i, classes[i, 0]] += lam[i].item()
        target[i, classes[i, 1]] += 1 - lam[i].item()
    same = (classes[:, 0] == classes[:, 1]).numpy()
    assert same.any() and (target[same].max(1) > 1 - 1e-6).all()
    wanted = special.rel_entr(target, special.softmax(logits.double().numpy(), axis=1)).sum(1)
    assert np.allclose(divergence(logits, classes, lam), wanted, atol=1e-5)
    ends = divergence(logits[:2], torch.tensor([[1, 2], [1, 2]]), torch.tensor([0.0, 1.0]))
    assert torch.allclose(ends, F.cross_entropy(logits[:2], torch.tensor([2, 1]), reduction="none"))


@pytest.mark.parametrize("sparsity", [0.0, 1.0, 25.0])
def test_the_loss_falls_for_a_convex_teacher(sparsity):
    (first, second), classes, lam = halves(), torch.tensor([0, 1]).expand(6, 2), lams()
    losses = []
    for steps in (0, 1, 5, 40):
        # class 2 is as bright as the others, so that no sample is finished and all steps are taken
        def classify(x):
            return brightness(x) + torch.tensor([0.0, 0.0, 9.0])

        raw, done = optimise(classify, first, second, classes, lam, 8, 1.0, sparsity, steps)
        assert not done.any()
        losses.append(loss_of(raw, first, second, classes, lam, sparsity, classify))
    assert (losses[1] < losses[0]).all() and (losses[3] < losses[0]).all()
    assert losses[3].mean() < losses[2].mean() <= losses[1].mean() * 1.01


def test_a_step_is_polyaks_along_the_blurred_gradient():
    """One step by hand, in float64, for each sample alone."""
    (first, second), lam = halves(3), lams(3, seed=4)
    raw, _ = optimise(brightness, first, second, pairs(3), lam, 8, 1.0, 2.0, 1)
    for i in range(3):
        mask = torch.zeros(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
        up = F.interpolate(mask, (16, 16), mode="bilinear").sigmoid()
        m = up / up.sum(1, keepdim=True)
        logp = F.log_softmax(brightness(m[:, :1] * first[i].double() + m[:, 1:] * second[i].double()), 1)
        target = torch.tensor([lam[i], 1 - lam[i]]).double()
        loss = (target * (target.log() - logp[0, :2])).sum() + 2.0 * (m * (m - 1)).abs().mean()
        (slope,) = torch.autograd.grad(loss, mask)
        smooth = ndimage.gaussian_filter(slope.numpy(), 1.0, mode="constant", radius=2, axes=(2, 3))
        length = np.clip(loss.item() / ((slope.numpy() * smooth).sum() + 1e-10), 1e-4, 2000)
        assert np.allclose(raw[i], -length * smooth[0], rtol=1e-3, atol=1e-5)


def test_sparsity_is_nothing_only_for_binary_masks_and_makes_them_so():
    binary = torch.full((1, 2, 8, 8), -200.0)
    binary[:, 0, :, :4] = 200
    binary[:, 1, :, 4:] = 200
    own = weight(binary, (8, 8))
    assert (own * (1 - own)).max() < 1e-12
    (first, second), lam = halves(), torch.full((6,), 0.5)

    def spread(sparsity):
        raw, _ = optimise(lambda x: brightness(x) + torch.tensor([0, 0, 9.0]), first, second, pairs(), lam, 8, 1.0,
                          sparsity, 30)  # fmt: skip
        m = weight(raw, (16, 16))
        return (m * (1 - m)).mean().item()

    assert spread(25.0) < 0.5 * spread(0.0) <= 0.125


# ---- when a sample is finished ----


def test_finished_means_that_the_first_classes_are_the_two():
    logits = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    classes = torch.from_numpy(np.random.default_rng(2).integers(4, size=(300, 2)))
    found = recognised(logits, classes)
    for row, pair, value in zip(logits.tolist(), classes.tolist(), found.tolist(), strict=True):
        wanted = set(pair)
        first = sorted(range(4), key=lambda c: -row[c])[: len(wanted)]
        assert value == (set(first) == wanted)
    assert 0.1 < found.float().mean() < 0.4


def test_finished_samples_stay_and_the_others_go_on():
    first, second = halves(4)
    first[2:], second[2:] = 0.05 * first[2:], 0.05 * second[2:]  # never brighter than class 2

    def classify(x):
        return brightness(x) + torch.tensor([0.0, 0.0, 0.5])

    few, done = optimise(classify, first, second, pairs(4), torch.full((4,), 0.5), 8, 1.0, 0.0, 2)
    many, later = optimise(classify, first, second, pairs(4), torch.full((4,), 0.5), 8, 1.0, 0.0, 9)
    own = weight(few, (16, 16))[:, None]
    finished = recognised(classify(own * first + (1 - own) * second), pairs(4))
    assert done.tolist() == later.tolist() == finished.tolist() == [True, True, False, False]
    assert torch.equal(few[:2], many[:2]) and (few[2:] - many[2:]).abs().amax((1, 2, 3)).min() > 0


def test_steps_in_two_parts_are_the_same_steps():
    first, second = halves(4)
    first[2:], second[2:] = 0.05 * first[2:], 0.05 * second[2:]

    def classify(x):
        return brightness(x) + torch.tensor([0.0, 0.0, 0.5])

    arguments = classify, first, second, pairs(4), lams(4), 8, 1.0, 1.0
    whole, _ = optimise(*arguments, 6)
    parts, _ = optimise(*arguments, 2)
    parts, done = optimise(*arguments, 4, start=parts)
    assert torch.equal(whole, parts) and done.tolist() == [True, True, False, False]


# ---- the method ----


def test_lam_is_dirichlet_for_each_sample(mixer):
    made = mixer(steps=1, alpha=2.0)
    batch = noise(2, (32, 32))
    one = np.concatenate([asked(made, noise(64, (32, 32), seed))[1].numpy() for seed in range(6)])
    assert stats.kstest(one, stats.beta(2, 2).cdf).pvalue > 1e-3
    same = asked(mixer(steps=1, granularity="batch"), batch)[1]
    assert same[0] == same[1]


def test_target_classes_are_what_the_teacher_sees_in_the_clean_images(mixer, monkeypatch):
    batch, seen = noise(6, (32, 32)), []
    monkeypatch.setattr("fastmix.mixers.supermix_online.optimise", lambda *args: seen.append(args) or optimise(*args))
    partner, lam, _, classes = asked(mixer(), batch)
    with torch.no_grad():
        wanted = trained()(noise(6, (32, 32)).mix()).argmax(1)
    assert torch.equal(classes, wanted) and len(wanted.unique()) > 1
    assert torch.equal(seen[0][3], torch.stack([wanted, wanted[partner.long()]], 1))
    assert torch.equal(seen[0][4], lam)


def test_labels_of_the_data_or_of_the_teacher(mixer):
    student = trained(classes=CLASSES, seed=8)
    noted = []

    class Noting(nn.Module):
        def forward(self, logits, targets):
            noted.append(targets)
            return CrossEntropy()(logits, targets)

    made = mixer()
    for labels in ("given", "teacher"):
        mixer(labels=labels)(student, noise(6, (32, 32)), Noting())
    partner, lam, _, classes = asked(made, noise(6, (32, 32)))
    given = noise(6, (32, 32)).labels
    for targets, labels in zip(noted, (given, classes), strict=True):
        assert torch.equal(targets.labels, torch.stack([labels, labels[partner.long()]], 1))
        assert torch.equal(targets.weights, torch.stack([lam, 1 - lam], 1))
    with pytest.raises(ValueError, match="the model has 4 classes and teacher test_resnet 10; choose labels=given"):
        mixer(labels="teacher")(trained(classes=4), noise(2, (32, 32)), CrossEntropy())


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_loss_is_finite_and_the_student_untouched_by_planning(mixer, n, dtype):
    student, batch = trained(seed=8).train(), noise(n, (32, 40))
    batch.dtype = dtype
    state = {name: value.clone() for name, value in student.state_dict().items()}
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        plan = mixer().decide(student, batch, CrossEntropy())
        assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
        assert all(p.grad is None for p in student.parameters())
        assert batch.mix(plan).isfinite().all() and mixer()(student, batch, CrossEntropy()).isfinite()


def test_constant_images_have_a_defined_result(mixer):
    batch = noise(3, (32, 32))
    batch.images = torch.full((3, 32, 32, 3), 77, dtype=torch.uint8)
    plan = mixer().decide(None, batch, None)
    assert torch.equal(batch.mix(plan), batch.mix())


@pytest.mark.parametrize("options, message", [
    ({"side": 0}, "side is 0"), ({"sigma": 0}, "sigma is 0"), ({"sparsity": -1}, "sparsity is -1"),
    ({"steps": 0}, "steps is 0"), ({"size": 8}, "size is 8"), ({"labels": "mine"}, "labels is 'mine'"),
    ({"weights": None}, "weights is not given; name a file"),
])  # fmt: skip
def test_mistakes_are_one_line(mixer, options, message):
    with pytest.raises(ValueError, match=f"^SuperMix: {message}") as error:
        mixer(**options)
    assert "\n" not in str(error.value)
