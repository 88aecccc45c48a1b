"""Layouts of data sets: class folders, Tiny-ImageNet, lists."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from fastmix import convert
from fastmix.pipelines.packing.format import Beton
from fastmix.pipelines.packing.layouts import Listing, scan
from helpers.conversion import KEPT, tree, two_classes


def test_class_folders(tmp_path):
    x = KEPT["odd size"]
    names = [
        "b/2.JPEG",
        "b/10.jpg",
        "b/images/1.png",
        "a/x/y/z.webp",
        "a/notes.txt",
        "a/.hidden.jpg",
        ".git/1.jpg",
        "c/k.BMP",
    ]
    source = tree(tmp_path / "in", dict.fromkeys(names, x))
    files = [str(source / name) for name in ("a/x/y/z.webp", "b/10.jpg", "b/2.JPEG", "b/images/1.png", "c/k.BMP")]
    found = scan(source)
    assert found[:3] == (files, [0, 1, 1, 1, 2], ["a", "b", "c"])
    left = {".git": "hidden", "a/.hidden.jpg": "hidden", "a/notes.txt": ".txt"}
    assert sorted((file.path, file.kind) for file in found.passed) == [(str(source / k), v) for k, v in left.items()]
    assert scan(source, ["c", "z", "b", "a"])[:3] == (files, [3, 2, 2, 2, 0], ["c", "z", "b", "a"])
    with pytest.raises(ValueError, match="in/c: not one of the 2 given classes"):
        scan(source, ["a", "b"])


def test_class_folders_agree_with_image_folder(tmp_path):
    import_module("fastmix.compat")  # lets torchvision import
    from torchvision.datasets import ImageFolder

    rng = np.random.default_rng(0)
    names = {
        f"{rng.integers(4)}/{rng.integers(3)}/{rng.integers(99)}.{e}" for e in ("jpg", "PNG", "tif") for _ in range(20)
    }
    source = tree(tmp_path / "in", dict.fromkeys([*names, *(f"{k}/1.jpeg" for k in range(12))], b"x"))
    folder, ours = ImageFolder(str(source)), scan(source)
    assert list(zip(ours.files, ours.labels, strict=True)) == folder.samples and ours.classes == folder.classes


ANNOTATIONS = "val_1.JPEG\tn03\t0\t0\t9\t9\nval_0.JPEG\tn01\t1\t2\t3\t4\nval_2.JPEG\tn03\t0\t0\t9\t9\n"


def test_tiny_imagenet_val_takes_the_classes_of_train(tmp_path):
    val = tree(tmp_path / "val", {"val_annotations.txt": ANNOTATIONS, "images/val_0.JPEG": KEPT["colour"]})
    files = [str(val / "images" / f"val_{k}.JPEG") for k in (1, 0, 2)]
    assert scan(val) == Listing(files, [1, 0, 1], ["n01", "n03"])
    tree(tmp_path, {"wnids.txt": "n03\nn02\nn01\n"})
    assert scan(val) == Listing(files, [2, 0, 2], ["n01", "n02", "n03"])
    tree(tmp_path, {f"train/n0{k}/images/1.JPEG": KEPT["colour"] for k in (0, 1, 2, 3)})
    assert (
        scan(val)
        == Listing(files, [3, 1, 3], ["n00", "n01", "n02", "n03"])
        == scan(val, scan(tmp_path / "train").classes)
    )
    assert scan(val, ["n03", "n01"]).labels == [0, 1, 0]
    with pytest.raises(ValueError, match=r"val_annotations.txt: row 1: 'n03' is not one of the 1 classes"):
        scan(val, ["n01"])
    tree(val, {"val_annotations.txt": ANNOTATIONS + "val_7.JPEG\n"})
    with pytest.raises(ValueError, match=r"val_annotations.txt: row 4: needs file, class"):
        scan(val)


@pytest.mark.parametrize("head", ["", "path,label\n", "Image , Label\n"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_lists(tmp_path, head, suffix):
    def listed(text: str, **options) -> Listing:
        text = head + text
        return scan(
            tree(tmp_path, {f"l.{suffix}": text.replace(",", "\t") if suffix == "tsv" else text}) / f"l.{suffix}",
            **options,
        )

    files = [str(tmp_path / "x/1.jpg"), str(tmp_path / "2.jpg"), "/abs/3.jpg"]
    rows = "x/1.jpg,{}\n\n2.jpg , {}\n/abs/3.jpg,{}\n"
    assert listed(rows.format("dog", "cat", "dog")) == Listing(files, [1, 0, 1], ["cat", "dog"])
    found = listed(rows.format("10", "2", "0"))
    gap = "no image of 8 of 11 classes: 1, 3, 4, 5, 6, 7, 8, 9"
    assert found == Listing(files, [10, 2, 0], None, warnings=(f"{tmp_path / f'l.{suffix}'}: {gap}",))
    found = listed(rows.format("1", "2", "b"))
    assert found[:3] == (files, [0, 1, 2], ["1", "2", "b"]) and "'1' in row" in found.warnings[0]
    assert listed(rows.format("dog", "cat", "dog"), classes=["dog", "cow", "cat"]).labels == [0, 2, 0]
    assert listed(rows.format("1", "2", "0"), classes=["x", "y", "z"]) == Listing(files, [1, 2, 0], ["x", "y", "z"])
    assert listed(rows.format("1", "10", "2"), classes=["1", "10", "2"]).labels == [0, 1, 2]
    row = len(head.splitlines())
    with pytest.raises(ValueError, match=f"row {row + 4}: label 3; labels are whole numbers from 0 to 2, as 3"):
        listed(rows.format("1", "2", "3"), classes=["x", "y", "z"])
    with pytest.raises(ValueError, match=f"row {row + 3}: 'cat' is not one of the 1 given classes"):
        listed(rows.format("dog", "cat", "dog"), classes=["dog"])
    for broken in ("1.jpg\n", "1.jpg,\n", ",dog\n", "1.jpg,dog,3\n"):
        with pytest.raises(ValueError, match=f"l.{suffix}: row {row + 2}: needs path and label"):
            listed("0.jpg,cat\n" + broken)
    with pytest.raises(ValueError, match="lists no images"):
        listed("")


def test_a_list_is_packed(tmp_path):
    two_classes(tmp_path, 2)
    (tmp_path / "l.csv").write_text("path,label\nb/1.jpg,7\na/0.jpg,0\n")
    assert convert.main([str(tmp_path / "l.csv"), str(tmp_path / "a.beton")]) == 0
    with Beton(tmp_path / "a.beton") as beton:
        assert beton.labels.tolist() == [7, 0] and beton.classes is None
        assert beton.data(0).tobytes() == (tmp_path / "b/1.jpg").read_bytes()
