"""The resident loader: the pixels of every other loader, from memory; the crop pass in its place; what does not fit."""

import threading

import numpy as np
import pytest
from PIL import Image

from fastmix.pipelines import resident
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.resident import Resident
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, equal, image_folder, joined
from helpers.waiting import no_waits

N, SIZE = 103, 32
TRAIN = View(SIZE, flip=0.5)
VAL = View(SIZE, crop="centre", resize=40, interpolation="bicubic")
PAD = View(SIZE, crop="pad", pad=4, flip=0.5)
REFLECT = View(SIZE, crop="pad", pad=24, pad_mode="reflect", flip=0.5)
USES = [
    (TRAIN, True),
    (PAD, True),
    (REFLECT, True),
    (VAL, False),
    (View(SIZE, crop="none", interpolation="bicubic"), False),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("resident")
    folder = image_folder(root / "images", N)
    pack(scan(folder), root / "data.beton", workers=1)
    return {Folder: str(folder), Beton: str(root / "data.beton")}


@pytest.fixture
def damaged(tmp_path):
    """40 rows, of which row 23 is a JPEG cut short, and 30 and 31 are raw."""
    rng = np.random.default_rng(0)
    images = [encoded(rng.integers(0, 256, (48, 50, 3), dtype=np.uint8)) for _ in range(40)]
    images[23] = images[23][: len(images[23]) * 2 // 3]
    images[30:32] = [rng.integers(0, 256, (40 + k, 64, 3), dtype=np.uint8) for k in range(2)]
    return beton_of(tmp_path / "damaged.beton", images)


def near(ours: list[tuple], theirs: list[tuple], levels: int) -> bool:
    """Whether labels and valid are equal, and images so many levels apart at most."""
    same = equal([rest for _, *rest in ours], [rest for _, *rest in theirs])
    pairs = zip(ours, theirs, strict=True)
    return same and all((a.int() - b.int()).abs().max() <= levels for (a, *_), (b, *_) in pairs)


@pytest.mark.parametrize("kind", [Beton, Folder])
@pytest.mark.parametrize("view, train", USES)
def test_the_pixels_of_the_other_loaders_bit_for_bit(sources, kind, view, train):
    options = dict(view=view, train=train, seed=3, rank=1, world=2, repeats=2 if train else 1)
    ours, theirs = Resident(sources[kind], 20, **options), kind(sources[kind], 20, **options)
    assert (ours.n, ours.class_names) == (theirs.n, theirs.class_names) and (ours.labels == theirs.labels).all()
    assert equal(copies(ours.epoch(2)), copies(theirs.epoch(2)))


@pytest.mark.parametrize("view, train", USES)
def test_the_crop_pass_shows_the_same_within_a_level(sources, view, train):
    for world in (1, 2):
        options = dict(view=view, train=train, seed=3, rank=world - 1, world=world, repeats=2 if train else 1)
        theirs = copies(Beton(sources[Beton], 20, **options).epoch(2))
        ours = Resident(sources[Beton], 20, **options)
        assert near(copies(ours.on_device(view, 2)), theirs, 0 if view.crop == "pad" else 1)
        assert near(copies(ours.on_device(view, 2, 2)), theirs[2:], 1)
    if view is TRAIN:
        small = copies(Beton(sources[Beton], 20, **options).epoch(2, res=24))
        assert near(copies(ours.on_device(view.at(24), 2)), small, 1)


def test_a_table_made_in_parts_is_the_same(sources, monkeypatch):
    ours = Resident(sources[Beton], 20, view=TRAIN, train=True)
    whole = copies(ours.on_device(TRAIN, 0))
    monkeypatch.setattr(resident, "TABLE", 7)
    assert equal(copies(ours.on_device(TRAIN, 0)), whole)


def test_pixels_are_pillows(sources):
    """Decoded exactly whatever `decode` says, in order, whatever the number of threads and of groups."""
    ours = Resident(sources[Folder], 20, view=View(SIZE, decode="fast"), train=True, workers=3)
    for row, file in enumerate(scan(sources[Folder]).files):
        height, width, data, raw = ours.record(row)
        wanted = np.asarray(Image.open(file).convert("RGB"))
        assert raw and (data.reshape(height, width, 3) == wanted).all()


def test_a_damaged_image_is_an_error_when_opened_and_leaves_no_thread(damaged):
    with pytest.raises(ValueError, match=r"damaged\.beton: row 23: .*Premature end") as error:
        Resident(damaged, 8, view=TRAIN, train=True, workers=2)
    assert "\n" not in str(error.value)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastmix-loader")]


@pytest.mark.parametrize("view, train", [(TRAIN, True), (VAL, False)])
def test_damaged_images_are_skipped_as_everywhere(damaged, view, train):
    options = dict(view=view, train=train, bad="skip")
    theirs, ours = Beton(damaged, 8, **options), Resident(damaged, 8, **options)
    expected = copies(theirs.epoch(1))
    assert equal(copies(ours.epoch(1)), expected)
    assert near(copies(ours.on_device(view, 1)), expected, 1)
    assert ours.skipped == theirs.skipped * 2 and len(theirs.skipped) == 1
    assert {*joined(expected)[1].tolist()} == {*range(40)} - {23}


@pytest.mark.parametrize("kind", [Beton, Folder])
def test_what_does_not_fit_is_refused_with_both_sizes(sources, kind, monkeypatch):
    monkeypatch.setattr(resident, "_free", lambda device: {"cuda:7": 1_000_000})
    message = r"its pixels take 0\.\d GB or more, and cuda:7 has 0\.0 GB of free memory: take the loader"
    with pytest.raises(ValueError, match=message):
        Resident(sources[kind], 20, view=TRAIN, train=True)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastmix-loader")]


def test_images_too_small_are_an_error_with_their_row(tmp_path):
    small = beton_of(tmp_path / "s.beton", [np.zeros((n, 120, 3), np.uint8) for n in (90, 30)])
    ours = Resident(small, 1, view=View(64, crop="pad"), train=True)
    for batches in (ours.epoch(0), ours.on_device(ours.view, 0)):
        with pytest.raises(ValueError, match="row 1: 120 x 30 pixels, too small for crop 'pad' of 64"):
            list(batches)


@pytest.mark.cuda
@pytest.mark.parametrize("view, train", USES)
def test_on_a_gpu(sources, view, train):
    options = dict(view=view, train=train, seed=3)
    theirs = copies(Beton(sources[Beton], 20, **options).epoch(2))
    ours = Resident(sources[Beton], 20, **options, device="cuda")
    list(ours.epoch(0))  # compiles
    batches = ours.epoch(2)
    taken = [next(batches)]
    with no_waits():
        taken += batches
    assert all(tensor.is_cuda for batch in taken for tensor in batch)
    assert near([tuple(t.cpu() for t in batch) for batch in taken], theirs, 0 if view.crop == "pad" else 1)
