"""Augmentations: the pass against its reference and against timm, Pillow and torchvision; the draws against timm's."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from fastmix.engine.augment import (
    FIXMATCH,
    INCREASING,
    MMCLS,
    ColorJitter,
    RandAugment,
    ThreeAugment,
)
from fastmix.kernels.randaugment import CASES, INTERPOLATIONS, randaugment, reference
from fastmix.kernels.randaugment import operations as O
from fastmix.kernels.randaugment.cases import Case
from fastmix.pipelines.sources.shapes import SHAPES, draw
from helpers.waiting import no_waits

FILL = (124, 116, 104)
SIZE = (88, 96)
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


@pytest.fixture(scope="module")
def timm():
    import_module("fastmix.compat")  # before torchvision, which timm imports
    return import_module("timm.data.auto_augment")


@pytest.fixture(scope="module")
def drawings() -> np.ndarray:
    """uint8 [10,88,96,3]"""
    rng = np.random.default_rng(0)
    return np.stack([draw(rng, name, 96)[: SIZE[0]] for name in SHAPES])


@pytest.fixture(scope="module")
def photographs(data) -> np.ndarray:
    """uint8 [24,224,224,3]"""
    files = sorted((data("imagenet_sample") / "train").rglob("*.JPEG"))[:24]
    return np.stack([np.asarray(ImageOps.fit(Image.open(file).convert("RGB"), (224, 224))) for file in files])


def apply(images: np.ndarray, *layers: np.ndarray, interpolation: str = "bicubic") -> np.ndarray:
    """Every image by the same rows, one [1,8] a layer; int64."""
    table = np.stack([np.repeat(rows, len(images), 0) for rows in layers])
    return randaugment(torch.from_numpy(images), torch.from_numpy(table), interpolation, FILL).numpy().astype(int)


def each(images: np.ndarray, function) -> np.ndarray:
    return np.stack([np.asarray(function(Image.fromarray(image))) for image in images]).astype(int)


# ---- the pass ----


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_cpu_twin_equals_the_reference(case):
    for seed in range(3):
        arguments = case.arguments(seed=seed)
        assert torch.equal(randaugment(**arguments), reference(**arguments))


def test_cases_hold_every_operation():
    operations = torch.cat([case.arguments()["table"][..., 0].flatten() for case in CASES])
    assert set(operations.tolist()) == set(range(O.AFFINE + 1))


def test_an_image_does_not_depend_on_the_others():
    arguments = Case(48, (13, 20)).arguments()
    images, table = arguments.pop("images"), arguments.pop("table")
    together = randaugment(images, table, **arguments)
    for i in range(48):
        alone = randaugment(images[i : i + 1], table[:, i : i + 1].contiguous(), **arguments)
        assert torch.equal(alone[0], together[i])


def test_images_are_not_changed_and_outputs_are_reused():
    arguments = Case(48, (13, 20), layers=3).arguments()
    images = arguments["images"]
    before, wanted = images.clone(), reference(**arguments)
    out = torch.empty_like(images), torch.empty_like(images)
    assert randaugment(**arguments, out=out) is out[0]
    assert torch.equal(out[0], wanted) and torch.equal(images, before)
    planar = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not planar.is_contiguous() and torch.equal(randaugment(**arguments | {"images": planar}), wanted)


def test_arguments_that_do_not_fit_are_refused():
    arguments = Case(6, (5, 7)).arguments()
    images, table = arguments["images"], arguments["table"]
    unknown = table.clone()
    unknown[1, 2, 0] = O.AFFINE + 1
    for match, changes in (
        ("images must be uint8", {"images": images.float()}),
        ("images must be uint8", {"images": images[..., :2]}),
        (r"table must be int32 \[layers,6,8\]", {"table": table[:, :5]}),
        ("table must be int32", {"table": table.long()}),
        ("choose one of nearest, bilinear, bicubic", {"interpolation": "cubic"}),
        ("fill is", {"fill": (0, 0, 256)}),
        ("out must be two", {"out": (images[:2], images)}),
        ("operations outside 0..12", {"table": unknown}),
    ):
        with pytest.raises(ValueError, match=match) as error:
            randaugment(**arguments | changes)
        assert "\n" not in str(error.value)


# ---- single operations against Pillow, as timm and torchvision use it ----


def compare_with_timm(timm, monkeypatch, images, magnitudes) -> None:
    size = images.shape[1:3]
    for interpolation in INTERPOLATIONS:
        resample = getattr(Image.Resampling, interpolation.upper())
        hparams = {"translate_pct": 0.45, "img_mean": FILL, "interpolation": resample}
        for name, rows in INCREASING.items():
            if interpolation != "bicubic" and name not in GEOMETRIC:
                continue
            for magnitude in magnitudes:
                for sign in (-1, 1):
                    monkeypatch.setattr(timm, "_randomly_negate", lambda v, sign=sign: sign * v)
                    row = rows(np.array([magnitude]), np.array([sign]), size)
                    got = apply(images, row, interpolation=interpolation)
                    if name == "PosterizeIncreasing" and magnitude == 10:  # no bit is left; Pillow 13 refuses that
                        assert (got == 0).all()
                        continue
                    operation = timm.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
                    error = np.abs(got - each(images, operation))
                    what = f"{name} {interpolation} {sign * magnitude}: mean {error.mean()}, max {error.max()}"
                    if name not in GEOMETRIC:
                        assert error.max() == 0, what
                    elif interpolation == "nearest":  # places in fp32, not in 1/65536: some fall on the other side
                        assert (error > 0).mean() < 0.003 and error.mean() < 0.1, what
                    else:  # truncated: whole levels, frequent at shifts by fifths of a pixel, fall on either side
                        assert error.max() <= 1 and error.mean() < 0.1, what


def test_operations_equal_timms_on_drawings(timm, monkeypatch, drawings):
    compare_with_timm(timm, monkeypatch, drawings, np.linspace(0, 10, 9))


@pytest.mark.long
def test_operations_equal_timms_on_photographs(timm, monkeypatch, photographs):
    compare_with_timm(timm, monkeypatch, photographs[:8], (0, 3.3, 6, 9, 10))


def test_flat_and_tiny_images_as_in_pillow():
    flat = np.full((1, 9, 7, 3), 77, np.uint8)
    two = flat.copy()
    two[0, 0, 0] = 78
    corner = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    for images in (flat, two, corner):
        assert (apply(images, O.whole(O.AUTOCONTRAST, 1)) == each(images, ImageOps.autocontrast)).all()
        assert (apply(images, O.whole(O.EQUALIZE, 1)) == each(images, ImageOps.equalize)).all()
        assert (apply(images, O.real(O.SHARPNESS, 1, 1.9)) == images).all()


def compare_three_augment(images) -> None:
    grey = each(images, lambda image: image.convert("L").convert("RGB"))
    assert (apply(images, O.real(O.COLOR, 1, 0)) == grey).all()
    assert (apply(images, O.whole(O.SOLARIZE, 1, 128)) == each(images, lambda i: ImageOps.solarize(i, 128))).all()
    for radius in (0.1, 0.4, 0.9, 1.4, 2.0):
        got = apply(images, *O.blur(np.array([radius])))
        error = np.abs(got - each(images, lambda i, radius=radius: i.filter(ImageFilter.GaussianBlur(radius))))
        assert error.mean() < 0.7 and error[:, 6:-6, 6:-6].max() <= 4  # Pillow rounds six times


def test_three_augment_against_pillow(drawings):
    compare_three_augment(drawings)


def test_three_augment_against_pillow_on_photographs(photographs):
    compare_three_augment(photographs)


def test_blur_weights_are_a_distribution_with_the_variance_of_the_gaussian():
    radius = np.linspace(0, 2, 41)
    weights = O.blur(radius)[0].view(np.float32)[:, 1:].astype(float)
    k = np.arange(O.TAPS + 1)
    np.testing.assert_allclose(weights[:, 0] + 2 * weights[:, 1:].sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(2 * (weights * k**2).sum(1), radius**2, atol=1e-5)
    with pytest.raises(ValueError, match="at most 2"):
        O.blur(np.array([2.5]))


def test_colour_jitter_equals_torchvisions(drawings):
    import_module("fastmix.compat")
    from torchvision.transforms import functional as F

    adjust = {O.BRIGHTNESS: F.adjust_brightness, O.CONTRAST: F.adjust_contrast, O.COLOR: F.adjust_saturation}
    table = ColorJitter(0.4, 0.5, 0.6).draw(np.random.default_rng(0), len(drawings), SIZE)
    got = randaugment(torch.from_numpy(drawings), torch.from_numpy(table)).numpy()
    for i, image in enumerate(drawings):
        image = Image.fromarray(image)
        for row in table[:, i]:
            image = adjust[row[0]](image, float(row.view(np.float32)[1]))
        assert (np.asarray(image) == got[i]).all()


# ---- what is drawn ----


def theirs(timm, config: str, n: int) -> dict[str, list[tuple[float, ...]]]:
    """The arguments with which timm calls each operation for n images, by name."""
    import random

    random.seed(1)  # the generators that timm uses
    np.random.seed(1)
    hparams = {"translate_pct": 0.45, "img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    transform = timm.rand_augment_transform(config, hparams)
    calls = {operation.name: [] for operation in transform.ops}
    for operation in transform.ops:
        operation.aug_fn = lambda image, *args, name=operation.name, **_: calls[name].append(args) or image
    for _ in range(n):
        transform(None)
    return calls


def parameter(table: np.ndarray, name: str) -> np.ndarray:
    """The argument that timm gives to the operation `name`, back from the rows of it, of images 100 pixels wide."""
    rows = table.reshape(-1, O.COLUMNS)
    numbers = rows.view(np.float32).astype(float)
    affine = rows[:, 0] == O.AFFINE
    straight = affine & (numbers[:, 1] == 1) & (numbers[:, 5] == 1)
    if name == "Rotate":
        turned = numbers[affine & ~straight]
        return np.degrees(np.arctan2(turned[:, 4], turned[:, 1]))
    if name == "ShearX":
        return numbers[straight & (numbers[:, 2] != 0), 2]
    if name == "TranslateYRel":
        return numbers[straight & (numbers[:, 6] != 0), 6] / 100
    if name == "ColorIncreasing":
        return numbers[rows[:, 0] == O.COLOR, 1]
    if name == "SolarizeAdd":
        return rows[rows[:, 0] == O.SOLARIZE_ADD, 1].astype(float)
    assert name == "PosterizeIncreasing"
    return np.array([bin(word).count("1") for word in rows[rows[:, 0] == O.POSTERIZE, 1] & 255], float)


@pytest.mark.parametrize(
    "policy,config",
    [
        (RandAugment(), "rand-m9-mstd0.5-inc1"),
        (RandAugment(n=3, magnitude=6, std=1.5, prob=0.7), "rand-m6-n3-mstd1.5-p0.7-inc1"),
        (RandAugment(magnitude=8, std=math.inf), "rand-m8-mstd101-inc1"),
    ],
    ids=str,
)
def test_randaugment_draws_as_timm_does(timm, policy, config):
    from scipy.stats import ks_2samp

    n = 12000
    table, calls = policy.draw(np.random.default_rng(2), n, (100, 100)), theirs(timm, config, n)
    for name in ("Rotate", "ShearX", "TranslateYRel", "ColorIncreasing", "SolarizeAdd", "PosterizeIncreasing"):
        ours, others = parameter(table, name), np.array([args[0] for args in calls[name]], float)
        assert ks_2samp(ours.round(5), others.round(5)).pvalue > 1e-3, name
    expected = policy.n * n * policy.prob / 15
    counts = np.bincount(table[..., 0].ravel(), minlength=O.AFFINE + 1)
    for operation in (O.AUTOCONTRAST, O.EQUALIZE, O.POSTERIZE, O.COLOR, O.CONTRAST, O.BRIGHTNESS, O.SHARPNESS):
        assert abs(counts[operation] - expected) < 4 * math.sqrt(expected)
    assert abs(counts[O.SOLARIZE] - 2 * expected) < 4 * math.sqrt(2 * expected)  # solarise and invert
    assert abs(counts[O.AFFINE] - 5 * expected) < 4 * math.sqrt(5 * expected)
    assert abs(counts[O.COPY] - (1 - policy.prob) * policy.n * n) < 4 * math.sqrt(policy.n * n / 4)


def test_magnitudes_are_a_clipped_normal_distribution():
    from scipy.stats import kstest, norm

    table = RandAugment(n=1, prob=1).draw(np.random.default_rng(3), 60000, (100, 100))
    magnitude = np.abs(parameter(table, "ShearX")) / 0.03
    assert magnitude.max() < 10 + 1e-5
    at_most = (magnitude > 10 - 1e-5).mean()
    assert abs(at_most - norm.sf(10, 9, 0.5)) < 4 * math.sqrt(at_most / len(magnitude))
    below = magnitude[magnitude < 9.9]
    assert kstest(below, lambda v: norm.cdf(v, 9, 0.5) / norm.cdf(9.9, 9, 0.5)).pvalue > 1e-3
    assert abs((parameter(table, "ShearX") > 0).mean() - 0.5) < 2 / math.sqrt(len(magnitude))


def test_operations_of_different_layers_and_images_are_independent():
    first, second = RandAugment(prob=0.5).draw(np.random.default_rng(4), 40000, (100, 100))[..., 0]
    for a, b in ((first, second), (first[1:], first[:-1])):
        assert abs(np.corrcoef(a == O.AFFINE, b == O.AFFINE)[0, 1]) < 4 / math.sqrt(len(a))


def test_mmcls_posterizes_to_the_next_lower_number_of_bits():
    magnitude, sign = np.array([0.0, 1, 2.5, 6, 7.4, 7.6, 9, 10]), np.ones(8)
    for rows, bits in (INCREASING, [4, 4, 3, 2, 2, 1, 1, 0]), (MMCLS, [4, 3, 3, 1, 1, 0, 0, 0]):
        table = rows["PosterizeIncreasing"](magnitude, sign, SIZE)
        assert [bin(word & 255).count("1") for word in table[:, 1]] == bits
    assert all(INCREASING[name] is MMCLS[name] for name in INCREASING if name != "PosterizeIncreasing")


@pytest.mark.parametrize("level, sign", [(0, 1), (3.3, -1), (7, 1), (7, -1), (10, -1)])
def test_fixmatchs_operations_by_their_ranges(drawings, level, sign):
    """val1 + level / 10 (val2 - val1) of the ranges in the benchmark's file, each operation by Pillow."""
    h, w = SIZE
    factor = 1 + sign * (0.05 + level / 10 * (0.95 - 0.05))
    shift, slope = sign * level / 10 * 0.3, sign * level / 10 * 0.3
    matrices = {
        "ShearX": (1, slope, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, slope, 1, 0),
        "TranslateXRel": (1, 0, shift * w, 0, 1, 0),
        "TranslateYRel": (1, 0, 0, 0, 1, shift * h),
    }
    plain = {
        "AutoContrast": ImageOps.autocontrast,
        "BrightnessIncreasing": lambda image: ImageEnhance.Brightness(image).enhance(factor),
        "ColorIncreasing": lambda image: ImageEnhance.Color(image).enhance(factor),
        "ContrastIncreasing": lambda image: ImageEnhance.Contrast(image).enhance(factor),
        "Equalize": ImageOps.equalize,
        "Identity": lambda image: image,
        "PosterizeIncreasing": lambda image: ImageOps.posterize(image, int(4 + level / 10 * 4)),
        "SharpnessIncreasing": lambda image: ImageEnhance.Sharpness(image).enhance(factor),
        "SolarizeIncreasing": lambda image: ImageOps.solarize(image, 256 - level / 10 * 256),
    }
    assert set(FIXMATCH) == {*plain, *matrices, "Rotate"} and len(FIXMATCH) == 14
    for name, rows in FIXMATCH.items():
        got = apply(drawings, rows(np.array([level]), np.array([sign]), SIZE))
        if name in plain:
            assert np.abs(got - each(drawings, plain[name])).max() == 0, name
            continue
        if name == "Rotate":
            wanted = each(drawings, lambda image: image.rotate(sign * 3 * level, Image.BICUBIC, fillcolor=FILL))
        else:
            matrix = matrices[name]
            wanted = each(
                drawings,
                lambda image, matrix=matrix: image.transform(
                    (w, h), Image.AFFINE, matrix, Image.BICUBIC, fillcolor=FILL
                ),
            )
        error = np.abs(got - wanted)
        assert error.max() <= 1 and error.mean() < 0.1, name


def test_three_augment_draws_each_of_three_equally_and_the_radius_uniformly():
    from scipy.stats import kstest

    n = 9000
    first, second = ThreeAugment().draw(np.random.default_rng(5), n, SIZE)
    kinds = {O.COLOR: O.COPY, O.SOLARIZE: O.COPY, O.BLUR_X: O.BLUR_Y}
    for kind, then in kinds.items():
        here = first[:, 0] == kind
        assert abs(here.mean() - 1 / 3) < 4 * math.sqrt(2 / 9 / n)
        assert (second[here, 0] == then).all()
    assert (first[first[:, 0] == O.COLOR, 1] == 0).all() and (first[first[:, 0] == O.SOLARIZE, 1] == 128).all()
    blurred = first[:, 0] == O.BLUR_X
    assert (first[blurred, 1:] == second[blurred, 1:]).all()
    weights = first[blurred].view(np.float32)[:, 1:].astype(float)
    radius = np.sqrt(2 * (weights * np.arange(7) ** 2).sum(1))
    assert kstest(radius, "uniform", (0.1, 1.9)).pvalue > 1e-3


def test_colour_jitter_draws_uniform_factors_in_every_order():
    from scipy.stats import chisquare, kstest

    table = ColorJitter(0.3, 1.5, 0.2).draw(np.random.default_rng(6), 6000, SIZE)
    assert table.shape == (3, 6000, 8)
    for operation, low, high in ((O.BRIGHTNESS, 0.7, 1.3), (O.CONTRAST, 0, 2.5), (O.COLOR, 0.8, 1.2)):
        rows = table[table[..., 0] == operation]
        assert len(rows) == 6000
        assert kstest(rows.view(np.float32)[:, 1], "uniform", (low, high - low)).pvalue > 1e-3
    orders = np.unique(table[..., 0], axis=1, return_counts=True)[1]
    assert len(orders) == 6 and chisquare(orders).pvalue > 1e-3
    assert ColorJitter(0, 0.5, 0).draw(np.random.default_rng(0), 4, SIZE).shape == (1, 4, 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandAugment(n=0),
        lambda: RandAugment(magnitude=11),
        lambda: RandAugment(std=-1),
        lambda: RandAugment(std=math.nan),
        lambda: RandAugment(prob=1.1),
        lambda: RandAugment(variant="paper"),
        lambda: ColorJitter(-0.1),
    ],
)
def test_values_outside_their_range_are_refused(make):
    with pytest.raises(ValueError):
        make()


# ---- on a GPU ----


@pytest.mark.cuda
@pytest.mark.parametrize("case", [*CASES, *(Case(64, (224, 224), name) for name in INTERPOLATIONS)], ids=str)
def test_the_gpu_equals_the_reference_without_a_sync_and_in_a_graph(case):
    arguments = case.arguments()
    wanted = reference(**arguments)
    on_gpu = {k: v.to("cuda") if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    with no_waits():
        got = randaugment(**on_gpu)
    assert torch.equal(got.cpu(), wanted)
    out = torch.zeros_like(got), torch.zeros_like(got)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        written = randaugment(**on_gpu, out=out)
    graph.replay()
    assert torch.equal(written.cpu(), wanted)
