"""From the place where a data set lies to its image files and labels, in a fixed order.

Three layouts are known:

- class folders: SOURCE/<class>/.../<image>; classes are the folders' names, sorted, as in torchvision's ImageFolder
  (Tiny-ImageNet's train/<wnid>/images/ is one of these). Names that begin with a dot are passed over;
- Tiny-ImageNet's validation set: SOURCE/images/ with SOURCE/val_annotations.txt;
- a .csv or .tsv list of two columns, path and label, with or without that header; paths are relative to the list. The
  labels are class names, or class numbers if every one is an integer.

Labels must mean the same in training and validation. Where the classes are not given, the Tiny-ImageNet layout takes
them from the train folders beside SOURCE, else from wnids.txt there, else from the annotations, always sorted.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

from fastmix.pipelines.packing.format import read_classes

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
ANNOTATIONS = "val_annotations.txt"
HEADERS = {("path", "label"), ("file", "label"), ("filename", "label"), ("image", "label"), ("path", "class")}


class Listing(NamedTuple):
    """Image files [N], labels [N] and the class names, label by label (None where labels came as numbers)."""

    files: list[str]
    labels: list[int]
    classes: list[str] | None


def scan(source: str | Path, classes: list[str] | None = None) -> Listing:
    """Lists a data set of any layout. classes: the class names, where another data set has settled them.

    Raises ValueError, of one line, for a place without images and for what is broken in a list.
    """
    source = Path(source)
    if source.is_dir():
        return (_annotated if (source / ANNOTATIONS).is_file() else _folders)(source, classes)
    if not source.exists():
        raise ValueError(f"{source}: no such folder or list")
    if source.suffix.lower() not in (".csv", ".tsv"):
        raise ValueError(f"{source}: neither a folder of images nor a .csv or .tsv list")
    return _list(source, classes)


def with_jpegs(files: list[str]) -> bool:
    """Whether there are JPEGs, by their names."""
    return any(file.lower().endswith(EXTENSIONS[:2]) for file in files)


def load_classes(path: str | Path) -> list[str]:
    """Class names in label order: of a .beton file, of the class folders in a folder, or of a text file, one a line.

    Raises ValueError where there are none or where two are equal.
    """
    path = Path(path)
    if path.suffix == ".beton":
        names = read_classes(path)
    elif path.is_dir():
        names = class_folders(path)
    elif path.is_file():
        names = [line.strip() for line in _text(path).splitlines() if line.strip()]
    else:
        raise ValueError(f"{path}: no such file to take the classes from")
    if not names:
        raise ValueError(f"{path}: has no class names")
    if len(set(names)) != len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"{path}: names the class '{twice}' twice")
    return names


def class_folders(folder: Path) -> list[str]:
    """The folder names in a folder, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def images_below(folder: str | Path) -> list[str]:
    """The image files in a folder at any depth, by their names' endings, folder by folder in the order of names."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(root, name)
            for name in sorted(names)
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return found


def _folders(source: Path, classes: list[str] | None) -> Listing:
    found = class_folders(source)
    if not found:
        images = any(name.lower().endswith(EXTENSIONS) for name in os.listdir(source))
        what = "images but no class folders; give a .csv list of path,label" if images else "no class folders in it"
        raise ValueError(f"{source}: {what}")
    index = _index(classes or found)
    files, labels = [], []
    for name in found:
        if name not in index:
            raise ValueError(f"{source / name}: not one of the {len(index)} given classes")
        images = images_below(source / name)
        if not images:
            raise ValueError(f"{source / name}: class folder without images ({' '.join(EXTENSIONS)})")
        files += images
        labels += [index[name]] * len(images)
    return Listing(files, labels, classes or found)


def _annotated(source: Path, classes: list[str] | None) -> Listing:
    path = source / ANNOTATIONS
    rows = _rows(path, "\t", "file, class and a box", minimum=2)
    if not rows:
        raise ValueError(f"{path}: empty")
    train, wnids = source.parent / "train", source.parent / "wnids.txt"
    if classes is None and train.is_dir():
        classes = class_folders(train)
    elif classes is None and wnids.is_file():
        classes = sorted(load_classes(wnids))
    classes = classes or sorted({row[1] for _, row in rows})
    index = _index(classes)
    files, labels = [], []
    for line, (name, wnid, *_) in rows:
        if wnid not in index:
            raise ValueError(f"{path}: row {line}: '{wnid}' is not one of the {len(index)} classes")
        files.append(str(source / "images" / name))
        labels.append(index[wnid])
    return Listing(files, labels, classes)


def _list(source: Path, classes: list[str] | None) -> Listing:
    delimiter = "\t" if source.suffix.lower() == ".tsv" else ","
    rows = _rows(source, delimiter, "path and label", minimum=2, maximum=2)
    if rows and tuple(cell.lower() for cell in rows[0][1]) in HEADERS:
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{source}: lists no images")
    given = {label for _, (_, label) in rows}
    files = [os.path.join(source.parent, path) for _, (path, _) in rows]
    if not (classes and given <= set(classes)) and all(label.isdecimal() for label in given):
        labels = [int(label) for _, (_, label) in rows]
        for (line, _), label in zip(rows, labels, strict=True):
            if classes and label >= len(classes):
                raise ValueError(f"{source}: row {line}: label {label}, but {len(classes)} classes are given")
        return Listing(files, labels, classes)
    classes = classes or sorted(given)
    index = _index(classes)
    for line, (_, label) in rows:
        if label not in index:
            raise ValueError(f"{source}: row {line}: '{label}' is not one of the {len(index)} given classes")
    return Listing(files, [index[label] for _, (_, label) in rows], classes)


def _rows(path: Path, delimiter: str, columns: str, minimum: int, maximum: int | None = None):
    """(line number, stripped cells) of each row that is not blank."""
    reader = csv.reader(_text(path).splitlines(), delimiter=delimiter, strict=True)
    rows = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if len(cells) < minimum or (maximum and len(cells) > maximum) or not all(cells[:minimum]):
                raise ValueError(f"{path}: row {reader.line_num}: needs {columns}, has {delimiter.join(cells)!r}")
            rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{path}: row {reader.line_num}: {error}") from None
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _index(classes: list[str]) -> dict[str, int]:
    return {name: k for k, name in enumerate(classes)}
