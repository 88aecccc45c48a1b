"""GuidedMixup: saliency against scipy and Pillow, pairing against brute force, the mask against the formula."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from torch import nn

from fastmix import MIXERS, Batch, Targets
from fastmix.kernels.farthest import CASES, farthest, reference
from fastmix.kernels.farthest.cases import Case
from fastmix.kernels.plan import ONE
from fastmix.kernels.spectral import blur, spectral_residual
from fastmix.mixers.guidedmixup import GREY, distances
from fastmix.targets import CrossEntropy
from helpers.mixing import noise, within
from helpers.waiting import no_waits

GuidedMixup = MIXERS["guidedmixup"]
always = partial(GuidedMixup, mix_prob=1.0)
ULP = 1 / ONE


class Linear(nn.Module):
    """Logits W x + b of images of one size: the gradient of its loss with respect to x is W^T (softmax - onehot)."""

    def __init__(self, size: tuple[int, int], classes: int = 3):
        super().__init__()
        self.layer = nn.Linear(3 * size[0] * size[1], classes)
        self.norm = nn.BatchNorm1d(classes)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.norm(self.layer(x.flatten(1)))


def fields(n: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth random fields, float32 [n,H,W]."""
    made = np.random.default_rng(seed).standard_normal((n, *size))
    return ndimage.gaussian_filter(made, (0, 1.5, 1.5)).astype(np.float32)


def blurred(field: np.ndarray) -> np.ndarray:
    """scipy's Gaussian, cut off after 3 pixels, in fp64."""
    return ndimage.gaussian_filter(field.astype(np.float64), 3, mode="mirror", radius=3)


def masks_of(plan) -> torch.Tensor:
    assert torch.equal(plan.table[:, 4], torch.arange(len(plan), dtype=torch.int32))
    return plan.maps.double() / ONE


# ---- saliency ----


def test_blur_is_scipys():
    maps = fields(3, (17, 30))
    got = blur(torch.from_numpy(maps), (17, 30))
    for field, ours in zip(maps, got.numpy(), strict=True):
        np.testing.assert_allclose(ours, blurred(field), atol=1e-6)
    for size in ((1, 1), (2, 9), (4, 4)):
        assert (blur(torch.ones(1, *size), size) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("size, parts", [((17, 30), (5, 7)), ((56, 84), (28, 28)), ((20, 31), (1, 1))])
def test_blur_enlarges_before_and_averages_after(size, parts):
    maps = torch.from_numpy(fields(3, (9, 12))).double()
    larger = nn.functional.interpolate(maps[:, None], size, mode="bilinear")[:, 0]
    smooth = torch.from_numpy(np.stack([blurred(field) for field in larger.numpy()]))
    wanted = nn.functional.adaptive_avg_pool2d(smooth, parts)
    torch.testing.assert_close(blur(maps.float(), size, parts).double(), wanted, rtol=0, atol=1e-6)


def resized(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's bilinear filter, which is antialiased."""
    from PIL import Image

    return np.asarray(Image.fromarray(field.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [(32, 32), (40, 64), (97, 33), (150, 200), (64, 224)])
def test_the_spectral_residual_is_the_formula(size):
    images = fields(2, size, seed=1) + 0.05 * np.random.default_rng(2).standard_normal((2, *size)).astype(np.float32)
    for image, ours in zip(images, spectral_residual(torch.from_numpy(images)[:, None]).numpy(), strict=True):
        small = tuple(min(length, 128) for length in size)
        spectrum = np.fft.fft2(resized(image, small).astype(np.float64))
        log = np.log(np.abs(spectrum))
        residual = log - ndimage.uniform_filter(log, 3, mode="nearest")
        wanted = blurred(np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))))
        np.testing.assert_allclose(ours, wanted, rtol=2e-3)


def test_the_spectral_residual_finds_what_stands_out():
    y, x = np.mgrid[:64, :64]
    stripes = np.sin(x / 2) + np.sin(y / 3 + x / 5)
    image = stripes.copy()
    image[40:46, 14:20] = -stripes[40:46, 14:20].T
    saliency = spectral_residual(torch.from_numpy(image[None, None].astype(np.float32)))[0].numpy()
    peak = np.unravel_index(saliency.argmax(), saliency.shape)
    assert 37 <= peak[0] < 49 and 11 <= peak[1] < 23


def test_an_image_has_the_same_saliency_alone_and_among_many():
    images = torch.from_numpy(fields(40, (20, 24), seed=7))[:, None]
    alone = torch.cat([spectral_residual(image[None]) for image in images])
    torch.testing.assert_close(spectral_residual(images), alone, rtol=1e-5, atol=1e-6)


def test_an_image_of_one_level_is_salient_everywhere_alike():
    for size in ((33, 20), (224, 150)):
        images = torch.tensor([0.0, -1.7, 2.6, 0.3])[:, None, None, None].repeat(1, 3, *size)
        images[3, 1, 5, 7] += 1 / 255
        saliency = spectral_residual(images, GREY)
        assert (saliency[:3] - 1).abs().max() < 1e-6
        assert saliency[3].max() - saliency[3].min() > 1e-3, "a single pixel counts"


def test_the_grey_is_torchvisions():
    from torchvision.transforms.functional import rgb_to_grayscale

    assert rgb_to_grayscale(torch.eye(3)[:, :, None, None]).flatten().tolist() == pytest.approx(GREY, abs=1e-7)


def test_saliency_is_that_of_the_grey_normalised_image():
    batch = noise(4, (32, 24))
    batch.mean, batch.std, batch.dtype = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3), torch.bfloat16
    x = (batch.images.double() / 255 - torch.tensor(batch.mean)) / torch.tensor(batch.std)
    wanted = spectral_residual((x @ torch.tensor(GREY, dtype=torch.float64)).float()[:, None])
    torch.testing.assert_close(always().guide(None, batch, None)[:, 0], wanted, rtol=1e-3, atol=1e-5)


# ---- pairing ----


@pytest.mark.parametrize("case", [*CASES, Case(100), Case(60, "equals"), Case(64, "nan")], ids=str)
def test_the_cpu_twin_equals_the_reference(case):
    for seed in range(4):
        arguments = case.arguments(seed=seed)
        before = arguments["distance"].clone()
        assert torch.equal(farthest(**arguments), reference(**arguments))
        assert torch.equal(arguments["distance"].nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 40])
@pytest.mark.parametrize("kind", ["points", "equals"])
def test_pairing_is_greedy_and_one_cycle(n, kind):
    for seed in range(10):
        distance = Case(n, kind).arguments(seed=seed)["distance"]
        partner, d = farthest(distance).tolist(), distance.tolist()
        best = max(((d[i][j], -i, -j) for i in range(n) for j in range(n) if i != j), default=(0, 0, 0))
        start, at = -best[1], -best[2]
        order = [start]
        while at != start:
            assert partner[order[-1]] == at
            order.append(at)
            left = [k for k in range(n) if k not in order]
            at = max(left, key=lambda k: (d[order[-1]][k], -k), default=start)
        assert partner[order[-1]] == start and sorted(order) == list(range(n))


def test_distances_that_are_no_numbers_still_give_a_cycle():
    partner = farthest(torch.full((6, 6), torch.nan)).tolist()
    at, seen = 0, set()
    for _ in range(6):
        seen.add(at)
        at = partner[at]
    assert at == 0 and len(seen) == 6


def test_distances_are_euclidean():
    maps = np.abs(fields(9, (28, 21), seed=3)) / 1e5 + 1e-3  # much in common
    flat = maps.astype(np.float64).reshape(9, -1)
    pairs = ~np.eye(9, dtype=bool)  # the diagonal, which nothing reads, is rounding
    got = distances(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(got[pairs], cdist(flat, flat)[pairs], rtol=1e-3)


def test_pairing_refuses_what_is_no_matrix_of_distances():
    for wrong in (torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 4), torch.zeros(0, 0)):
        with pytest.raises(ValueError, match=r"float32 \[B,B\]"):
            farthest(wrong)


# ---- the mask ----


def plan_of(maps: np.ndarray, seed: int = 0, **options):
    n, *size = maps.shape
    return always(**options).plan(noise(n, tuple(size), seed), torch.from_numpy(maps.astype(np.float32))[:, None])


@pytest.mark.parametrize("pairing", ["greedy", "random"])
@pytest.mark.parametrize("size", [(32, 32), (40, 27)])
def test_the_mask_is_the_ratio_of_the_two_saliencies(pairing, size):
    maps = np.abs(fields(7, size, seed=4))
    plan = plan_of(maps, pairing=pairing)
    smooth = np.stack([blurred(field) / blurred(field).sum() for field in maps])
    for i, (j, mask) in enumerate(zip(plan.partner.tolist(), masks_of(plan).numpy(), strict=True)):
        np.testing.assert_allclose(mask, smooth[i] / (smooth[i] + smooth[j]), atol=2e-5)
        assert i != j and plan.own[i].item() == pytest.approx(mask.mean(), abs=1e-6)
        assert plan.own[i].item() + plan.other[i].item() == pytest.approx(1, abs=1e-7)


def test_greedy_pairs_are_farther_than_random_ones():
    maps = np.abs(fields(24, (28, 28), seed=5))
    apart = distances(blur(torch.from_numpy(maps), (28, 28)) / torch.from_numpy(maps.sum((1, 2), keepdims=True)))

    def mean(plan):
        return apart[torch.arange(24), plan.partner.long()].mean().item()

    random = [mean(plan_of(maps, seed, pairing="random")) for seed in range(20)]
    assert mean(plan_of(maps)) > max(random)
    assert torch.equal(plan_of(maps, 1).table, plan_of(maps, 2).table), "nothing is drawn"


def test_the_two_masks_of_a_pair_sum_to_one():
    masks = masks_of(plan_of(np.abs(fields(2, (24, 24)))))
    assert (masks.sum(0) - 1).abs().max() <= ULP and (masks[0] - 0.5).abs().max() > 0.1


def test_equal_images_share_every_pixel_alike():
    batch = noise(1, (32, 32))
    batch.images, batch.labels = batch.images.expand(5, -1, -1, -1).contiguous(), torch.arange(5)
    plan = always().decide(None, batch, None)
    assert (plan.maps == ONE // 2).all() and (plan.own == 0.5).all()
    assert torch.equal(batch.mix(plan), batch.mix())


def test_the_scale_of_a_saliency_does_not_matter():
    maps = np.abs(fields(6, (24, 40)))
    scaled = maps * 2.0 ** np.array([-9, 0, 3, -4, 12, 1])[:, None, None]
    assert torch.equal(plan_of(maps).table, plan_of(scaled).table)
    assert torch.equal(plan_of(maps).maps, plan_of(scaled).maps)


def test_without_any_saliency_the_mask_is_a_half():
    maps = np.abs(fields(4, (16, 16)))
    maps[[1, 3]] = 0
    plan = plan_of(maps, pairing="random")
    masks = masks_of(plan)
    for i, j in enumerate(plan.partner.tolist()):
        expected = {(True, True): 0.5, (True, False): 0.0, (False, True): 1.0}.get((i in (1, 3), j in (1, 3)))
        assert expected is None or (masks[i] == expected).all()
    assert (masks_of(plan_of(0 * maps)) == 0.5).all()


def test_one_image_alone_stays_what_it_is():
    batch = noise(1, (16, 16))
    assert torch.equal(batch.mix(always().decide(None, batch, None)), batch.mix())


# ---- with a model ----


@pytest.mark.parametrize("saliency_size", [None, 12])
def test_ap_is_the_root_mean_square_of_the_gradient(saliency_size):
    size = (16, 24)
    torch.manual_seed(0)
    model = Linear(size if saliency_size is None else (12, 18)).train()
    batch = noise(6, size, seed=6)
    plan = always("ap", saliency_size=saliency_size).decide(model, batch, CrossEntropy())
    x = batch.mix()
    if saliency_size is not None:
        x = nn.functional.interpolate(x, (12, 18), mode="bilinear")
    with torch.no_grad():
        model.eval()
        slope = (model(x).softmax(1) - torch.eye(3)[batch.labels]) / (1 + model.norm.eps) ** 0.5
        gradient = (slope @ model.layer.weight).view(6, 3, *x.shape[2:])
    saliency = gradient.square().mean(1).sqrt()[:, None]
    if saliency_size is not None:
        saliency = nn.functional.interpolate(saliency, size, mode="bilinear")
    smooth = np.stack([blurred(field) / blurred(field).sum() for field in saliency[:, 0].numpy()])
    for i, (j, mask) in enumerate(zip(plan.partner.tolist(), masks_of(plan).numpy(), strict=True)):
        np.testing.assert_allclose(mask, smooth[i] / (smooth[i] + smooth[j]), atol=1e-4)


@pytest.mark.parametrize("saliency", ["sr", "ap"])
def test_planning_leaves_the_model_as_it_is(saliency):
    size = (16, 16)
    model = Linear(size).train()
    criterion = CrossEntropy()
    criterion(model(noise(4, size, 1).mix()), Targets.of(torch.arange(4) % 3)).backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    slopes = [p.grad.clone() for p in model.parameters()]
    calls = model.calls
    always(saliency).decide(model, noise(4, size, 2), criterion)
    assert model.calls - calls == (saliency == "ap") and model.training and model.norm.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), slopes, strict=True))


@pytest.mark.parametrize("saliency, prob", [("sr", 0.5), ("ap", 0.8), ("sr", 0.3)])
def test_batches_are_mixed_by_chance(saliency, prob):
    given = {} if prob != 0.3 else {"mix_prob": prob}
    mixer, model = GuidedMixup(saliency, **given), Linear((8, 8))
    mixed = []
    for seed in range(300):
        calls = model.calls
        mixed.append(mixer.decide(model, noise(2, (8, 8), 1000 + seed), CrossEntropy()) is not None)
        assert model.calls - calls == (mixed[-1] and saliency == "ap"), "a clean batch costs nothing"
    assert within(np.array(mixed, float), prob)


def test_a_clean_batch_has_the_clean_loss():
    size, criterion = (8, 8), CrossEntropy(0.1)
    for options in ({"mix_prob": 1e-6}, {"saliency": "ap", "mix_prob": 1e-6, "clean_lam": 1.0}):
        model, batch = Linear(size).train(), noise(4, size)
        expected = criterion(model(batch.mix()), Targets.of(batch.labels))
        assert torch.equal(GuidedMixup(**options)(model, noise(4, size), criterion), expected)


def test_clean_lam_adds_the_clean_loss_of_the_same_plan():
    size, criterion = (8, 8), CrossEntropy()
    torch.manual_seed(1)
    model, batch = Linear(size).train(), noise(4, size)
    mixer = always("ap", clean_lam=0.5)
    loss = mixer(model, batch, criterion)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    x = noise(4, size).mix().requires_grad_()
    clean = criterion(model(x), Targets.of(batch.labels))
    (gradient,) = torch.autograd.grad(clean, x, retain_graph=True)
    plan = mixer.plan(noise(4, size), gradient)
    mixed = criterion(model(batch.mix(plan)), Targets.of(batch.labels, plan))
    torch.testing.assert_close(loss, 0.5 * clean + mixed, rtol=1e-5, atol=1e-6)


def test_bfloat16_autocast_does_not_change_the_saliency():
    plain = always().decide(None, noise(4, (32, 32)), None)
    with torch.autocast("cpu", torch.bfloat16):
        inside = always().decide(None, noise(4, (32, 32)), None)
    assert torch.equal(plain.maps, inside.maps) and torch.equal(plain.table, inside.table)


def test_openmixup_pairs_at_random_and_always_mixes():
    fixed = []
    for seed in range(300):
        plan = GuidedMixup(variant="openmixup").decide(None, noise(4, (8, 8), seed), None)
        fixed.append((plan.partner == torch.arange(4)).sum())
    assert within(np.array(fixed, float), 1.0)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"saliency": "gradient"}, "choose one of sr, ap"),
        ({"pairing": "greedy_c"}, "choose one of greedy, random"),
        ({"mix_prob": 0}, "from 1e-06 to 1"),
        ({"mix_prob": 1.5}, "from 1e-06 to 1"),
        ({"clean_lam": 1.0}, "belong to saliency ap"),
        ({"saliency_size": 64}, "belong to saliency ap"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, match):
    with pytest.raises(ValueError, match=match) as error:
        GuidedMixup(**options)
    assert str(error.value).startswith("GuidedMixup: ") and "\n" not in str(error.value)


@pytest.mark.cuda
@pytest.mark.parametrize("saliency", ["sr", "ap"])
def test_on_a_gpu_the_plan_is_the_same_without_a_sync(saliency):
    for case in (*CASES, Case(256), Case(300, "equals")):
        arguments = case.arguments()
        assert torch.equal(farthest(arguments["distance"].cuda()).cpu(), reference(**arguments))
    size, mixer = (160, 160), always(saliency, pairing="random")
    model = Linear(size).eval()
    host = mixer.decide(model, noise(8, size), CrossEntropy())
    model.cuda()
    device = noise(8, size)
    device = Batch(device.images.cuda(), device.labels.cuda(), device.rng)
    greedy = always(saliency)
    greedy.decide(model, device, CrossEntropy())
    device.rng = np.random.default_rng(0)
    with no_waits():
        plan = mixer.decide(model, device, CrossEntropy())
        greedy.decide(model, device, CrossEntropy())
    assert torch.equal(plan.partner.cpu(), host.partner)
    assert (plan.maps.cpu() - host.maps).abs().double().mean() < 1e-3 * ONE
