"""Images named by a user, and read without labels: the same pixels as in validation, and reasons for what is not."""

import os

import numpy as np
import pytest

from fastmix.pipelines.beton import Beton
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.sources.named import named
from fastmix.pipelines.unlabelled import unlabelled
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, equal, every_kind, image_folder

VIEW = View(32, "centre", resize=36)


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/y.jpg", "b/c/x.PNG", "b/notes.txt", "b/.hidden.jpg", "a.jpg", "p.beton", "q.beton", "[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "words, found",
    [
        (["a.jpg", "b"], [["a.jpg", "b/y.jpg", "b/c/x.PNG"]]),
        (["b/notes.txt", "p.beton", "a.jpg", "a.jpg"], [["b/notes.txt"], "p.beton", ["a.jpg", "a.jpg"]]),
        (["*.beton"], ["p.beton", "q.beton"]),
        (["b/**/*.[jP]*"], [["b/c/x.PNG", "b/y.jpg"]]),
        (["b/**"], [["b/y.jpg", "b/c/x.PNG", "b/notes.txt"]]),
        (["[1].jpg"], [["[1].jpg"]]),
        (["shapes:val?n=20", "https://a.org/x.beton?y=1"], ["shapes:val?n=20", "https://a.org/x.beton?y=1"]),
        (["a.jpg", "-"], [["a.jpg", "b/c/x.PNG", "gone.jpg", " blank "], "p.beton", ["gone.beton"]]),
    ],
)
def test_what_words_name(work, words, found):
    lines = ["b/c\n", "gone.jpg\r\n", "\n", " blank \n", "p.beton\n", "gone.beton"]
    assert named(words, lines) == found


@pytest.mark.parametrize(
    "word, says",
    [
        ("gone.jpg", "gone.jpg: no such image, folder or .beton file"),
        ("gone.beton", "gone.beton: no such image, folder or .beton file"),
        ("x*.jpg", "x*.jpg: no such image, folder or .beton file"),
        ("empty", "empty: no images in this folder (.jpg "),
        ("-", "no paths on standard input"),
    ],
)
def test_words_that_name_nothing(work, word, says):
    with pytest.raises(ValueError) as error:
        named([word])
    assert says in str(error.value)


def test_pixels_are_those_of_validation(tmp_path):
    folder = image_folder(tmp_path / "pictures", 21)
    every_kind(folder / "class0" / "kinds")
    theirs = Folder(str(folder), 8, view=VIEW, train=False)
    mine = unlabelled(named([str(folder)])[0], 8, view=VIEW, workers=3)
    assert mine.n == theirs.n == 30 and [mine.name(k) for k in range(30)] == [(f, None) for f in theirs.files]
    batches = [[(x, valid) for x, _, valid in copies(loader.epoch(0))] for loader in (mine, theirs)]
    assert equal(*batches) and not mine.reasons
    packed = beton_of(tmp_path / "x.beton", [np.full((50, 40 + k, 3), 9 * k, np.uint8) for k in range(5)])
    mine, theirs = unlabelled(str(packed), 2, view=VIEW), Beton(str(packed), 2, view=VIEW, train=False)
    assert equal(*([(x, valid) for x, _, valid in copies(loader.epoch(0))] for loader in (mine, theirs)))
    assert mine.name(3) == (str(packed), 3)


def test_what_cannot_be_seen_has_a_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    small = good[:, :20].copy()
    data = encoded(good)
    files = {
        "a.jpg": data,
        "b.jpg": data[: len(data) // 2],
        "c.txt": b"text",
        "d.png": encoded(small, "PNG"),
        "f.jpg": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    view = View(32, "centre")  # not resized, so that images may be too small
    loader = unlabelled([*files, "gone.jpg"], 4, view=view)
    seen = np.concatenate([valid.numpy() for _, _, valid in loader.epoch(0)])
    assert seen[:6].tolist() == [True] + 5 * [False] and sorted(loader.reasons) == [1, 2, 3, 4, 5]
    said = ["", "", "not an image file", "20 x 50 pixels, too small for a crop of 32", "empty", os.strerror(2)]
    assert all(text in loader.reasons.get(row, "") for row, text in enumerate(said)) and loader.reasons[1]
    assert loader.reasons[5] == os.strerror(2)
    loader = unlabelled(str(beton_of(tmp_path / "x.beton", [small, data[: len(data) // 2], data, small])), 3, view=view)
    seen = np.concatenate([valid.numpy() for _, _, valid in loader.epoch(0)])
    assert seen[:4].tolist() == [False, False, True, False] and sorted(loader.reasons) == [0, 1, 3]
    assert loader.reasons[3] == "20 x 50 pixels, too small for a crop of 32"
