"""Held-out parts and balanced epochs against their definitions; a split's two halves are one data set."""

import numpy as np
import pytest

from fastmix.pipelines import selection
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.view import View
from helpers.loading import image_folder

SIZES = [40, 9, 2, 300, 0]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), SIZES))
NAMES = list("abcde")


def counts(labels):
    return np.bincount(labels, minlength=5).tolist()


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9])
def test_each_class_gives_its_share_and_keeps_an_image(share):
    held = selection.held_out(LABELS, NAMES, share, 3)
    wanted = [min(max(1, round(share * n)), n - 1) if n else 0 for n in SIZES]
    assert counts(LABELS[held]) == wanted
    assert np.array_equal(held, selection.held_out(LABELS, NAMES, share, 3))
    assert share > 0.8 or not np.array_equal(held, selection.held_out(LABELS, NAMES, share, 4))


def test_every_image_is_held_out_as_often_as_the_others_of_its_class():
    held = sum(selection.held_out(LABELS, NAMES, 0.2, seed).astype(int) for seed in range(400))
    for label in (0, 1, 3):
        own = held[LABELS == label]
        p = own.mean() / 400
        assert np.abs(own / 400 - p).max() < 5 * np.sqrt(p * (1 - p) / 400)


def test_a_class_of_one_image_is_an_error():
    with pytest.raises(ValueError, match="class 'b' has one image"):
        selection.held_out(np.array([0, 0, 1]), NAMES, 0.2, 0)


@pytest.mark.parametrize("how", ["sqrt", "equal"])
def test_classes_have_their_shares(how):
    rows = np.flatnonzero(LABELS != 3)[5:]  # some are left out
    n, m = len(LABELS), len(rows)
    sizes = np.array(counts(LABELS[rows]))
    shares = np.where(sizes > 0, np.sqrt(sizes) if how == "sqrt" else 1.0, 0)
    shares /= shares.sum()
    totals = np.zeros(5)
    for epoch in range(300):
        entries = selection.balanced(rows, LABELS, how, 1, epoch)
        assert len(np.unique(entries)) == m and set(entries % n) <= set(rows)
        shown = np.bincount(entries % n, minlength=n)
        for label in range(5):
            own = shown[rows[LABELS[rows] == label]]
            assert own.size == 0 or own.max() - own.min() <= 1
        found = np.array(counts(LABELS[entries % n]))
        assert np.abs(found - shares * m).max() < 1
        totals += found
    assert np.abs(totals / 300 - shares * m).max() < 0.15  # 5 deviations of a rounding's mean
    assert np.array_equal(selection.balanced(rows, LABELS, how, 1, 7), selection.balanced(rows, LABELS, how, 1, 7))
    assert not np.array_equal(selection.balanced(rows, LABELS, how, 1, 7), selection.balanced(rows, LABELS, how, 1, 8))


def test_the_power_of_none_leaves_an_epoch_as_it_is():
    entries = selection.balanced(np.arange(len(LABELS)), LABELS, "none", 0, 0)
    assert sorted(entries) == list(range(len(LABELS)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split") / "pictures"
    image_folder(folder, 30)
    return folder


def loader(folder, train, **options):
    view = View(size=32, crop="none", flip=0.0)
    return Folder(folder, 4, view=view, train=train, workers=2, **options)


def test_the_parts_of_a_split_are_the_data_set(pictures):
    def kept(labels, names):
        return ~selection.held_out(labels, names, 0.3, 5)

    def held(labels, names):
        return selection.held_out(labels, names, 0.3, 5)

    whole, train, val = (
        loader(pictures, False),
        loader(pictures, True, choose=kept),
        loader(pictures, False, choose=held),
    )
    images = {row: x.numpy().tobytes() for xs, row0 in zip(whole.epoch(0), range(0, 30, 4), strict=True)
              for row, x in enumerate(xs[0][xs[2]], row0)}  # fmt: skip
    rows = [row for step in val.entries(0)[0] for row in step][: len(val.rows)]
    shown = [x.numpy().tobytes() for xs, _, valid in val.epoch(0) for x in xs[valid]]
    assert shown == [images[row] for row in rows] and rows == sorted(set(range(30)) - set(train.rows.tolist()))
    for epoch in range(3):
        entries = train.entries(epoch)[0].reshape(-1)
        assert len(set(entries)) == len(train) * 4 == len(train.rows) // 4 * 4 and set(entries) <= set(train.rows)
        pixels = [x.numpy().tobytes() for xs, _, _ in train.epoch(epoch) for x in xs]
        assert pixels == [images[row] for row in entries]


def test_a_balanced_loader_shows_copies_with_crops_of_their_own(pictures):
    data = loader(pictures, True, balance="equal")
    labels = [int(y) for _, ys, _ in data.epoch(0) for y in ys]
    assert labels == data.labels[data.entries(0)[0].reshape(-1) % data.n].tolist()
