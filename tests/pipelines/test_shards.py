"""Several packed files as one data set: the same batches as of one file, and what is no such set is refused."""

import os
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fastmix import config
from fastmix.engine import loaders
from fastmix.pipelines import loader_class
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.packing import series
from fastmix.pipelines.packing.checksums import sums_path
from fastmix.pipelines.packing.format import FIELD, HEADER, INT, JPEG, RAW, RGB, classes_path, record
from fastmix.pipelines.packing.format import Beton as File
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.packing.sharding import pack_shards
from fastmix.pipelines.packing.shards import Shards
from fastmix.pipelines.packing.writer import BetonWriter
from fastmix.pipelines.selection import held_out
from fastmix.pipelines.sources.named import named
from fastmix.pipelines.sources.resolve import exists, is_packed, packed
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, equal, image_folder, installed
from helpers.sources import META, RECORD, put

N = 47
TRAIN, VAL = View(32, flip=0.5), View(32, crop="centre", resize=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """one.beton, and the same rows in five shards, JPEGs and pixels."""
    folder = tmp_path_factory.mktemp("shards")
    listing = scan(image_folder(folder / "in", N))
    pack(listing, folder / "one.beton", jpeg_share=0.6, workers=1)
    pack_shards(listing, folder / "x.beton", 5, jpeg_share=0.6, workers=1)
    return folder


def names(folder: Path) -> list[str]:
    return [str(folder / f"x-0000{k}-of-00005.beton") for k in range(5)]


@pytest.fixture
def copied(made, tmp_path):
    """The shards, to be changed."""
    for path in made.glob("x-*"):
        shutil.copy(path, tmp_path)
    return tmp_path


FORMS = {
    "list": lambda folder: names(folder)[::-1],
    "wildcard": lambda folder: str(folder / "x-*.beton"),
    "range": lambda folder: str(folder / "x-{00000..00004}-of-00005.beton"),
}


# ---- one order over all ----


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_those_of_one_file(made, form):
    one, many = (
        Beton(source, 6, view=TRAIN, train=True, seed=5, workers=2)
        for source in (str(made / "one.beton"), FORMS[form](made))
    )
    assert set(one.file.modes) == {JPEG, RAW} and (one.n, one.class_names) == (many.n, many.class_names)
    whole = copies(one.epoch(3))
    assert equal(whole, copies(many.epoch(3))) and equal(whole[4:], copies(many.epoch(3, first=4)))


@pytest.mark.parametrize("options", [{"repeats": 3}, {"balance": "equal"}, {"os_cache": "disk"}], ids=str)
def test_also_over_several_processes_and_however_images_are_chosen(made, options):
    def choose(labels, class_names):
        return ~held_out(labels, class_names, 0.2, 0)

    for rank in range(2):
        how = {"view": TRAIN, "train": True, "rank": rank, "world": 2, "choose": choose, **options}
        one, many = (Beton(s, 3, **how) for s in (str(made / "one.beton"), FORMS["wildcard"](made)))
        assert equal(copies(one.epoch(1)), copies(many.epoch(1)))


@pytest.mark.parametrize("loader", ["resident", "dali"])
def test_loaders_that_read_packed_files_read_shards(made, loader):
    if not installed(loader):
        pytest.skip(f"{loader} is not installed")
    one, many = (
        loader_class(loader)(source, 7, view=VAL, train=False, workers=1)
        for source in (str(made / "one.beton"), FORMS["list"](made))
    )
    assert equal(copies(one.epoch(0)), copies(many.epoch(0)))


def test_other_loaders_refuse_them_by_name(made):
    for loader, words in {
        "ffcv": "the ffcv loader reads one .beton file, not 5",
        "folder": "the loader folder",
    }.items():
        with pytest.raises(ValueError, match=words):
            loader_class(loader)(names(made), 4, view=VAL, train=False)


def test_each_record_is_asked_of_its_own_file(made, monkeypatch):
    asked = []
    advise = os.posix_fadvise
    monkeypatch.setattr(os, "posix_fadvise", lambda *call: (asked.append(call), advise(*call)))
    loader = Beton(FORMS["wildcard"](made), N, view=VAL, train=False, os_cache="disk")
    files = {file.file: np.zeros(file.size, np.int64) for file in loader.file.files}
    assert asked == [(file, 0, 0, os.POSIX_FADV_RANDOM) for file in files]
    list(loader.epoch(0))
    for file, start, length, _ in asked[5:]:
        files[file][start : start + length] += 1
    for shard in loader.file.files:
        wanted = np.zeros(shard.size, np.int64)
        for row in range(len(shard)):
            wanted[shard.offsets[row] : shard.offsets[row] + shard.sizes[row]] += 1
        assert (files[shard.file] == wanted).all()
    assert len(asked) - 5 == 5, "the images of a file, which follow one another, are asked for as one"


def test_the_index_is_in_memory_once(made):
    shards = Shards(names(made))
    for file, rows in zip(shards.files, pairwise([*shards.first, N]), strict=True):
        assert np.shares_memory(file.labels, shards.labels) and (file.sizes == shards.sizes[slice(*rows)]).all()
        assert file.classes is shards.classes


def test_a_damaged_image_is_told_with_its_file_and_the_row_in_it(copied):
    with File(names(copied)[2]) as file:
        row = int(np.flatnonzero(file.modes == JPEG)[1])
        put(file.path, int(file.offsets[row]), b"\0\0")
    with pytest.raises(ValueError, match=re.escape(f"{names(copied)[2]}: row {row}: ")):
        list(Beton(names(copied), 4, view=VAL, train=False).epoch(0))


# ---- names ----


def test_names_are_ordered_by_their_numbers(tmp_path):
    for k in (10, 9, 1, 2):
        (tmp_path / f"a-{k}.beton").touch()
    (tmp_path / "a-1.beton.sums").touch()
    assert [Path(path).name for path in series.paths(str(tmp_path / "a-*.beton"))] == [
        f"a-{k}.beton" for k in (1, 2, 9, 10)
    ]
    assert series.spread("p{08..11}/{0..1}.b") == [f"p{k}/{j}.b" for k in ("08", "09", "10", "11") for j in (0, 1)]
    assert series.shard("d/train.beton", 3, 128).as_posix() == "d/train-00003-of-00128.beton"
    with pytest.raises(ValueError, match=r"\{0..999999999\} names more than 100000 files"):
        series.spread("a{0..999999999}.beton")


def test_a_name_with_brackets_is_itself(made, tmp_path):
    path = tmp_path / "a[1].beton"
    shutil.copy(made / "one.beton", path)
    assert exists(str(path)) and packed(str(path)) == [str(path)]


def test_addresses_may_hold_ranges_and_nothing_else():
    source = ["https://host/a-{1..2}.beton", "s3://b/*.beton"]
    assert packed(source) == ["https://host/a-1.beton", "https://host/a-2.beton", "s3://b/*.beton"]
    assert is_packed(source) and not is_packed(["a.beton", "folder"]) and not is_packed("") and not is_packed([])


def test_predict_names_each_file(copied):
    assert named([FORMS["range"](copied), FORMS["wildcard"](copied)]) == names(copied) * 2
    without_one(copied)  # and a gap does not matter there
    assert named([FORMS["wildcard"](copied)]) == [name for name in names(copied) if "00003-of" not in name]
    assert named(["shapes:val?n=20", "https://host/a.beton?key=1"]) == ["shapes:val?n=20", "https://host/a.beton?key=1"]


WRONG_SERIES = {
    "a gap": (["a-1", "a-2", "a-4"], "a-3.beton is missing"),
    "a gap, padded": (["a-08", "a-10"], "a-09.beton is missing"),
    "the first": (["a-00001-of-00003", "a-00002-of-00003"], "a-00000-of-00003.beton is missing"),
    "the last": (["a-00000-of-00003", "a-00001-of-00003"], "a-00002-of-00003.beton is missing"),
    "one of two kinds": (["a-0", "a-1", "b-0", "b-2"], "b-1.beton is missing"),
    "two series": (["a-0-of-2", "a-1-of-2", "a-0-of-3"], "several series, a-*-of-2.beton and a-*-of-3.beton"),
}
WHOLE_SERIES = {
    "from 0": ["a-0", "a-1", "a-2"],
    "from 7": ["a-7", "a-8"],
    "from 1 of 2": ["a-1-of-2", "a-2-of-2"],
    "two kinds": ["a-0", "a-1", "b-5"],
    "without numbers": ["left", "right"],
}


@pytest.mark.parametrize("case", WRONG_SERIES)
def test_wildcards_that_find_no_whole_series_are_refused(case):
    found, line = WRONG_SERIES[case]
    with pytest.raises(ValueError, match=re.escape(line)):
        series.check("*.beton", [f"{name}.beton" for name in found])


@pytest.mark.parametrize("case", WHOLE_SERIES)
def test_wildcards_that_find_whole_series_are_not(case):
    series.check("*.beton", [f"{name}.beton" for name in WHOLE_SERIES[case]])


# ---- what is no set of shards ----


def without_one(folder):
    os.remove(names(folder)[3])


def renamed_class(folder):
    file = classes_path(names(folder)[1])
    file.write_text(file.read_text().replace("class2", "other"))


def no_classes(folder):
    classes_path(names(folder)[4]).unlink()


def label_outside(folder):
    put(names(folder)[2], META + RECORD.fields["f1"][1], b"\x07")


def fewer_classes(folder):
    classes_path(names(folder)[1]).write_text('["class0", "class1"]')


def linked(folder):
    for path in (names(folder)[0], classes_path(names(folder)[0])):
        os.symlink(path, str(path).replace("x-", "y-"))


def copy_of_one(folder):
    for path in (names(folder)[1], classes_path(names(folder)[1])):
        shutil.copy(path, str(path).replace("x-", "y-"))


REFUSED = {
    "missing, wildcard": (without_one, "x-*.beton", "x-00003-of-00005.beton is missing"),
    "missing, range": (without_one, "x-{00000..00004}-of-00005.beton", "x-00003-of-00005.beton: no such file"),
    "nothing fits": (None, "z-*.beton", "no file fits this pattern"),
    "another class": (renamed_class, "x-*.beton", "x-00001-of-00005.beton: class 2 is 'other', and 'class2' in "),
    "fewer classes": (fewer_classes, "x-0000{0..1}-of-00005.beton", "x-00001-of-00005.beton: 2 classes, and "),
    "no classes": (no_classes, "x-{00000..00004}-of-00005.beton", "x-00004-of-00005.beton: has no class names, and "),
    "a label outside": (label_outside, "x-*.beton", "x-00002-of-00005.beton: row 0: label 7; "),
    "twice, a link": (linked, "{names}", "y-00000-of-00005.beton: the same file as "),
    "twice, a copy": (copy_of_one, "{names}", "y-00001-of-00005.beton: a copy of "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_set_is_one_line(copied, case):
    change, pattern, line = REFUSED[case]
    if change:
        change(copied)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(line)) as error:
        every = [str(path) for path in copied.glob("*.beton")]
        Beton(every if pattern == "{names}" else str(copied / pattern), 4, view=VAL, train=False)
    assert "\n" not in str(error.value)


def test_layouts_may_differ(copied):
    theirs = copies(Beton(names(copied), 6, view=TRAIN, train=True).epoch(0))
    with File(names(copied)[2]) as file:
        n = len(file)
    data = bytearray(Path(names(copied)[2]).read_bytes())
    ours, swapped = (record(kinds) for kinds in ([RGB, INT], [INT, RGB]))
    assert ours.itemsize == swapped.itemsize
    rows = np.frombuffer(bytes(data), ours, n, META)
    moved = np.zeros(n, swapped)
    moved["f0"], moved["f1"] = rows["f1"], rows["f0"]
    fields = np.frombuffer(bytes(data), FIELD, 2, HEADER.itemsize)
    data[HEADER.itemsize : META] = fields[::-1].tobytes()
    data[META : META + moved.nbytes] = moved.tobytes()
    Path(names(copied)[2]).write_bytes(data)
    assert equal(theirs, copies(Beton(names(copied), 6, view=TRAIN, train=True).epoch(0)))


def test_shards_that_differ_in_pixels_alone_are_no_copies(tmp_path):
    first = np.zeros((2, 2, 3), np.uint8)
    paths = [str(beton_of(tmp_path / f"{k}.beton", [first, first + k])) for k in range(3)]
    assert Shards(paths).labels.tolist() == [0, 1] * 3


def test_gaps_of_classes_are_those_of_all_shards(tmp_path):
    for k, labels in enumerate([(0, 1), (4, 5)]):
        with BetonWriter(tmp_path / f"{k}.beton", 2) as writer:
            for label in labels:
                writer.add(RAW, 1, 1, bytes([k, label, 0]), label)
            writer.finish()
            writer.publish(None)
    (warning,) = Beton(str(tmp_path / "*.beton"), 4, view=View(8), train=False).warnings
    assert warning.endswith("no image of 2 of 6 classes: 2, 3")


def test_too_many_files_are_told_with_the_way_out(made, monkeypatch):
    def full(*_):
        raise OSError(24, "Too many open files", "x")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(ValueError, match=r"one of 5 shards, which are more files than .* \(ulimit -n 1010\)"):
        Shards(names(made))


# ---- from the config ----


def test_the_config_takes_lists_and_patterns(made, tmp_path):
    (tmp_path / "c.yaml").write_text("data:\n  train: [a.beton, b.beton]\n")
    cfg = config.load(tmp_path / "c.yaml")
    assert cfg.data.train == ["a.beton", "b.beton"] and config.from_tree(config.to_tree(cfg), "x") == cfg
    with pytest.raises(ValueError, match="data.train names 'a.beton', which does not exist"):
        loaders.require(cfg, "train")
    with pytest.raises(ValueError, match=r"data.val is 'z-\*.beton', which does not exist"):
        loaders.require(config.load(tmp_path / "c.yaml", ["data.val=z-*.beton"]), "val")
    words = [f"data.val={FORMS['range'](made)}", f"data.train=[{', '.join(names(made))}]", "batch_total=8"]
    cfg = config.load(tmp_path / "c.yaml", [*words, "data.size=32", "data.val_resize=40"])
    train, val = (make(cfg, torch.device("cpu")) for make in (loaders.training, loaders.validation))
    assert (train.n, val.n, loaders.classes(cfg, train, val)) == (N, N, 3)
    assert Counter(train.labels.tolist()) == Counter(k % 3 for k in range(N))


def test_a_list_of_one_is_that_file(made):
    one, listed = (Beton(s, 5, view=VAL, train=False) for s in (str(made / "one.beton"), [str(made / "one.beton")]))
    assert one.source == listed.source and equal(copies(one.epoch(0)), copies(listed.epoch(0)))
    assert sums_path(one.file.files[0].path).exists()
