"""Places205 and Places365 as they are handed out: lists of "path number", images in folders beside them.

Places205: trainvalsplit_places205/{train,val}_places205.csv, columns apart by a space. Places365:
places365_{train_standard,val}.txt, paths beginning with "/". Class names are those of categories_places365.txt or
categoryIndex_places205.csv, where one is there, else the folders of the training images ("a/abbey").
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.layouts.listing import Listing, Reader, numbered
from fastmix.pipelines.packing.layouts.rows import Rows, again, spaced
from fastmix.reading import shown

LISTS = {
    "trainvalsplit_places205": {"train": "train_places205.csv", "val": "val_places205.csv"},
    "filelist_places365-standard": {"train": "places365_train_standard.txt", "val": "places365_val.txt"},
}
NAMES = ("categories_places365.txt", "categoryIndex_places205.csv")
IMAGES = (
    "", "images256", "data/vision/torralba/deeplearning/images256", "data_256", "data_large", "data_256_standard",
    "data_large_standard", "train", "val", "val_256", "val_large",
)  # fmt: skip
"""Where images may lie, in the lists' folder or the one above it."""


def splits(folder: Path) -> dict[str, Reader]:
    """The parts of a folder with the lists, or of one above it."""
    for below, lists in LISTS.items():
        for place in (folder, folder / below):
            found = {part: place / name for part, name in lists.items() if (place / name).is_file()}
            if found:
                return {part: partial(_read, path, found.get("train")) for part, path in found.items()}
    return {}


def _read(path: Path, train: Path | None, classes: list[str] | None) -> Listing:
    rows = spaced(path)
    numbers = rules.numbers(rows.labels, rows.where)
    root = _root(path, rows.paths[0])
    files = [str(root / name.lstrip("/")) for name in rows.paths]
    told = next((path.parent / name for name in NAMES if (path.parent / name).is_file()), None)
    own = _names(spaced(told)) if told else _by_folder(spaced(train)) if train else None
    return Listing(files, *numbered(numbers, classes, own, rows.where), (), again(rows))


def _root(path: Path, first: str) -> Path:
    for folder in (path.parent, path.parent.parent):
        for below in IMAGES:
            if (folder / below / first.lstrip("/")).exists():
                return folder / below
    raise ValueError(f"{shown(path)}: row 1: there is no {shown(first)} in {shown(path.parent)}, nor in the folders of "
                     "images there or beside it")  # fmt: skip


def _names(rows: Rows) -> list[str]:
    """The class names of a list of name and number."""
    named = dict(zip(rules.numbers(rows.labels, rows.where), rows.paths, strict=True))
    if sorted(named) != list(range(len(rows.paths))):
        raise ValueError(f"{shown(rows.source)}: its classes are not numbered from 0 to their number less one")
    return [rules.class_name(named[k]) for k in range(len(named))]


def _by_folder(rows: Rows) -> list[str] | None:
    """The names of the classes as the folders of their images; None where these do not tell classes apart."""
    own: dict[int, str] = {}
    for number, name in zip(rules.numbers(rows.labels, rows.where), rows.paths, strict=True):
        if own.setdefault(number, name.strip("/").rpartition("/")[0]) != name.strip("/").rpartition("/")[0]:
            return None
    if sorted(own) != list(range(len(own))) or len(set(own.values())) != len(own) or "" in own.values():
        return None
    return [rules.class_name(own[k]) for k in range(len(own))]
