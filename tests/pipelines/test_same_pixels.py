"""Same seed, same pixels: for any number of threads and ranks, and after a resume; for every loader of images."""

import pytest
import torch

from fastmix.pipelines import loader_class, sampling
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.view import View
from helpers.loading import copies, equal, image_folder, installed, joined

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
