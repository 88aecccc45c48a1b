"""Data sets as they are handed out: every form of one gives the same file, and each form's traps."""

from __future__ import annotations

import json
import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmix import convert, train
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.packing.format import Beton, classes_path
from fastmix.pipelines.packing.layouts import exists, scan, wnids
from fastmix.pipelines.packing.layouts.parquet import Cell
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.resident import Resident
from fastmix.pipelines.view import View
from helpers.conversion import KEPT, fails, saved, smooth, tree
from helpers.handed_out import NAMES, VAL, WNIDS, cifar, flat, parquet, shuffled, tar, train_forms, val_forms


def packed(source: Path | str, out: Path, **options) -> tuple[bytes, list[str]]:
    """The file's bytes and its classes."""
    pack(scan(source), out, overwrite=True, **options)
    return out.read_bytes(), json.loads(classes_path(out).read_text())


def test_every_form_of_the_training_images_gives_the_same_file(tmp_path):
    forms = train_forms(tmp_path)
    want = packed(forms.pop("class folders"), tmp_path / "a.beton")
    assert want[1] == WNIDS
    for name, source in forms.items():
        assert exists(source), name
        assert packed(source, tmp_path / "b.beton") == want, name


def test_every_form_of_the_validation_images_gives_the_same_file(tmp_path):
    pytest.importorskip("scipy")
    forms = val_forms(tmp_path)
    want = packed(forms.pop("class folders"), tmp_path / "a.beton")
    assert want[1] == WNIDS
    for name, source in forms.items():
        assert packed(source, tmp_path / "b.beton") == want, name


def test_torchvisions_meta_bin(tmp_path):
    torch = pytest.importorskip("torch")
    folder = tree(tmp_path / "root" / "val", {name: data for name, (_, data) in VAL.items()})
    names = {wnid: ("a name",) for wnid in reversed(WNIDS)}
    torch.save((names, [wnid for wnid, _ in VAL.values()]), tmp_path / "root" / "meta.bin")
    found = scan(folder)
    told = {flat(file): found.classes[label] for file, label in zip(found.files, found.labels, strict=True)}
    assert told == {name: wnid for name, (wnid, _) in VAL.items()} and found.classes == WNIDS
    (tmp_path / "root" / "meta.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="not torchvision's meta.bin"):
        scan(folder)


def test_parquet(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    rows = [(f"{flat(name)[:-5]}_{name[:9]}.JPEG", data, WNIDS.index(name[:9])) for name, data in sorted(NAMES.items())]
    want = packed(tree(tmp_path / "train", NAMES), tmp_path / "a.beton")
    root = tmp_path / "hub"
    parquet(root / "data" / "train-00000-of-00002.parquet", rows[:5], WNIDS)
    parquet(root / "data" / "train-00001-of-00002.parquet", rows[5:], WNIDS)
    parquet(root / "data" / "validation-00000-of-00001.parquet", rows[:4], WNIDS)
    for source in (root / "train", root / "data" / "train", f"{root}/data/train-*.parquet"):
        assert packed(source, tmp_path / "b.beton", workers=4) == want
    assert len(scan(root / "val").files) == 4
    with pytest.raises(ValueError, match=f"hub: a data set in parts; give one of {root}/train, {root}/val$"):
        scan(root)
    monkeypatch.setattr(wnids, "synsets", lambda: WNIDS)  # the hub's names are words, in the order of wnids
    words = ["tench, Tinca tinca", "goldfish, Carassius auratus", "Shetland sheepdog, Shetland sheep dog, Shetland"]
    parquet(tmp_path / "words.parquet", rows, words)
    assert packed(tmp_path / "words.parquet", tmp_path / "b.beton") == want
    parquet(tmp_path / "test.parquet", [(name, data, -1) for name, data, _ in rows], WNIDS)
    with pytest.raises(ValueError, match="label -1, as of images whose classes are kept secret"):
        scan(tmp_path / "test.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "words.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut.parquet: not a whole parquet file"):
        scan(tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match="parquet can be read in order only; convert it"):
        Folder(str(tmp_path / "words.parquet"), 2, view=View(size=16), train=True)
    batches = [
        list(batch) for batch in Resident(str(tmp_path / "words.parquet"), 2, view=View(size=16), train=True).epoch(0)
    ]
    assert len(batches) == len(rows) // 2
    assert isinstance(scan(tmp_path / "words.parquet").files[0], Cell)


def test_loaders_read_forms_as_they_read_folders(tmp_path):
    forms = train_forms(tmp_path)
    view = View(size=16)
    want = [
        batch[0].clone() for batch in Folder(str(forms["class folders"]), 3, view=view, train=True, seed=4).epoch(1)
    ]
    for loader in (Folder, Resident):
        for name in ("imagenet/train", "WebDataset, .cls", "Kaggle"):
            got = loader(str(forms[name]), 3, view=view, train=True, seed=4).epoch(1)
            assert all((a == b[0]).all() for a, b in zip(want, got, strict=True)), name


def test_odd_files_are_counted(tmp_path, capsys):
    assert convert.main([str(tree(tmp_path / "train", NAMES)), str(tmp_path / "a.beton")]) == 0
    assert f"{len(NAMES) - 2} JPEGs kept untouched, 2 encoded anew (1 CMYK JPEG, 1 PNG), " in capsys.readouterr().out


def test_imagenet_in_another_order_is_said(tmp_path):
    known = wnids.synsets()
    assert len(known) == 1000 and known == sorted(known) and set(WNIDS) <= set(known)
    assert wnids.order(known) == [] == wnids.order(known[:999]) == wnids.order([*known[:999], "x"])
    (line,) = wnids.order([known[1], known[0], *known[2:]])
    assert "another order than that of wnids (class 0 is n01443537, not n01440764)" in line
    assert wnids.wnids_of(["tench"] * 1000) is None


def test_damaged_tars(tmp_path, capsys):
    whole = tar(NAMES)
    tree(
        tmp_path,
        {"a.tar": whole[:900], "b.tar": b"x" * 2000, "c.tar": tar(NAMES, "w:gz"), "d.tar": tar({"a.txt": b"x"})},
    )
    tree(tmp_path, {"e.tar": tar({f"{w}.tar": tar({f"{w}.jpg": KEPT["colour"]})[:700] for w in WNIDS})})
    for name, words in {
        "a.tar": "a.tar: cut short, in n01440764/n01440764_",
        "b.tar": "b.tar: not a whole tar file (",
        "c.tar": "c.tar: compressed with gzip; uncompress it to a .tar first",
        "d.tar": "d.tar: no images in it",
        "e.tar": "e.tar:n01440764/: cut short, in n01440764.jpg",
    }.items():
        assert words in fails([tmp_path / name, tmp_path / "x.beton"], capsys)
    repeated = tar({"a/1.jpg": KEPT["grey"], "b/1.jpg": KEPT["grey"], "b/.x.jpg": b"", "b/x.txt": b""})
    tree(tmp_path, {"f.tar": repeated[: -len(repeated) % 512 or None]})
    found = scan(tmp_path / "f.tar")
    assert found.labels == [0, 1] and sorted(file.kind for file in found.passed) == [".txt", "hidden"]


def test_the_last_of_two_members_counts(tmp_path):
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in [("a/1.jpg", KEPT["grey"]), ("b/1.jpg", KEPT["grey"]), ("a/1.jpg", KEPT["colour"])]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    tree(tmp_path, {"a.tar": out.getvalue()})
    found = scan(tmp_path / "a.tar")
    assert [file.load() for file in found.files] == [KEPT["colour"], KEPT["grey"]]
    assert [file.kind for file in found.passed] == ["repeated"]


def test_faulty_webdatasets(tmp_path):
    jpeg = KEPT["grey"]
    for files, words in [
        ({"a.jpg": jpeg, "a.cls": b"0", "b.jpg": jpeg}, "b.jpg: there is no .cls and no .json of its name"),
        ({"a.jpg": jpeg, "a.json": b'{"caption": "x"}'}, "a.json: has no class in label, cls, class"),
        ({"a.jpg": jpeg, "a.json": b"{"}, "a.json: "),
        ({"a.jpg": jpeg, "a.cls": b"-1"}, "a.jpg: label '-1'"),
        ({"a.jpg": jpeg, "a.png": jpeg, "a.cls": b"1"}, "a.png: .*a.jpg is a sample of the same name"),
    ]:
        tree(tmp_path, {"x.tar": tar(files)})
        with pytest.raises(ValueError, match=words):
            scan(tmp_path / "x.tar")
    tree(
        tmp_path, {"x.tar": tar({"1.a.jpg": jpeg, "1.cls": b"dog", "0.jpg": jpeg, "0.cls": b"cat", "0.txt": b"a cat"})}
    )
    found = scan(tmp_path / "x.tar")
    assert (found.labels, found.classes, [file.name for file in found.files]) == (
        [0, 1],
        ["cat", "dog"],
        ["0.jpg", "1.a.jpg"],
    )


def test_truths_that_do_not_fit(tmp_path):
    val = tree(tmp_path / "val", {"a.JPEG": KEPT["grey"]})
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nb,n01440764 1 2 3 4\n")
    with pytest.raises(ValueError, match="LOC_val_solution.csv: has no a$"):
        scan(val)
    with pytest.raises(ValueError, match="b.JPEG: 'n01440764' is not one of the 1 given classes"):
        scan(tree(tmp_path / "other", {"b.JPEG": KEPT["grey"]}), ["x"])


PICTURES = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
FINE = [int(k) for k in np.random.default_rng(1).permutation(np.arange(60) % 12)]


@pytest.mark.parametrize("coarse", [None, [k // 4 for k in FINE]])
def test_cifars_two_versions_are_one_data_set(tmp_path, coarse):
    folders = cifar(tmp_path, PICTURES, FINE, coarse)
    for part, rows in (("train", slice(0, 50)), ("test", slice(50, 60))):
        files = [packed(folder / part, tmp_path / "a.beton") for folder in folders.values()]
        assert files[0] == files[1] and files[0][1] == [f"class {k}" for k in range(12)]
        with Beton(tmp_path / "a.beton") as beton:
            assert beton.labels.tolist() == FINE[rows]
            pixels = np.stack([beton.data(k).reshape(32, 32, 3) for k in range(len(beton))])
        assert np.array_equal(pixels, PICTURES[rows])
        for loader in (Folder, Resident):
            view = View(size=32, crop="centre", flip=0.0)
            (batch,) = loader(str(folders["binary"] / part), 60, view=view, train=False).epoch(0)
            assert np.array_equal(batch[0].numpy()[batch[2].numpy()], PICTURES[rows])
    if coarse:
        assert [scan(folder / "test-coarse").labels for folder in folders.values()] == [coarse[50:]] * 2
        assert scan(folders["python"] / "train-coarse").classes == ["group 0", "group 1", "group 2"]
    with pytest.raises(ValueError, match="a data set in parts; give one of .*/train"):
        scan(folders["python"])


def test_torchvision_reads_the_made_up_cifar_alike(tmp_path):
    """The made-up files are CIFAR's form: torchvision's reader, without its checksums, finds the same in them."""
    import_module("fastmix.compat")  # lets torchvision import
    from torchvision.datasets import CIFAR10, CIFAR100

    for kind, coarse, base in ((CIFAR10, None, "cifar-10-batches-py"), (CIFAR100, [0] * 60, "cifar-100-python")):
        cifar(tmp_path / base, PICTURES, FINE, coarse)["python"].rename(tmp_path / base / base)
        reader = type("Unchecked", (kind,), {"_check_integrity": lambda self: True})
        reader.meta = kind.meta | {"md5": None}
        data = reader(tmp_path / base, train=True)
        assert np.array_equal(data.data, PICTURES[:50]) and data.targets == FINE[:50]
        assert scan(tmp_path / base / base / "train").labels == data.targets


def test_a_pickle_cannot_run_anything(tmp_path):
    folder = cifar(tmp_path, PICTURES, FINE)["python"]

    class Evil:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "ran", "x")

    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(ValueError, match="test_batch: not one of CIFAR's pickles .asks for pathlib"):
        scan(folder / "test")
    assert not (tmp_path / "ran").exists()
    binary = tmp_path / "binary" / "test_batch.bin"
    binary.write_bytes(binary.read_bytes()[:-1])
    with pytest.raises(ValueError, match="are no whole number of records of 3073"):
        scan(tmp_path / "binary" / "test")


def test_cub(tmp_path):
    root = tree(tmp_path / "CUB_200_2011", {
        "images.txt": "1 001.Black/a.jpg\n2 001.Black/b.jpg\n3 002.Laysan/c.jpg\n4 002.Laysan/d e.jpg\n",
        "image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n", "classes.txt": "1 001.Black\n2 002.Laysan\n",
        "train_test_split.txt": "1 0\n2 1\n3 1\n4 0\n"})  # fmt: skip
    assert scan(root / "train")[:3] == ([f"{root}/images/001.Black/b.jpg", f"{root}/images/002.Laysan/c.jpg"], [0, 1],
                                        ["001.Black", "002.Laysan"])  # fmt: skip
    assert [flat(file) for file in scan(tmp_path / "test").files] == ["a.jpg", "d e.jpg"]
    tree(root, {"train_test_split.txt": "1 0\n2 1\n3 1\n"})
    with pytest.raises(ValueError, match="train_test_split.txt: has no image 4, which images.txt has"):
        scan(root / "test")


def test_aircraft(tmp_path):
    root = tree(
        tmp_path / "fgvc-aircraft-2013b" / "data",
        {
            "variants.txt": "707-320\nF/A-18\n",
            "families.txt": "Boeing 707\nF/A-18\n",
            "images/1.jpg": KEPT["grey"],
            "images_variant_test.txt": "0001 707-320\n0002 F/A-18\n",
            "images_family_test.txt": "0001 Boeing 707\n",
        },
    ).parent
    images = root / "data" / "images"
    assert scan(root / "test")[:3] == ([f"{images}/0001.jpg", f"{images}/0002.jpg"], [0, 1], ["707-320", "F/A-18"])
    assert scan(root / "test-family").classes == ["Boeing 707", "F/A-18"]
    with pytest.raises(ValueError, match="/tset: no such folder or list; there are .*/test, .*/test-family"):
        scan(root / "tset")


def test_inaturalist(tmp_path):
    told = {
        "images": [
            {"id": 7, "file_name": "train_val2018/Aves/2/x.jpg"},
            {"id": 5, "file_name": "train_val2018/Aves/0/y.jpg"},
        ],
        "annotations": [{"image_id": 5, "category_id": 0}, {"image_id": 7, "category_id": 2}],
        "categories": [{"id": 2, "name": "c"}, {"id": 0, "name": "a"}, {"id": 1, "name": "a"}],
    }
    (tmp_path / "train2018.json").write_text(json.dumps(told))
    files = [f"{tmp_path}/train_val2018/Aves/2/x.jpg", f"{tmp_path}/train_val2018/Aves/0/y.jpg"]
    for source in (tmp_path / "train2018.json", tmp_path / "train"):
        assert scan(source)[:3] == (files, [2, 0], ["a (0)", "a (1)", "c"])
    told["annotations"].pop()
    for words, content in {"image 7 has no annotation": told, "has no 'images'": {}, "Expecting value": None}.items():
        (tmp_path / "train2018.json").write_text(json.dumps(content) if content is not None else "")
        with pytest.raises(ValueError, match=words):
            scan(tmp_path / "train")


@pytest.mark.parametrize("below", ["data/vision/torralba/deeplearning/images256", "images256"])
def test_places205(tmp_path, below):
    tree(tmp_path / below, {"a/abbey/1.jpg": KEPT["grey"], "b/bar in/2.jpg": KEPT["grey"]})
    tree(tmp_path / "trainvalsplit_places205", {"train_places205.csv": "b/bar in/2.jpg 1\na/abbey/1.jpg 0\n",
                                               "val_places205.csv": "a/abbey/1.jpg 0\n"})  # fmt: skip
    files = [f"{tmp_path / below}/b/bar in/2.jpg", f"{tmp_path / below}/a/abbey/1.jpg"]
    assert scan(tmp_path / "train")[:3] == (files, [1, 0], ["a/abbey", "b/bar in"])
    assert scan(tmp_path / "trainvalsplit_places205" / "val")[:3] == (files[1:], [0], ["a/abbey", "b/bar in"])


def test_places365(tmp_path):
    tree(
        tmp_path,
        {
            "data_256/a/x/1.jpg": KEPT["grey"],
            "val_256/P_1.jpg": KEPT["grey"],
            "categories_places365.txt": "/b/y 1\n/a/x 0\n",
            "places365_train_standard.txt": "/a/x/1.jpg 0\n",
            "places365_val.txt": "P_1.jpg 1\n",
        },
    )
    assert scan(tmp_path / "train")[:3] == ([f"{tmp_path}/data_256/a/x/1.jpg"], [0], ["/a/x", "/b/y"])
    assert scan(tmp_path / "val")[:3] == ([f"{tmp_path}/val_256/P_1.jpg"], [1], ["/a/x", "/b/y"])
    (tmp_path / "val_256" / "P_1.jpg").unlink()
    with pytest.raises(ValueError, match="places365_val.txt: row 1: there is no P_1.jpg in"):
        scan(tmp_path / "val")


def test_a_list_with_spaces(tmp_path):
    tree(tmp_path, {"l.txt": "a b.jpg dog\nc.jpg cat\n", "m.txt": "a.jpg\n"})
    assert scan(tmp_path / "l.txt")[:3] == ([f"{tmp_path}/a b.jpg", f"{tmp_path}/c.jpg"], [1, 0], ["cat", "dog"])
    with pytest.raises(ValueError, match="m.txt: row 1: needs path and label behind a space, has 'a.jpg'"):
        scan(tmp_path / "m.txt")


def test_a_real_folder_goes_before_a_part(tmp_path):
    """A folder of the part's name counts as it is, and shards beside it are not looked at."""
    tree(tmp_path / "train", {"a/1.jpg": KEPT["grey"], "b/1.jpg": KEPT["grey"]})
    tree(tmp_path, {"train-000.tar": tar({"1.jpg": saved(smooth()), "1.cls": b"0"})})
    assert len(scan(tmp_path / "train").files) == 2
    assert not exists(tmp_path / "valid") and exists(f"{tmp_path}/train-*.tar") and not exists(f"{tmp_path}/x-*.tar")


def test_images_stay_in_reading_order_of_their_class(tmp_path):
    tree(
        tmp_path,
        {"a.tar": tar(shuffled({f"{c}/{k}.jpg": saved(Image.new("RGB", (4, 4))) for c in "ba" for k in (9, 10, 1)}))},
    )
    assert [file.name for file in scan(tmp_path / "a.tar").files] == [f"{c}/{k}.jpg" for c in "ab" for k in (1, 10, 9)]


@pytest.mark.long
def test_cifar100_made_of_cifar10_converts_and_trains(data, tmp_path, monkeypatch):
    """Real pixels in CIFAR-100's two versions: the loader resident and a packed file train to the same loss."""
    monkeypatch.chdir(tmp_path)
    root = data("cifar10") / "train"
    names = sorted(path.name for path in root.iterdir())
    files = [(path, k) for k, name in enumerate(names) for path in sorted((root / name).iterdir())[:60]]
    pixels = np.stack([np.asarray(Image.open(path)) for path, _ in files])
    order = np.random.default_rng(0).permutation(len(files))
    labels = [files[k][1] for k in order]
    folders = cifar(tmp_path, pixels[order], labels, [k // 5 for k in labels])
    assert convert.main([str(folders["binary"] / "train"), "train.beton"]) == 0
    assert convert.main([str(folders["binary"] / "test"), "val.beton"]) == 0
    logs = []
    for source, val, loader in (("python/train", "python/test", "resident"), ("train.beton", "val.beton", "beton")):
        words = ["cifar100_r18_200ep", "mix=cutmix", "model.name=resnet18_quarter_cifar", "epochs=2", "log_every=1"]
        words += [f"data.train={source}", f"data.val={val}", f"data.loader={loader}", f"out={loader}", "data.workers=1"]
        assert train.main([*words, "precision=fp32"]) == 0
        lines = [json.loads(line) for line in Path(loader, "log.jsonl").read_text().splitlines()]
        logs.append([(line["loss"], line.get("top1")) for line in lines])
    assert logs[0] == logs[1] and len(logs[0]) == 2 * 5 + 2
