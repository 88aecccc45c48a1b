"""The crop pass: the reference against the loaders' resize and against Pillow, a GPU against the reference."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastmix.bench import crop as bench
from fastmix.bench import main
from fastmix.kernels.crop import CASES, crop, reference
from fastmix.kernels.crop.cases import LARGE, MANY, Case
from fastmix.kernels.crop.table import SUPPORTS, WORDS, offsets, rows
from fastmix.pipelines.resize import INTERPOLATIONS, place
from fastmix.pipelines.view import View
from helpers.waiting import no_waits


def table_of(image: np.ndarray, window, flip: bool, size: int, **options) -> torch.Tensor:
    sides = ([side] for side in image.shape[:2])
    return torch.from_numpy(rows(*sides, np.array([window], np.float64), np.array([flip]), size, [0], **options))


def test_the_filters_are_those_of_the_loaders():
    assert SUPPORTS == INTERPOLATIONS


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_is_within_a_level_of_the_loaders_resize(case, seed):
    got = reference(**case.arguments(seed=seed)).numpy()
    wanted = np.empty_like(got)
    for image, window, flip, out in zip(case.images(seed), *case.wanted(seed), wanted, strict=True):
        mirrored = image.shape[:2] if case.windows == "reflect" else (0, 0)
        place(image, window, flip, out, case.interpolation, case.whole, mirrored=mirrored)
    off = np.abs(got.astype(int) - wanted)
    assert off.max() <= (0 if case.windows in ("pad", "reflect") else 1) and (off > 0).mean() < 0.01


@pytest.mark.parametrize("size", [(400, 500), (90, 61)])
def test_bilinear_is_pillows_within_a_level(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for y, x, h, w, flip in ((0, 0, *size, False), (20, 7, 51, 48, True), (3, 30, 17, 31, False)):
        table = table_of(image, (y, x, h, w), flip, 56)
        got = crop(torch.from_numpy(image).reshape(-1), table, 56)[0].numpy().astype(int)
        wanted = Image.fromarray(image[y : y + h, x : x + w]).resize((56, 56), Image.Resampling.BILINEAR)
        wanted = np.asarray(wanted)[:, ::-1] if flip else np.asarray(wanted)
        assert np.abs(got - wanted).max() <= 1


def test_what_is_resized_is_never_mirrored():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    plain, asked = (table_of(image, (3, 2, 30, 20), False, 8, reflect=reflect) for reflect in (False, True))
    assert torch.equal(plain, asked)


def test_a_long_side_has_no_drift():
    """4,000 pixels to 100: every result is the mean of its own forty and their neighbours, to a level."""
    ramp = (np.arange(4000) % 251).astype(np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (2, 4000, 3)))
    got = crop(torch.from_numpy(image).reshape(-1), table_of(image, (0, 0, 2, 4000), False, 100), 100)[0, 50, :, 1]
    taps = np.arange(4000) + 0.5
    weights = np.maximum(1 - np.abs(taps - (np.arange(100)[:, None] + 0.5) * 40) / 40, 0)
    wanted = (weights * ramp).sum(1) / weights.sum(1)
    assert np.abs(got.numpy() - wanted).max() <= 0.51


@pytest.mark.parametrize("reflect", [False, True])
def test_copies_are_exact_and_black_or_mirrored_outside(reflect):
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)), "reflect" if reflect else "constant")
    for y, x in ((-8, 11), (0, 0), (-3, 5), (4, -7), (9, 11)):
        for flip in (False, True):
            table = table_of(image, (y, x, 8, 8), flip, 8, interpolation="bicubic", reflect=reflect)
            got = crop(torch.from_numpy(image).reshape(-1), table, 8, "bicubic")[0].numpy()
            wanted = padded[y + 8 : y + 16, x + 8 : x + 16]
            assert (got == (wanted[:, ::-1] if flip else wanted)).all()


def test_a_row_of_zeros_is_black_and_no_rows_are_no_images():
    pixels = torch.full((300,), 200, dtype=torch.uint8)
    assert not crop(pixels, torch.zeros(2, WORDS, dtype=torch.int32), 5).any()
    assert crop(pixels, torch.zeros(0, WORDS, dtype=torch.int32), 5).shape == (0, 5, 5, 3)


def test_out_is_written_and_returned():
    arguments = CASES[0].arguments()
    out = torch.empty(len(MANY), 7, 7, 3, dtype=torch.uint8)
    assert crop(**arguments, out=out) is out and torch.equal(out, reference(**arguments))


@pytest.mark.parametrize(
    "match, change",
    [
        ("pixels must be", lambda a: {"pixels": a["pixels"].float()}),
        ("pixels must be", lambda a: {"pixels": a["pixels"][::2]}),
        ("one for each row", lambda a: {"pixels": [a["pixels"]]}),
        (r"table must be int32 \[B,16\]", lambda a: {"table": a["table"].long()}),
        (r"table must be int32 \[B,16\]", lambda a: {"table": a["table"][:, :9]}),
        ("on cpu, not", lambda a: {"table": a["table"].to("meta")}),
        ("interpolation is 'nearest'", lambda a: {"interpolation": "nearest"}),
        (r"out must be uint8 \[8,7,7,3\]", lambda a: {"out": torch.empty(8, 7, 7, 3)}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(match, change):
    arguments = CASES[0].arguments()
    with pytest.raises(ValueError, match=match) as error:
        crop(**arguments | change(arguments))
    assert "\n" not in str(error.value)


def test_an_image_too_large_for_the_table_is_refused():
    with pytest.raises(ValueError, match="image 1 has 40000 x 20000 pixels"):
        rows(np.array([5, 20000]), np.array([5, 40000]), np.zeros((2, 4)), np.zeros(2, bool), 5, np.zeros(2))


@pytest.mark.parametrize("view", [View(16, flip=0.5), View(16, crop="pad", pad=4, flip=0.5)])
def test_what_the_benchmark_compares_is_the_same(view, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), dtype=np.uint8)
    sides = [np.full(6, side) for side in (20, 30)]
    windows, flips = view.windows(*sides, 0, 0, np.arange(6))
    work = bench._on_gpu(images, sides, windows, flips, view)
    ours, theirs = work["fastmix"](), work["torchvision v2"]().permute(0, 2, 3, 1)
    assert (ours.int() - theirs.int()).abs().max() <= (1 if view.crop == "rrc" else 0)


def test_the_benchmark_has_a_row_for_each(tmp_path):
    words = ["crop", "--batch", "2", "--size", "16", "--repeats", "1", "--json", str(tmp_path / "rows.json")]
    main(words)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["name"].split(",")[0] for row in rows[::3]] == list(bench.NAMES)
    assert {row["provider"] for row in rows} == {"fastmix", "Pillow", "torchvision v2"}


@pytest.mark.cuda
@pytest.mark.parametrize(
    "case", [*CASES, Case(((340, 290), (500, 375), (64, 64)), 224, "all", layout="mixed"), Case(LARGE, 225)], ids=str
)
def test_the_gpu_equals_the_reference_without_a_sync(case):
    arguments = case.arguments()
    wanted = reference(**arguments)
    if case.separate:
        images = [image.cuda() for image in arguments["pixels"]]
        moved = torch.from_numpy(offsets(images) - offsets(arguments["pixels"]))
        arguments["table"].view(torch.int64)[:, 0] += moved
        arguments["pixels"] = images
    else:
        arguments["pixels"] = arguments["pixels"].cuda()
    arguments["table"] = arguments["table"].cuda()
    crop(**arguments)  # compiles
    with no_waits():
        got = crop(**arguments)
    assert torch.equal(got.cpu(), wanted)
