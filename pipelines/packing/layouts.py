"""From the place where a data set lies to its image files and labels, in a fixed order.

Three layouts are known:

- class folders: SOURCE/<class>/.../<image>; classes are the folders' names, sorted, as in torchvision's ImageFolder
  (Tiny-ImageNet's train/<wnid>/images/ is one of these). walk.py says which files count;
- Tiny-ImageNet's validation set: SOURCE/images/ with SOURCE/val_annotations.txt;
- a .csv or .tsv list of two columns, path and label, with or without that header; paths are relative to the list. The
  labels are class names, or class numbers if every one is a number.

Labels must mean the same in training and validation. Where the classes are not given, the Tiny-ImageNet layout takes
them from the train folders beside SOURCE, else from wnids.txt there, else from the annotations, always sorted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.format import read_classes
from fastmix.pipelines.packing.lists import Rows, annotated, listed, repeats, text
from fastmix.pipelines.packing.walk import EXTENSIONS, JPEGS, Passed, Walk, is_image, summary
from fastmix.reading import shown

ANNOTATIONS = "val_annotations.txt"
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}


class Listing(NamedTuple):
    """Image files [N], labels [N] and the class names, label by label (None where labels came as numbers).

    passed    files that lie there too and were not taken
    warnings  lines on what looks odd
    """

    files: list[str]
    labels: list[int]
    classes: list[str] | None
    passed: Sequence[Passed] = ()
    warnings: Sequence[str] = ()


def scan(source: str | Path, classes: list[str] | None = None) -> Listing:
    """Lists a data set of any layout. classes: the class names, where another data set has settled them.

    Raises ValueError, of one line, for a place without images and for what is broken in a list; OSError.
    """
    source = Path(source)
    if source.is_dir():
        listing = (_annotated if (source / ANNOTATIONS).is_file() else _folders)(source, classes)
    elif not source.exists():
        raise ValueError(f"{shown(source)}: no such folder or list")
    elif source.suffix.lower() not in (".csv", ".tsv"):
        raise ValueError(f"{shown(source)}: neither a folder of images nor a .csv or .tsv list")
    else:
        listing = _list(source, classes)
    warnings = list(listing.warnings)
    if len(listing.classes or set(listing.labels)) == 1:
        warnings.append(f"one class only: {(listing.classes or listing.labels)[0]}")
    warnings = tuple(f"{shown(source)}: {line}" for line in warnings)
    return listing._replace(passed=tuple(listing.passed), warnings=warnings)


def with_jpegs(files: list[str]) -> bool:
    """Whether there are JPEGs, by their names."""
    return any(file.lower().endswith(JPEGS) for file in files)


def load_classes(path: str | Path) -> list[str]:
    """Class names in label order: of a .beton file, of the class folders in a folder, or of a text file, one a line.

    Raises ValueError where there are none or where two are equal; OSError.
    """
    path = Path(path)
    if path.suffix == ".beton":
        names = read_classes(path)
    elif path.is_dir():
        names = list(class_folders(path))
    elif path.exists():
        names = [rules.class_name(line.strip()) for line in text(path).splitlines() if line.strip()]
    else:
        raise ValueError(f"{shown(path)}: no such file to take the classes from")
    if not names:
        raise ValueError(f"{shown(path)}: has no class names")
    if len(set(names)) != len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"{shown(path)}: names the class '{twice}' twice")
    return names


def class_folders(folder: Path) -> dict[str, list[str]]:
    """The class folders in a folder, by class name, sorted: one, or several whose names differ in their encoding."""
    with os.scandir(folder) as entries:
        found = sorted((e.name, e.path) for e in entries if not e.name.startswith(".") and e.is_dir())
    folders: dict[str, list[str]] = {}
    for name, path in found:
        folders.setdefault(rules.class_name(name), []).append(path)
    return dict(sorted(folders.items()))


def _folders(source: Path, classes: list[str] | None) -> Listing:
    found = class_folders(source)
    walk, warnings = Walk(source), []
    for entry in walk.entries(source):
        if not entry.is_dir():
            walk.leave(entry, "outside the class folders")
    outside = [file for file in walk.passed if is_image(file.path) and file.why]
    if not found:
        what = "images but no class folders; give a .csv list of path,label" if outside else "no class folders in it"
        raise ValueError(f"{shown(source)}: {what}")
    if outside:
        warnings.append(f"{len(outside)} images outside the class folders, passed over")
    splits = [name for name in found if name.lower() in SPLITS]
    if len(splits) > 1 or len(splits) == len(found):
        warnings.append(f"takes {', '.join(splits)} for classes; if they are splits, give one of them")
    index, files, labels, empty = _index(classes or list(found)), [], [], []
    for name, folders in found.items():
        if name not in index:
            raise ValueError(f"{shown(folders[0])}: not one of the {len(index)} given classes")
        if len(folders) > 1:
            warnings.append(
                f"one class '{name}' of {len(folders)} folders whose names differ in their Unicode form only"
            )
        images = [image for folder in folders for image in walk.images(folder, name)]
        empty += [name] * (not images)
        files += images
        labels += [index[name]] * len(images)
    if not files:
        left = f"; passed over: {summary(walk.passed)}" if walk.passed else ""
        raise ValueError(f"{shown(source)}: no images ({' '.join(EXTENSIONS)}) in its class folders{left}")
    if empty:
        more = f" and {len(empty) - rules.NAMED} more" if len(empty) > rules.NAMED else ""
        warnings.append(f"class folders without images: {', '.join(empty[: rules.NAMED])}{more}")
    return Listing(files, labels, classes or list(found), walk.passed, warnings)


def _annotated(source: Path, classes: list[str] | None) -> Listing:
    rows = annotated(source / ANNOTATIONS)
    train, wnids = source.parent / "train", source.parent / "wnids.txt"
    if classes is None and train.is_dir():
        classes = list(class_folders(train))
    elif classes is None and wnids.is_file():
        classes = sorted(load_classes(wnids))
    labels, classes = _named(rows, classes, "classes")
    files = [str(source / "images" / name) for name in rows.paths]
    walk, warnings = Walk(source), _warnings(rows)
    named = set(rows.paths)
    for entry in walk.entries(source / "images") if (source / "images").is_dir() else ():
        if entry.name not in named:
            walk.leave(entry, "not in the annotations")
    if left := sum(is_image(file.path) for file in walk.passed if file.why):
        warnings.append(f"{left} images that {ANNOTATIONS} does not name, passed over")
    return Listing(files, labels, classes, walk.passed, warnings)


def _list(source: Path, classes: list[str] | None) -> Listing:
    rows = listed(source)
    files, warnings = [os.path.join(source.parent, path) for path in rows.paths], _warnings(rows)
    given = sorted(set(rows.labels))
    if not rules.are_numbers(given) or (classes and set(given) <= set(classes)):
        if classes is None and (number := next((label for label in given if rules.are_numbers([label])), None)):
            row = rows.numbers[rows.labels.index(number)]
            warnings.append(f"takes its labels for names, though some are numbers, such as '{number}' in row {row}")
        return Listing(files, *_named(rows, classes, "given classes"), (), warnings)
    labels = rules.numbers(rows.labels, rows.where)
    rules.check(labels, classes, rows.where)
    if classes is None and (line := rules.gaps(np.array(labels), None)):
        warnings.append(line)
    return Listing(files, labels, classes, (), warnings)


def _named(rows: Rows, classes: list[str] | None, what: str) -> tuple[list[int], list[str]]:
    """Labels and classes of rows whose labels are names."""
    classes = classes or sorted(set(rows.labels))
    index = _index(classes)
    for row, label in enumerate(rows.labels):
        if label not in index:
            raise ValueError(f"{rows.where(row)}: '{label}' is not one of the {len(index)} {what}")
    return [index[label] for label in rows.labels], classes


def _warnings(rows: Rows) -> list[str]:
    again = repeats(rows)
    return [f"{again} of {len(rows.paths)} rows name a file that a row above names"] if again else []


def _index(classes: list[str]) -> dict[str, int]:
    return {name: k for k, name in enumerate(classes)}
