"""Labels that are none: told with row and value, when a file is opened or written, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

from faults.harness import Fault
from helpers.conversion import tree
from helpers.sources import beton, csv_of, folders, labels_of, picture

TRAIN = "fastmix.train {config} data.train=x.beton data.val=x.beton"
CONVERT = "fastmix.convert x.csv y.beton"
RANGE = "labels are whole numbers from 0 to"
ONE = "a label is one whole number from 0 to 999999"
GOOD = [k % 2 for k in range(16)]


def labelled(*first: int):
    return lambda folder: beton(folder, labels=[*first, *GOOD[len(first) :]])


def with_classes(text: str):
    return lambda folder: Path(f"{beton(folder)}.classes.json").write_text(text)


def named(labels: list[int], names: list[str]):
    def prepare(folder: Path) -> None:
        path = beton(folder, labels=labels)
        Path(f"{path}.classes.json").write_text(json.dumps(names))

    return prepare


def cell(value: str, *says: str, shown: str | None = None, row: int = 2) -> Fault:
    """A csv with this cell in row 2."""
    said = says or (f"x.csv: row {row}: label '{shown or value}'", ONE)
    return Fault(f"csv cell {shown or value!r}", csv_of(value), CONVERT, said)


def wrong(value: int, command: str, what: str) -> Fault:
    says = (f"x.beton: row 0: label {value}", RANGE)
    return Fault(f"label {value}, {what}", labelled(value), command, says)


def written(labels: list[int], classes: list[str] | None):
    def after(folder: Path, said: str) -> None:
        assert labels_of(folder / "y.beton") == labels
        path = folder / "y.beton.classes.json"
        assert (json.loads(path.read_text()) if path.exists() else None) == classes

    return after


def without(word: str):
    def after(folder: Path, said: str) -> None:
        assert word not in said

    return after


def listed(text: str, classes: str | None = None):
    def prepare(folder: Path) -> None:
        tree(folder, {f"{k}.jpg": picture(k) for k in range(4)} | {"x.csv": text})
        if classes is not None:
            (folder / "names.txt").write_text(classes)

    return prepare


FOLDER = "fastmix.train {config} data.loader=folder data.train=x.csv data.val=x.csv"
FAULTS = [
    wrong(-1, TRAIN, "trained"),
    wrong(-1, TRAIN + " --dry-run", "dry run"),
    wrong(-1, TRAIN + " data.loader=resident", "resident"),
    wrong(-1, "fastmix.convert --verify x.beton", "verified"),
    wrong(-(2**63), "fastmix.convert --verify x.beton", "verified"),
    wrong(4_000_000_000, TRAIN, "trained"),
    wrong(4_000_000_000, TRAIN + " data.loader=resident", "resident"),
    wrong(4_000_000_000, "fastmix.convert --verify x.beton", "verified"),
    wrong(2**63 - 1, TRAIN, "trained"),
    wrong(1_000_000, TRAIN, "trained"),
    Fault("label 2 of two classes", named([2, *GOOD[1:]], ["a", "b"]), TRAIN,
          ("x.beton: row 0: label 2", "from 0 to 1, as 2 classes are named")),
    Fault("label 2 of two classes, verified", named([0, 2, *GOOD[2:]], ["a", "b"]), "fastmix.convert --verify x.beton",
          ("x.beton: row 1: label 2", "from 0 to 1, as 2 classes are named")),
    Fault("labels 1..3", lambda folder: beton(folder, labels=[1 + k % 3 for k in range(16)]), TRAIN,
          ("warning: x.beton: no image of 1 of 4 classes: 0", "4 classes", "done:"), 0, changes=("*",)),
    Fault("labels 1..3, dry run", lambda folder: beton(folder, labels=[1 + k % 3 for k in range(16)]),
          TRAIN + " --dry-run", ("warning: x.beton: no image of 1 of 4 classes: 0",), 0),
    Fault("a gap in many classes", labelled(99), TRAIN + " --dry-run",
          ("warning: x.beton: no image of 97 of 100 classes: 2, 3, 4, 5, 6, 7, 8, 9 and 89 more",), 0),
    Fault("no gap where all classes are named", named(GOOD, ["a", "b", "c"]), TRAIN + " --dry-run", ("3 classes",), 0,
          without("warning")),
    cell("-1"),
    cell("1.0"),
    cell("1.5"),
    cell("+1"),
    cell("1e3"),
    cell("nan"),
    cell("None", shown="None"),
    cell("NULL"),
    cell("n/a"),
    cell("?"),
    cell("-"),
    cell("0x1"),
    cell("1_0"),
    cell('"[0, 1]"', "x.csv: row 2: label '[0, 1]': several numbers", ONE, shown="[0, 1]"),
    cell("99999999999999999999"),
    cell("9" * 5000, f"x.csv: row 2: label '{'9' * 40}'", shown="of 5000 digits"),
    cell("1000000", "x.csv: row 2: label 1000000", RANGE),
    cell("0 1", "x.csv: row 2: label '0 1': several numbers", ONE),
    cell("0;1", "x.csv: row 2: label '0;1': several numbers", ONE),
    cell("0|1", "x.csv: row 2: label '0|1': several numbers", ONE),
    cell('"0,1"', "x.csv: row 2: label '0,1': several numbers", ONE, shown="0,1"),
    cell("", "x.csv: row 2: needs path and label, has '0.jpg,'", shown="blank"),
    cell(" ", "x.csv: row 2: needs path and label, has '0.jpg,'", shown="a space"),
    cell("٣", "x.csv: row 2: label '٣'", ONE),
    Fault("csv of floats only", listed("0.jpg,0.0\n1.jpg,1.0\n"), CONVERT, ("x.csv: row 1: label '0.0'", ONE)),
    Fault("csv of negative numbers only", listed("0.jpg,-1\n1.jpg,-2\n"), CONVERT, ("x.csv: row 1: label '-1'", ONE)),
    Fault("csv, the loader folder", csv_of("0", "-1"), FOLDER, ("x.csv: row 3: label '-1'", ONE)),
    Fault("csv with a gap", csv_of("3"), CONVERT, ("warning: x.csv: no image of 1 of 4 classes: 2", "16 images"), 0,
          written([3, *GOOD[1:]], None)),
    Fault("csv of names and a number", listed("0.jpg,cat\n1.jpg,dog\n2.jpg,7\n"), CONVERT,
          ("warning: x.csv: takes its labels for names", "'7' in row 3"), 0,
          written([1, 2, 0], ["7", "cat", "dog"])),
    Fault("csv with leading zeros", listed("0.jpg,00\n1.jpg,01\n"), CONVERT, ("2 images",), 0, written([0, 1], None)),
    Fault("csv: a file with two labels", listed("0.jpg,cat\n1.jpg,dog\n0.jpg,dog\n"), CONVERT,
          ("x.csv: row 3: 0.jpg has the label 'dog', but 'cat' in row 1",)),
    Fault("csv: a file twice", listed("0.jpg,cat\n1.jpg,dog\n0.jpg,cat\n"), CONVERT,
          ("3 images", "warning: x.csv: 1 of 3 rows name a file that a row above names"), 0,
          written([0, 1, 0], ["cat", "dog"])),
    Fault("csv of one class", listed("0.jpg,cat\n1.jpg,cat\n"), CONVERT, ("warning: x.csv: one class only: cat",), 0),
    Fault("csv with a class beyond --classes", listed("0.jpg,cat\n1.jpg,dgo\n", "cat\ndog\n"),
          CONVERT + " --classes names.txt", ("x.csv: row 2: 'dgo' is not one of the 2 given classes",)),
    Fault("csv with a number beyond --classes", listed("0.jpg,0\n1.jpg,2\n", "cat\ndog\n"),
          CONVERT + " --classes names.txt", ("x.csv: row 2: label 2", "from 0 to 1, as 2 classes are named")),
    Fault("--classes says that a class is empty", listed("0.jpg,cat\n1.jpg,cat\n", "cat\ncow\ndog\n"),
          CONVERT + " --classes names.txt", ("2 images in 3 classes",), 0, written([0, 0], ["cat", "cow", "dog"])),
    Fault("names in two Unicode forms", listed("0.jpg,cafe\u0301\n1.jpg,caf\u00e9\n2.jpg,dog\n"), CONVERT,
          ("3 images in 2 classes",), 0, written([0, 0, 1], ["caf\u00e9", "dog"])),
    Fault("a label that is no UTF-8", lambda folder: (folder / "x.csv").write_bytes(b"0.jpg,caf\xe9\n"),
          CONVERT, (r"x.csv: row 1: label 'caf\xe9' is no text of one line in UTF-8",)),
    Fault("a list in UTF-16", lambda folder: (folder / "x.csv").write_text("0.jpg,1\n", encoding="utf-16"), CONVERT,
          ("x.csv: not UTF-8 text (perhaps UTF-16)",)),
    Fault("a class of which all images are damaged", lambda folder: tree(folders(folder, "abc", 3), {
        f"c/{k}.jpg": b"x" for k in range(3)}), "fastmix.convert in y.beton --skip-bad",
          ("warning: in: all images of these classes were damaged: c", "3 damaged images left out"), 0,
          written([0] * 3 + [1] * 3, ["a", "b", "c"])),
    Fault("a class list that is a number", with_classes("3"),
          TRAIN, ("x.beton.classes.json: not a list of distinct class names",)),
    Fault("synthetic data without a class", lambda folder: None,
          "fastmix.train {config} data.loader=synthetic 'data.train=n=64&classes=0' 'data.val=n=64&classes=2'",
          ("'classes=0' is none of", "from 1 to 1000000")),
    Fault("synthetic data of four billion classes", lambda folder: None,
          "fastmix.train {config} data.loader=synthetic 'data.train=n=64&classes=4000000000' 'data.val=n=64'",
          ("classes=4000000000", "from 1 to 1000000")),
]  # fmt: skip
