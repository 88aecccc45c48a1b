"""Which files count: each real file once, any name, no FIFO or device opened, and a line on what was passed over."""

from __future__ import annotations

import csv
import json
import os
import socket
from pathlib import Path

from fastmix.pipelines.packing.format import Beton
from faults.harness import Fault
from helpers.conversion import saved, smooth, tree
from helpers.sources import beton, folders, picture

CONVERT = "fastmix.convert in y.beton"
FOLDER = "fastmix.train {config} data.loader=folder data.train=in data.val=in out=run"
RESIDENT = FOLDER.replace("=folder", "=resident")
LATIN = os.fsdecode(b"caf\xe9")  # no UTF-8
ODD = ["new\nline", "quo'te", 'dou"ble', "com,ma", "tab\t", "es\x1b[31mcape", LATIN, "semi;colon", "$HOME", "-rf", "  "]


def also(*makers):
    """16 JPEGs in two class folders, and what these functions of SOURCE do to them."""

    def prepare(folder: Path) -> None:
        source = folders(folder)
        for make in makers:
            make(source)

    return prepare


def link(name: str, target: str):
    return lambda source: os.symlink(target, source / name)


def diamond(source: Path) -> None:
    """30 folders, each with two links to the next one."""
    for k in range(30):
        (source.parent / f"other/{k}").mkdir(parents=True)
        for name in "xy":
            os.symlink(f"../{k + 1}", source.parent / f"other/{k}/{name}")
    tree(source.parent / "other/30", {"1.jpg": picture(60)})
    os.symlink("../../other/0", source / "a/z")


def hard(name: str, target: str):
    return lambda source: os.link(source / target, source / name)


def fifo(name: str):
    return lambda source: os.mkfifo(source / name)


def unix_socket(name: str):
    def make(source: Path) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            here = os.getcwd()
            os.chdir((source / name).parent)  # its path would be too long
            one.bind(Path(name).name)
            os.chdir(here)

    return make


def files(**content):
    return lambda source: tree(source, content["these"])


def named(*names: str):
    return files(these={name: picture(k) for k, name in enumerate(names)})


def alone(*names: str):
    """Nothing but these images."""
    return lambda folder: named(*names)(folder / "in")


def labels(*expected: int, classes: list[str] = ("a", "b")):
    """The rows of each label in y.beton."""

    def after(folder: Path, said: str) -> None:
        with Beton(folder / "y.beton") as packed:
            assert [packed.labels.tolist().count(k) for k in range(len(expected))] == list(expected)
            assert packed.classes == list(classes)

    return after


def no_word(folder: Path, said: str) -> None:
    assert "passed over" not in said and "warning" not in said


def escaped_report(folder: Path, said: str) -> None:
    with open(folder / "y.beton.bad.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert sorted(row[0] for row in rows[1:]) == [r"in/a/caf\xe9.jpg", r"in/a/new\nline.jpg"]


def odd_classes(folder: Path, said: str) -> None:
    names = json.loads((folder / "y.beton.classes.json").read_text(encoding="utf-8"))
    assert names == sorted(names) and len(names) == len(ODD) and r"caf\xe9" in names and r"new\nline" in names


def of_lists(*rows: tuple[str, str]):
    """x.csv with these rows; the files of odd names in `in`."""

    def prepare(folder: Path) -> None:
        tree(folder / "in", {f"{name}.jpg": picture(k) for k, name in enumerate(ODD)})
        with open(folder / "x.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows(rows)

    return prepare


JFIF = {f"c/{k}.{e}": picture(k) for k, e in enumerate(("jfif", "JFIF", "jpe", "JPG", "jpeg", "Jpeg"))}
LEFT = {"a/1.gif": saved(smooth(), "GIF"), "a/2.heic": "x", "b/3.HEIC": "x", "b/4.heic": "x", "b/README": "x"}
FAULTS = [
    Fault("a good folder", also(), CONVERT, ("16 images in 2 classes",), 0, no_word),
    Fault("a good folder, trained", also(), FOLDER, ("done:", "2 classes, 16 images"), 0, no_word),
    Fault("self -> .", also(link("a/self", ".")), CONVERT, ("in/a/self: a link that leads back",)),
    Fault("self -> ., trained", also(link("a/self", ".")), FOLDER, ("in/a/self: a link that leads back",)),
    Fault("up -> ..", also(link("a/up", "..")), CONVERT, ("in/a/up: a link that leads back",)),
    Fault("up -> the folder above SOURCE", also(link("a/up", "../..")), CONVERT, ("in/a/up: a link that leads back",)),
    Fault("root -> /", also(link("a/root", "/")), CONVERT, ("in/a/root: a link that leads back",)),
    Fault("a class folder -> .", also(link("c", ".")), CONVERT, ("in/c: a link that leads back",)),
    Fault("two folders that hold each other", also(files(these={"a/x/1.jpg": picture(1), "a/y/2.jpg": picture(2)}),
          link("a/x/y", "../y"), link("a/y/x", "../x")), CONVERT, ("in/a/x/y/x: a link that leads back",)),
    Fault("a link to itself", also(link("a/9.jpg", "9.jpg")), CONVERT, ("in/a/9.jpg: Too many levels",)),
    Fault("a class folder that is a link to itself", also(link("c", "c")), CONVERT, ("in/c: Too many levels",)),
    Fault("a link within a class", also(link("a/9.jpg", "0.jpg")), CONVERT + " --list-skipped",
          ("16 images", "1 files passed over: 1 repeated", "in/a/9.jpg: repeated, the same file as in/a/0.jpg"), 0,
          labels(8, 8)),
    Fault("a hard link within a class", also(hard("b/00.jpg", "b/0.jpg")), CONVERT, ("16 images", "1 repeated"), 0,
          labels(8, 8)),
    Fault("a linked folder within a class", also(files(these={"a/x/1.jpg": picture(77)}), link("a/y", "x")), CONVERT,
          ("17 images", "1 repeated"), 0, labels(9, 8)),
    Fault("links to links, 2 ** 30 ways", also(diamond), CONVERT, ("17 images", "repeated"), 0, labels(9, 8), limit=10),
    Fault("a link into another class", also(link("a/9.jpg", "../b/0.jpg")), CONVERT,
          ("in/b/0.jpg: the same file as in/a/9.jpg, which is of another class; remove one",)),
    Fault("a link into another class, trained", also(link("a/9.jpg", "../b/0.jpg")), FOLDER, ("of another class",)),
    Fault("a hard link into another class", also(hard("a/9.jpg", "b/0.jpg")), CONVERT, ("of another class",)),
    Fault("a link to another class", also(link("a/all", "../b")), CONVERT, ("of another class",)),
    Fault("a class folder that is a link to another", also(link("c", "a")), CONVERT, ("of another class",)),
    Fault("class folders that are links elsewhere", also(lambda source: tree(source.parent / "other", {
          "1.jpg": picture(50)}), link("c", "../other")), CONVERT, ("17 images in 3 classes",), 0,
          labels(8, 8, 1, classes=["a", "b", "c"])),
    Fault("a link to nothing", also(link("a/9.jpg", "gone.jpg")), CONVERT + " --skip-bad",
          ("16 images", "1 damaged images left out"), 0, labels(8, 8)),
    Fault("jfif and other names of JPEG", also(files(these=JFIF)), CONVERT, ("22 images in 3 classes",), 0, no_word),
    Fault("jfif, trained", also(files(these=JFIF)), FOLDER, ("3 classes, 22 images",), 0, no_word),
    Fault("endings that are left out", also(files(these=LEFT)), CONVERT,
          ("16 images", "5 files passed over: 3 .heic, 1 .gif, 1 without an ending; --list-skipped names them"), 0),
    Fault("endings that are left out, listed", also(files(these=LEFT)), CONVERT + " --list-skipped",
          ("in/a/1.gif: .gif", "in/b/3.HEIC: .heic", "in/b/README: without an ending"), 0),
    Fault("endings that are left out, trained", also(files(these=LEFT)), FOLDER,
          ("warning: in: 5 files passed over: 3 .heic, 1 .gif", "done:"), 0),
    Fault("a class of other endings only", also(files(these={f"c/{k}.heic": "x" for k in range(16)})), CONVERT,
          ("16 images in 3 classes", "16 .heic", "warning: in: class folders without images: c"), 0),
    Fault("nothing but other endings", lambda folder: tree(folder / "in", {"a/1.heic": "x", "b/2.gif": "x"}), CONVERT,
          ("in: no images (", "in its class folders; passed over: 1 .heic, 1 .gif")),
    Fault("hidden files", also(named("a/.1.jpg", ".git/2.jpg", "a/.x/3.jpg")), CONVERT + " --list-skipped",
          ("16 images", "3 files passed over: 3 hidden", "in/.git: hidden"), 0),
    Fault("a FIFO", also(fifo("a/9.jpg")), CONVERT, ("16 images", "1 FIFO"), 0),
    Fault("a FIFO, trained", also(fifo("a/9.jpg")), FOLDER, ("1 FIFO", "done:"), 0),
    Fault("a link to a FIFO", also(fifo("pipe"), link("a/9.jpg", "../pipe")), CONVERT, ("16 images", "2 FIFO"), 0),
    Fault("a FIFO in the root", also(fifo("pipe.jpg")), CONVERT, ("16 images", "1 FIFO"), 0),
    Fault("a socket", also(unix_socket("a/9.jpg")), CONVERT, ("16 images", "1 socket"), 0),
    Fault("a device", also(link("a/9.jpg", "/dev/zero")), CONVERT, ("16 images", "1 device"), 0),
    Fault("a FIFO as SOURCE", lambda folder: os.mkfifo(folder / "in"), CONVERT, ("in: neither a folder",)),
    Fault("a FIFO as a list", lambda folder: os.mkfifo(folder / "x.csv"), "fastmix.convert x.csv y.beton",
          ("x.csv: a FIFO, where a file is needed",)),
    Fault("a device as a list", lambda folder: os.symlink("/dev/zero", folder / "x.csv"),
          "fastmix.convert x.csv y.beton", ("x.csv: a device, where a file is needed",)),
    Fault("a FIFO as a packed file", lambda folder: os.mkfifo(folder / "x.beton"),
          "fastmix.train {config} data.train=x.beton", ("x.beton: a FIFO, where a file is needed",)),
    Fault("a FIFO to verify", lambda folder: os.mkfifo(folder / "x.beton"), "fastmix.convert --verify x.beton",
          ("x.beton: a FIFO, where a file is needed",)),
    Fault("a FIFO where a file is written", also(lambda source: os.mkfifo(source.parent / "y.beton.part")), CONVERT,
          ("y.beton.part: a FIFO, where a file is to be written",)),
    Fault("a FIFO as class names", lambda folder: (beton(folder), os.mkfifo(folder / "x.beton.classes.json")),
          "fastmix.train {config} data.train=x.beton", ("x.beton.classes.json: a FIFO",)),
    Fault("a FIFO as checksums", lambda folder: (beton(folder), os.remove(folder / "x.beton.sums"),
          os.mkfifo(folder / "x.beton.sums")), "fastmix.convert --verify x.beton", ("x.beton.sums: a FIFO",)),
    Fault("a FIFO for --classes", also(lambda source: os.mkfifo(source.parent / "names.txt")),
          CONVERT + " --classes names.txt", ("names.txt: a FIFO",)),
    Fault("a folder as class names", lambda folder: (beton(folder), (folder / "x.beton.classes.json").mkdir()),
          "fastmix.train {config} data.train=x.beton", ("x.beton.classes.json: a folder",)),
    Fault("train and val taken for classes", alone("train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg"), CONVERT,
          ("3 images in 2 classes", "warning: in: takes train, val for classes"), 0),
    Fault("train and val taken for classes, trained", alone(*(
          f"{split}/{c}/{k}.jpg" for split in ("train", "val") for c in "ab" for k in range(4))), FOLDER,
          ("warning: in: takes train, val for classes",), 0),
    Fault("test taken for a class", alone("Test/1.jpg"), CONVERT,
          ("takes Test for classes", "one class only: Test"), 0),
    Fault("one class", lambda folder: folders(folder, "a"), CONVERT, ("warning: in: one class only: a",), 0),
    Fault("a class folder without images", also(lambda source: (source / "c").mkdir()), CONVERT,
          ("16 images in 3 classes", "warning: in: class folders without images: c"), 0,
          labels(8, 8, 0, classes=["a", "b", "c"])),
    Fault("images in the root", also(named("1.jpg", "2.jpg")), CONVERT,
          ("16 images", "warning: in: 2 images outside the class folders, passed over", "2 .jpg"), 0),
    Fault("images in the root only", alone("1.jpg"), CONVERT,
          ("in: images but no class folders",)),
    Fault("NFC and NFD", alone("caf\u00e9/1.jpg", "cafe\u0301/2.jpg", "tea/3.jpg"), CONVERT,
          ("3 images in 2 classes", "warning: in: one class 'caf\u00e9' of 2 folders"), 0,
          labels(2, 1, classes=["caf\u00e9", "tea"])),
    Fault("NFD here, NFC in --classes", lambda folder: (tree(folder / "in", {"cafe\u0301/1.jpg": picture(1)}),
          (folder / "names.txt").write_text("bar\ncaf\u00e9\n", encoding="utf-8")), CONVERT + " --classes names.txt",
          ("1 images in 2 classes",), 0, labels(0, 1, classes=["bar", "caf\u00e9"])),
    Fault("odd file names", also(named(*(f"a/{name}.jpg" for name in ODD))), CONVERT + " --verify",
          (f"{16 + len(ODD)} images",), 0),
    Fault("odd file names, trained", also(named(*(f"a/{name}.jpg" for name in ODD))), FOLDER,
          (f"{16 + len(ODD)} images", "done:"), 0),
    Fault("odd file names, passed over", also(named(*(f"a/{name}.xyz" for name in ODD))), CONVERT + " --list-skipped",
          (f"{len(ODD)} .xyz", r"in/a/caf\xe9.xyz: .xyz", r"in/a/new\nline.xyz: .xyz"), 0),
    Fault("odd endings", also(named("a/x.new\nline", "a/x." + LATIN)), CONVERT, (r"1 .new\nline", r"1 .caf\xe9"), 0),
    Fault("odd file names, damaged", also(files(these={f"a/{LATIN}.jpg": b"x", "a/new\nline.jpg": b"x"})),
          CONVERT + " --skip-bad", ("2 damaged images left out",), 0, escaped_report),
    Fault("a damaged file of an odd name, resident", also(files(these={f"a/{LATIN}\n.jpg": b"x"})), RESIDENT,
          (r"in/a/caf\xe9\n.jpg (row 8): not an image file",)),
    Fault("odd class names", alone(*(f"{name}/{k}.jpg" for name in ODD for k in (1, 2))), CONVERT,
          (f"{2 * len(ODD)} images in {len(ODD)} classes",), 0, odd_classes),
    Fault("odd class names, trained", alone(*(f"{name}/{k}.jpg" for name in ODD for k in (1, 2))), FOLDER,
          ("done:",), 0),
    Fault("an odd SOURCE and OUT", lambda folder: folders(folder).rename(folder / "so\nurce"),
          "fastmix.convert 'so\nurce' 'o\nut.beton'", (r"o\nut.beton: 16 images",), 0),
    Fault("an odd SOURCE that is gone", lambda folder: None, "fastmix.convert 'so\nurce' y.beton",
          (r"so\nurce: no such folder or list",)),
    Fault("a list of odd names", of_lists(*((f"in/{name}.jpg", "x") for name in ODD if name.strip())),
          "fastmix.convert x.csv y.beton", (f"{len(ODD) - 1} images",), 0),
    Fault("a list of a FIFO", lambda folder: (os.mkfifo(folder / "p.jpg"), (folder / "x.csv").write_text("p.jpg,0\n")),
          "fastmix.train {config} data.loader=resident data.train=x.csv data.val=x.csv batch_total=1",
          ("p.jpg (row 0): a FIFO, where a file is needed",)),
    Fault("a list of a folder", lambda folder: (folders(folder), (folder / "x.csv").write_text("in,0\n")),
          "fastmix.train {config} data.loader=resident data.train=x.csv data.val=x.csv batch_total=1",
          ("in (row 0): a folder, where a file is needed",)),
    Fault("annotations without some images", lambda folder: tree(folder / "in", {
          "val_annotations.txt": "0.jpg\tn1\t0\t0\t1\t1\n1.jpg\tn2\t0\t0\t1\t1\n"} | {
          f"images/{k}.jpg": picture(k) for k in range(4)}), CONVERT,
          ("2 images in 2 classes", "2 .jpg", "warning: in: 2 images that val_annotations.txt does not name"), 0),
]  # fmt: skip
