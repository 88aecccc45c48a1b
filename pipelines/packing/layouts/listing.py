"""What a layout gives: the images of a data set with their labels, and which class a name is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.walk import JPEGS, Passed

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
"""What the parts of a data set are called, in folders and in files' names."""


def split_of(words: str) -> str:
    """The part of a data set that a file's name tells: "train", "val", "test", else the name itself."""
    last = re.split(r"[-_.]", words)[-1].lower()
    return next((split for split, group in SPLITS.items() if last in group), words)


class Listing(NamedTuple):
    """Images [N], labels [N] and the class names, label by label (None where labels came as numbers).

    files     paths, or entries of `entries`: where each image lies
    passed    files that lie there too and were not taken
    warnings  lines on what looks odd
    """

    files: list
    labels: list[int]
    classes: list[str] | None
    passed: Sequence[Passed] = ()
    warnings: Sequence[str] = ()

    def paths(self) -> list[str]:
        """The image files. Raises ValueError where images lie in other files."""
        if not all(isinstance(file, str) for file in self.files):
            other = next(file for file in self.files if not isinstance(file, str))
            raise ValueError(f"{other[0]}: images in files of their own are needed here, as in class folders")
        return self.files


Reader = Callable[[list[str] | None], Listing]
"""Reads a layout; takes the class names, where another data set has settled them."""


def with_jpegs(files: Iterable) -> bool:
    """Whether there are JPEGs, by their names."""
    return any(str(file).lower().endswith(JPEGS) for file in files)


def index(classes: list[str]) -> dict[str, int]:
    """The labels, by class name."""
    return {name: k for k, name in enumerate(classes)}


def named(
    names: Sequence[str],
    classes: list[str] | None,
    where: Callable[[int], str],
    what: str = "given classes",
) -> tuple[list[int], list[str]]:
    """Labels and class names of rows whose classes have these names; the classes are the sorted names, or given.

    Raises ValueError, with where(row), for a name that is none of them, which are called `what`.
    """
    classes = classes or sorted(set(names))
    known = index(classes)
    for row, name in enumerate(names):
        if name not in known:
            raise ValueError(f"{where(row)}: '{name}' is not one of the {len(known)} {what}")
    return [known[name] for name in names], classes


def numbered(
    numbers: list[int], classes: list[str] | None, own: list[str] | None, where: Callable[[int], str]
) -> tuple[list[int], list[str] | None]:
    """Labels and class names of rows that have class numbers, 0 to n - 1, whose names are `own` where they are known.

    Names that are given order the classes anew; where there are none of their own, numbers are what they are.
    Raises ValueError, with where(row).
    """
    rules.check(numbers, own or classes, where)
    if own is None or classes is None:
        return numbers, own or classes
    return named([own[k] for k in numbers], classes, where)


def by_class(files: list, labels: list[int], key: Callable[[object], object]) -> tuple[list, list[int]]:
    """Files and labels by label, within one by key(file): the order of class folders."""
    order = sorted(range(len(files)), key=lambda k: (labels[k], key(files[k])))
    return [files[k] for k in order], [labels[k] for k in order]
