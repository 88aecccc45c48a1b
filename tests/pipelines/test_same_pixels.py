"""Same seed, same pixels: for any number of threads and ranks, and after a resume; for every loader of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastmix.pipelines import loader_class, sampling
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, equal, image_folder, installed, joined

N, SIZE = 103, 32
TRAIN = View(SIZE, flip=0.5)
VAL = View(SIZE, crop="centre", resize=40)
KINDS = ["beton", "folder", "dali", "dali folder", "ffcv", "resident"]  # loader, and source where there is a choice


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("same")
    folder = image_folder(root / "images", N)
    pack(scan(folder), root / "data.beton", workers=1)
    return {"folder": folder, "beton": root / "data.beton"}


@pytest.fixture(params=KINDS)
def make(request, sources):
    """A function from options to a loader on 103 images."""
    name = request.param.split()[0]
    if not installed(name):
        pytest.skip(f"needs {name}")
    source = sources["folder" if "folder" in request.param else "beton"]
    return lambda batch, **options: loader_class(name)(source, batch, **{"view": TRAIN, "train": True} | options)


@pytest.mark.parametrize("mode, numpys", [("zeros", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_border_is_numpys_in_every_loader(tmp_path, kind, mode, numpys):
    """As wide as reflection allows: one pixel less than the image."""
    name = kind.split()[0]
    if not installed(name):
        pytest.skip(f"needs {name}")
    images = list(np.random.default_rng(0).integers(0, 256, (40, 12, 17, 3), dtype=np.uint8))
    source = tmp_path / "images" if "folder" in kind else beton_of(tmp_path / "raw.beton", images)
    for k, image in enumerate(images if "folder" in kind else ()):
        (source / f"{k:02}").mkdir(parents=True)
        Image.fromarray(image).save(source / f"{k:02}" / "x.png")
    view = View(20, crop="pad", pad=11, pad_mode=mode, flip=0.5)
    loader = loader_class(name)(source, 10, view=view, train=True, seed=3)
    padded = np.pad(images, ((0, 0), (11, 11), (11, 11), (0, 0)), numpys)
    # On the CPU a resident loader's pixels do not go through the crop pass, which is its way on a GPU.
    for epoch in (loader.epoch(2), *([loader.on_device(view, 2)] if name == "resident" else [])):
        shown, rows = joined(epoch)
        windows, flips = view.windows(np.full(40, 12), np.full(40, 17), 3, 2, rows)
        for image, row, (y, x, _, _), flip in zip(shown, rows, windows.astype(int), flips, strict=True):
            expected = padded[row, y + 11 : y + 31, x + 11 : x + 31]
            assert (image == (expected[:, ::-1] if flip else expected)).all()
        assert len(shown) == 40 and flips.any() and len(np.unique(windows[:, 0])) > 5


def test_any_number_of_threads(make):
    one, *others = (copies(make(17, workers=workers, seed=1).epoch(4)) for workers in (1, 2, 3))
    assert len(one) == 6 and all(equal(one, other) for other in others)


@pytest.mark.parametrize("train, view", [(True, TRAIN), (False, VAL)])
def test_any_number_of_ranks(make, train, view):
    whole = copies(make(12, view=view, train=train).epoch(1))
    for world in (2, 3):
        loaders = [make(12 // world, view=view, train=train, rank=rank, world=world) for rank in range(world)]
        steps = zip(*(copies(loader.epoch(1)) for loader in loaders), strict=True)
        assert equal(whole, [tuple(torch.cat(column) for column in zip(*parts, strict=True)) for parts in steps])


def test_resume_at_any_step(make):
    loader = make(10, workers=2)
    whole = copies(loader.epoch(3))
    for first in (1, 5, 9, 10):
        assert equal(whole[first:], copies(loader.epoch(3, first)))


def test_seeds_and_epochs_differ_and_labels_are_of_the_order(make):
    seen = {}
    for seed in (0, 1):
        loader = make(50, seed=seed)
        for epoch in (0, 1):
            batches = copies(loader.epoch(epoch))
            seen[seed, epoch] = batches[0][0].numpy().tobytes()
            assert (joined(batches)[1] == loader.labels[sampling.order(N, seed, epoch)[:100]]).all()
    assert len(set(seen.values())) == 4


def test_validation_has_every_image_once(make):
    one, _ = joined(make(N, view=VAL, train=False).epoch(0))
    loaders = [make(40, view=VAL, train=False, rank=rank, world=3) for rank in range(3)]  # the last rank has 23 images
    parts = [batch for loader in loaders for batch in copies(loader.epoch(0))]
    assert (joined(parts)[0] == one).all() and len({image.tobytes() for image in one}) == N
    assert [int(valid.sum()) for _, _, valid in parts] == [40, 40, 23]
    images, labels, valid = parts[-1]
    assert images.shape == (40, SIZE, SIZE, 3) and not images[~valid].any() and not labels[~valid].any()


def test_other_resolution(make):
    small = copies(make(20, view=View(24, flip=0.5)).epoch(0))
    assert equal(small, copies(make(20).epoch(0, res=24)))


def test_a_batch_stays_as_it_is_until_the_second_one_after_it(make):
    expected = copies(make(10).epoch(0))
    batches = make(10).epoch(0)
    before = next(batches)
    for k, batch in enumerate(batches):
        assert equal([before], [expected[k]])
        before = batch


def test_two_epochs_at_once_do_not_disturb_each_other(make):
    loader = make(20, repeats=2)
    expected = [copies(loader.epoch(epoch)) for epoch in (0, 1)]
    pairs = [copies(pair) for pair in zip(loader.epoch(0), loader.epoch(1), strict=True)]
    assert equal([a for a, _ in pairs], expected[0]) and equal([b for _, b in pairs], expected[1])
