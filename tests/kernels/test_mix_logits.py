"""Mixing by logits and its gradient: against the plain formula and torch's autograd and interpolation, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastmix.kernels.erase import Erase, noise
from fastmix.kernels.exp import exp_
from fastmix.kernels.mix import DTYPES, mix
from fastmix.kernels.mix.cases import MEAN, STD
from fastmix.kernels.mix_logits import CASES, mix_logits, reference
from fastmix.kernels.mix_logits.gradient import CASES as GRAD_CASES
from fastmix.kernels.mix_logits.gradient import mix_logits_grad
from fastmix.kernels.mix_logits.gradient import reference as grad_reference
from fastmix.kernels.plan import Plan
from fastmix.kernels.upsample import MODES, upsample
from helpers.waiting import no_waits

pytestmark = pytest.mark.gradient

SHAPES = {  # size of the images and of the grid: even, odd, as fine as the image along a side, one cell
    "14x14": ((224, 224), (14, 14)),
    "odd": ((37, 53), (5, 7)),
    "fine": ((20, 11), (20, 3)),
    "one": ((9, 17), (1, 1)),
}


def arguments(size, grid, n: int = 3, seed: int = 0, erase: bool = False) -> dict:
    rng = np.random.default_rng(seed)
    return dict(
        images=torch.from_numpy(rng.integers(0, 256, (n, *size, 3), dtype=np.uint8)),
        partner=torch.from_numpy(np.roll(np.arange(n, dtype=np.int32), 1)),
        logits=torch.from_numpy(rng.normal(0, 2, (n, *grid)).astype(np.float32)),
        mean=MEAN,
        std=STD,
        erase=Erase.draw(rng, n, size, 1.0, noise((120, 115, 100), (58, 57, 56))) if erase else None,
    )


def formula(images, partner, logits, mean, std, mode, erase=None):
    """The plain formula with torch's own interpolation, in float64; what erased sources show is read from `mix`."""
    size = images.shape[1:3]
    if mode == "nearest":
        y, x = (torch.arange(length) * cells // length for length, cells in zip(size, logits.shape[1:], strict=True))
        s = logits[:, y][:, :, x]
    else:
        s = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    s = s.sigmoid()
    pixels = mix(images, None, (0, 0, 0), (1 / 255,) * 3, erase=erase).double() / 255
    mixed = (1 - s[:, None]) * pixels + s[:, None] * pixels[partner.long()]
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    return (mixed - mean) / std, s.sum((1, 2)), s.square().sum((1, 2))


def in_float64(kwargs) -> dict:
    return kwargs | {"logits": kwargs["logits"].double().requires_grad_()}


@pytest.mark.parametrize("erase", [False, True], ids=["", "erase"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_are_those_of_the_formula(shape, mode, erase):
    kwargs = arguments(*SHAPES[shape], erase=erase)
    wanted, sums, squares = formula(**in_float64(kwargs), mode=mode)
    for dtype in DTYPES:
        out, sum_s, sum_s2 = mix_logits(**kwargs, mode=mode, dtype=dtype)
        assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
        rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        assert ((out - wanted).abs() <= 3e-6 + rounding * wanted.abs()).all()
        torch.testing.assert_close(sum_s.double(), sums, rtol=1e-6, atol=0)
        torch.testing.assert_close(sum_s2.double(), squares, rtol=1e-6, atol=0)


@pytest.mark.parametrize("erase", [False, True], ids=["", "erase"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_autograd_through_the_formula(shape, mode, erase):
    kwargs = arguments(*SHAPES[shape], erase=erase)
    exact = in_float64(kwargs)
    outputs = formula(**exact, mode=mode)
    made = torch.Generator().manual_seed(1)
    grads = [torch.randn(v.shape, generator=made, dtype=torch.float64) for v in outputs]
    (wanted,) = torch.autograd.grad(outputs, exact["logits"], grads)
    analytic = grad_reference(
        **{k: v for k, v in exact.items() if k != "mean"},
        mode=mode, grad_out=grads[0], grad_s=grads[1], grad_s2=grads[2],
    )  # fmt: skip
    torch.testing.assert_close(analytic, wanted, rtol=1e-6, atol=1e-6)  # 1 / (255 std) is rounded to fp32

    kwargs["logits"].requires_grad_()
    (got,) = torch.autograd.grad(mix_logits(**kwargs, mode=mode), kwargs["logits"], [g.float() for g in grads])
    assert (got - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_passes_gradcheck(mode):
    kwargs = in_float64(arguments((7, 10), (3, 4), 2, erase=True))
    logits = kwargs.pop("logits")
    assert torch.autograd.gradcheck(
        lambda z: reference(**kwargs, logits=z, mode=mode, dtype=torch.float64), logits, atol=1e-5
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_cpu_twin_equals_the_reference(case):
    for dtype in DTYPES:
        for got, wanted in zip(mix_logits(**case.arguments(dtype)), reference(**case.arguments(dtype)), strict=True):
            torch.testing.assert_close(got, wanted, rtol=max(1e-6, torch.finfo(got.dtype).eps), atol=0)


@pytest.mark.parametrize("case", GRAD_CASES, ids=str)
def test_the_cpu_twin_of_the_gradient_equals_its_reference(case):
    for dtype in DTYPES:
        got, wanted = mix_logits_grad(**case.arguments(dtype)), grad_reference(**case.arguments(dtype))
        assert (got - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("length, cells", [(224, 14), (37, 5), (20, 20), (7, 1), (50, 49)])
def test_upsampling_is_that_of_torch(length, cells):
    grid = torch.randn(2, cells, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mode, options in (("bilinear", {"align_corners": False}), ("nearest", {})):
        if mode == "bilinear" or length % cells == 0:  # torch's nearest cell is found in fp32
            wanted = F.interpolate(grid[:, None], (length, 9), mode=mode, **options)[:, 0]
            torch.testing.assert_close(upsample(grid, (length, 9), mode), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_certain_logits_show_one_image_and_even_ones_half_of_each(mode):
    kwargs = arguments((37, 53), (5, 7), erase=True)
    images, partner, erase = kwargs["images"], kwargs["partner"].long(), kwargs["erase"]
    alone = mix(images, None, MEAN, STD, erase=erase)
    for value, wanted in ((-200.0, alone), (200.0, alone[partner])):
        kwargs["logits"].fill_(value)
        assert torch.equal(mix_logits(**kwargs, mode=mode)[0], wanted)
    kwargs["logits"].zero_()
    kwargs["erase"] = None
    half = mix(images, Plan.blend(kwargs["partner"], 0.5), MEAN, STD)
    out, sum_s, sum_s2 = mix_logits(**kwargs, mode=mode)
    assert torch.equal(out, half)
    assert (sum_s == 37 * 53 / 2).all() and (sum_s2 == 37 * 53 / 4).all()


@pytest.mark.parametrize("mode", MODES)
def test_equal_images_stay_as_they_are_and_teach_nothing(mode):
    kwargs = arguments((37, 53), (5, 7))
    kwargs["images"] = kwargs["images"][:1].repeat(3, 1, 1, 1)
    kwargs["logits"].requires_grad_()
    out = mix_logits(**kwargs, mode=mode)[0]
    assert torch.equal(out, mix(kwargs["images"], None, MEAN, STD))
    assert not torch.autograd.grad(out.square().sum(), kwargs["logits"])[0].any()


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_does_not_depend_on_the_others_or_on_threads(mode):
    """A batch large enough for parts in threads; twice the same bits, and those of each pair of images alone."""
    kwargs = arguments((96, 80), (6, 5), n=16)
    g = torch.randn(16, 3, 96, 80, generator=torch.Generator().manual_seed(0))

    def run(**chosen):
        logits = chosen["logits"].detach().requires_grad_()
        outputs = mix_logits(**chosen | {"logits": logits}, mode=mode)
        return *outputs, *torch.autograd.grad(outputs, logits, [g[: len(logits)], outputs[1], outputs[2]])

    together = run(**kwargs)
    assert all(torch.equal(a, b) for a, b in zip(together, run(**kwargs), strict=True))
    images = kwargs["images"][[0, 15]]
    pair = dict(images=images, partner=torch.tensor([1, 0], dtype=torch.int32), logits=kwargs["logits"][:2])
    alone = run(**kwargs | pair)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_only_the_inputs_are_kept_for_the_gradient(mode):
    kwargs = arguments((37, 53), (5, 7))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        mix_logits(**kwargs | {"logits": kwargs["logits"].requires_grad_()}, mode=mode)
    inputs = [kwargs[name].data_ptr() for name in ("images", "partner", "logits")]
    assert [t.data_ptr() for t in kept] == inputs


def test_layouts_and_autocast_change_nothing():
    kwargs = arguments((20, 11), (20, 3))
    logits = kwargs.pop("logits").requires_grad_()
    outputs = mix_logits(**kwargs, logits=logits)
    g = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(0))
    (wanted,) = torch.autograd.grad(outputs[0], logits, g.to(memory_format=torch.channels_last))
    turned = kwargs["images"].transpose(1, 2).contiguous().transpose(1, 2)
    column = torch.stack([kwargs["partner"]] * 2, 1)[:, 0]
    with torch.autocast("cpu", torch.bfloat16):
        others = mix_logits(**kwargs | {"images": turned, "partner": column}, logits=logits.mT.contiguous().mT)
    assert all(torch.equal(a, b) for a, b in zip(outputs, others, strict=True))
    assert torch.equal(torch.autograd.grad(others[0], logits, g)[0], wanted)


def test_mistakes_are_named():
    kwargs = arguments((20, 11), (20, 3))
    for wrong, message in (
        ({"mode": "bicubic"}, "mode is 'bicubic'; choose one of nearest, bilinear"),
        ({"dtype": torch.float64}, "dtype is torch.float64"),
        ({"logits": torch.zeros(3, 21, 3)}, "21 x 3 logits for images of 20 x 11"),
        ({"logits": torch.zeros(3, 0, 3)}, "0 x 3 logits"),
        ({"logits": torch.zeros(3, 2, 3).bfloat16()}, "logits must be float32"),
        ({"logits": torch.zeros(2, 2, 3)}, "logits must be float32"),
        ({"partner": torch.tensor([0, 1, 2])}, "partner must be int32"),
        ({"partner": torch.tensor([0, 1, 3], dtype=torch.int32)}, "outside of the batch of 3 images"),
    ):
        with pytest.raises(ValueError, match=message):
            mix_logits(**kwargs | wrong)


def test_exp_is_exact_to_two_units():
    x = np.linspace(-87, 88, 200_001).astype(np.float32)
    wanted, got = np.exp(x.astype(np.float64)), x.copy()
    exp_(got, np.empty(len(x), np.int32))
    assert (np.abs(got - wanted) <= 2 * np.spacing(wanted.astype(np.float32))).all()
    beyond = np.array([-1e30, -100, 100, 1e30], np.float32)
    exp_(beyond, np.empty(4, np.int32))
    assert (beyond[:2] < 2e-38).all() and (beyond[2:] > 1e38).all() and np.isfinite(beyond).all()


@pytest.mark.cuda
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gpu_equals_the_formula_without_a_sync(shape, mode):
    for erase in (False, True):
        kwargs = arguments(*SHAPES[shape], erase=erase)
        exact = in_float64(kwargs)
        wanted = formula(**exact, mode=mode)
        grads = [torch.randn_like(v) for v in wanted]
        (wanted_grad,) = torch.autograd.grad(wanted, exact["logits"], grads)
        there = {k: v.to("cuda") if hasattr(v, "to") else v for k, v in kwargs.items()}
        there["logits"].requires_grad_()
        sent = [g.float().cuda() for g in grads]
        with no_waits():
            outputs = mix_logits(**there, mode=mode)
            (grad,) = torch.autograd.grad(outputs, there["logits"], sent)
        torch.testing.assert_close(outputs[0].cpu().double(), wanted[0], rtol=0, atol=1e-5)
        for got, exact_sum in zip(outputs[1:], wanted[1:], strict=True):
            torch.testing.assert_close(got.cpu().double(), exact_sum, rtol=2e-6, atol=0)
        assert (grad.cpu() - wanted_grad).abs().max() <= 2e-6 * wanted_grad.abs().max()
