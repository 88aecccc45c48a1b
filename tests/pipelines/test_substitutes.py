"""Damaged images with bad="skip": what a training batch shows in their places, for every loader."""

import numpy as np
import pytest
import torch

from fastmix.pipelines import loader_class, sampling
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, equal, installed

N, BATCH = 44, 4
BAD = [3, 4, 5, 17, 40, 43]
WHOLE = View(24, crop="none")  # the pixels of a row are the same wherever it is shown


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("some damaged")
    rng = np.random.default_rng(0)
    images = [encoded(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(N)]
    whole = beton_of(root / "whole.beton", images)
    bad = [image[: len(image) // 2] if k in BAD else image for k, image in enumerate(images)]
    (root / "folder" / "a").mkdir(parents=True)
    for k, image in enumerate(bad):
        (root / "folder" / "a" / f"{k:02}.jpg").write_bytes(image)
    return {"whole": whole, "packed": beton_of(root / "bad.beton", bad), "folder": root / "folder"}


def order_of(epoch: int, repeats: int = 1) -> list[int]:
    """The rows of an epoch, written down anew: in the place of a bad one stands the next good one, in a circle."""
    rows = (sampling.order(N, 7, epoch, repeats) % N).tolist()
    shown = []
    for at in range(N):
        while rows[at % N] in BAD:
            at += 1
        shown.append(rows[at % N])
    return shown


def make(name: str, source, batch: int = BATCH, **options):
    if not installed(name):
        pytest.skip(f"needs {name}")
    options = {"view": WHOLE, "train": True, "seed": 7, "bad": "skip", "workers": 2} | options
    return loader_class(name)(source, batch, **options)


KINDS = ("beton", "ffcv", "resident", "dali")


@pytest.mark.parametrize("name", KINDS)
def test_the_next_good_image_of_the_order_takes_the_place(stored, name):
    loader = make(name, stored["packed"])
    batches, whole = copies(loader.epoch(1)), copies(make(name, stored["whole"], N, train=False).epoch(0))
    rows = order_of(1)
    assert [len(labels) for _, labels, _ in batches] == [BATCH] * (N // BATCH)
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == rows
    shown = torch.cat([images for images, _, _ in batches])
    edges = name == "dali"  # its own decoder's; substitutes are decoded as everywhere
    assert (shown.int() - whole[0][0][rows].int())[:, edges : 24 - edges, edges : 24 - edges].abs().max() <= edges
    assert all(valid.all() for _, _, valid in batches)
    assert sorted(int(line.split("row ")[1].split(":")[0]) for line in loader.skipped) == BAD


@pytest.mark.parametrize("name", ("beton", "resident"))
def test_the_same_on_any_number_of_threads_and_processes_and_after_a_resume(stored, name):
    view = View(24, flip=0.5)
    batches = copies(make(name, stored["packed"], view=view, workers=1).epoch(2))
    for workers in (2, 5):
        loader = make(name, stored["packed"], view=view, workers=workers)
        assert equal(copies(loader.epoch(2)), batches) and equal(copies(loader.epoch(2, first=7)), batches[7:])
    ranks = [copies(make(name, stored["packed"], 2, view=view, rank=k, world=2).epoch(2)) for k in (0, 1)]
    together = [tuple(torch.cat(parts) for parts in zip(*pair, strict=True)) for pair in zip(*ranks, strict=True)]
    assert equal(together, batches)


def test_with_repeats(stored):
    loader = make("beton", stored["packed"], view=View(24), repeats=2)
    labels = torch.cat([labels for _, labels, _ in copies(loader.epoch(3))])
    assert labels.tolist() == order_of(3, 2)


def test_a_substitute_has_a_crop_of_its_own(stored):
    ((images, _, _),) = copies(make("beton", stored["packed"], N, view=View(24)).epoch(1))
    order, rows = sampling.order(N, 7, 1), np.array(order_of(1))
    replaced = np.flatnonzero(order != rows)
    assert len(replaced) == len(BAD)
    for k in replaced:
        (own,) = np.flatnonzero(order == rows[k])
        assert not torch.equal(images[k], images[own])


def test_files_that_vanish_are_replaced_too(stored):
    loader = make("folder", stored["folder"])
    assert torch.cat([labels for _, labels, _ in loader.epoch(0)]).tolist() == [0] * N
    assert len(loader.skipped) == len(BAD) and all("Premature end" in line for line in loader.skipped)


@pytest.mark.parametrize("name", KINDS)
def test_an_epoch_without_a_good_image_is_an_error(tmp_path, name):
    path = beton_of(tmp_path / "bad.beton", [encoded(np.zeros((30, 30, 3), np.uint8))[:-2]] * 9)
    with pytest.raises(
        ValueError, match=r"bad\.beton: (none of its images can be read in epoch 4, such as|row 0: Prem)"
    ):
        copies(make(name, path).epoch(4))


@pytest.mark.parametrize("view", [WHOLE, View(24)])
def test_on_a_device_the_table_has_them(stored, view):
    """The resident loader's way on a GPU, here on the CPU."""
    loader = make("resident", stored["packed"], view=view)
    expected, batches = copies(loader.epoch(1)), copies(loader.on_device(view, 1))
    assert [labels.tolist() for _, labels, _ in batches] == [labels.tolist() for _, labels, _ in expected]
    assert all((a.int() - b.int()).abs().max() <= 1 for (a, _, _), (b, _, _) in zip(batches, expected, strict=True))
