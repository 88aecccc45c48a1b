"""CUB-200-2011 as it is handed out: CUB_200_2011/ with images.txt, image_class_labels.txt, classes.txt and
train_test_split.txt, each of numbered lines; the split is its authors' (5,994 images to train with, 5,794 to test).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.layouts.listing import Listing, Reader, named
from fastmix.pipelines.packing.layouts.rows import text
from fastmix.reading import shown

LISTS = ("images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt")
PARTS = {"train": "1", "test": "0"}


def splits(folder: Path) -> dict[str, Reader]:
    """The parts of the data set's folder, or of one that holds it."""
    for place in (folder, folder / "CUB_200_2011"):
        if all((place / name).is_file() for name in LISTS):
            return {name: partial(_read, place, part) for name, part in PARTS.items()}
    return {}


def _read(folder: Path, part: str, classes: list[str] | None) -> Listing:
    paths, numbers, names, parts = (_numbered(folder / name) for name in LISTS)
    for told, name in ((numbers, LISTS[1]), (parts, LISTS[3])):
        if missing := next((image for image in paths if image not in told), None):
            raise ValueError(f"{shown(folder / name)}: has no image {missing}, which {LISTS[0]} has")
    rows = [image for image in paths if parts[image] == part]
    if unknown := next((image for image in rows if numbers[image] not in names), None):
        raise ValueError(f"{shown(folder / LISTS[1])}: image {unknown} has class {numbers[unknown]}, which has no name")
    own = [rules.class_name(name) for name in names.values()]
    files = [str(folder / "images" / paths[image]) for image in rows]
    given = [rules.class_name(names[numbers[image]]) for image in rows]
    return Listing(files, *named(given, classes or own, lambda row: shown(files[row])))


def _numbered(path: Path) -> dict[str, str]:
    """The rest of each line by the number that it begins with."""
    found = {}
    for row, line in enumerate(text(path).splitlines(), 1):
        number, _, rest = line.strip().partition(" ")
        if number and not (number.isdecimal() and rest):
            raise ValueError(f"{shown(path)}: row {row}: needs a number and a text, has '{shown(line)}'")
        if number:
            found[number] = rest.strip()
    return found
