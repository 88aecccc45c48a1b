"""From the place where a data set lies to its images and labels, in a fixed order: a file a layout.

A place is a folder, a list or an archive; or a data set's own folder with the name of one of its parts behind it, where
it has no folder of that name (`CUB_200_2011/train`); or a pattern of shards (`train-*.tar`).

Labels must mean the same in training and validation: `classes` settles them by another data set's names.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastmix.pipelines.packing.format import read_classes
from fastmix.pipelines.packing.layouts import (
    aircraft,
    cifar,
    cub,
    folders,
    imagenet,
    inaturalist,
    lists,
    places,
    shards,
    tiny_imagenet,
    told_elsewhere,
    wnids,
)
from fastmix.pipelines.packing.layouts.listing import SPLITS, Listing, Reader, with_jpegs
from fastmix.pipelines.packing.layouts.rows import words
from fastmix.reading import shown

IN_PARTS = (cifar, cub, aircraft, inaturalist, places, imagenet, shards)
"""Layouts of a folder that tell by themselves which images are for training: `splits(folder)` reads each part."""

FILES = {ending: lists.read for ending in lists.ENDINGS}
FILES |= {inaturalist.ENDING: inaturalist.read}
FILES |= {ending: lambda path, classes: shards.read([path], classes) for ending in shards.ENDINGS}

__all__ = ["Listing", "exists", "load_classes", "scan", "with_jpegs"]


def scan(source: str | Path, classes: list[str] | None = None) -> Listing:
    """Lists a data set of any layout. classes: the class names, where another data set has settled them.

    Raises ValueError, of one line, for a place without images and for what is broken in a list; OSError.
    """
    listing = _reader(str(source))(classes)
    warnings = list(listing.warnings)
    if len(listing.classes or set(listing.labels)) == 1:
        warnings.append(f"one class only: {(listing.classes or listing.labels)[0]}")
    warnings += wnids.order(listing.classes or [])
    warnings = tuple(f"{shown(source)}: {line}" for line in warnings)
    return listing._replace(passed=tuple(listing.passed), warnings=warnings)


def exists(source: str | Path) -> bool:
    """Whether there is such a place, without a look into its files."""
    path = Path(source)
    return path.exists() or _part(path) is not None or bool(shards.matching(str(source)))


def load_classes(path: str | Path) -> list[str]:
    """Class names in label order: of a .beton file, of the class folders in a folder, or of a text file, one a line.

    Raises ValueError where there are none or where two are equal; OSError.
    """
    path = Path(path)
    if path.suffix == ".beton":
        names = read_classes(path)
    elif path.is_dir():
        names = list(folders.class_folders(path))
    elif path.exists():
        names = words(path)
    else:
        raise ValueError(f"{shown(path)}: no such file to take the classes from")
    if not names:
        raise ValueError(f"{shown(path)}: has no class names")
    if len(set(names)) != len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"{shown(path)}: names the class '{twice}' twice")
    return names


def _reader(source: str) -> Reader:
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.exists() and path.suffix.lower() in FILES:
        return partial(FILES[path.suffix.lower()], path)
    if reader := _part(path):
        return reader
    if path.exists():
        raise ValueError(f"{shown(source)}: neither a folder of images nor a list or archive ({' '.join(FILES)})")
    if found := shards.matching(source):
        return partial(shards.read, found)
    there = _parts(path.parent)
    raise ValueError(
        f"{shown(source)}: no such folder or list{f'; there are {_named(path.parent, there)}' * bool(there)}"
    )


def _folder(path: Path) -> Reader:
    if (path / tiny_imagenet.ANNOTATIONS).is_file():
        return partial(tiny_imagenet.read, path)
    parts = _parts(path)
    if len(parts) == 1 and "" in parts:
        return parts[""]
    if parts:
        raise ValueError(f"{shown(path)}: a data set in parts; give one of {_named(path, parts)}")
    return lambda classes: told_elsewhere.beside_each_other(path, classes) or folders.read(path, classes)


def _part(path: Path) -> Reader | None:
    """The part of a data set that a path's last name names, in any of the words for it."""
    parts = _parts(path.parent)
    same = next((group for group in SPLITS.values() if path.name in group), (path.name,))
    return next((parts[name] for name in (path.name, *same) if name and name in parts), None)


def _parts(folder: Path) -> dict[str, Reader]:
    return next((found for layout in IN_PARTS if folder.is_dir() and (found := layout.splits(folder))), {})


def _named(folder: Path, parts: dict[str, Reader]) -> str:
    return ", ".join(shown(folder / name) for name in parts)
