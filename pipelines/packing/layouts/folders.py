"""Class folders: SOURCE/<class>/.../<image>, classes being the sorted names, as in torchvision's ImageFolder."""

from __future__ import annotations

import os
from pathlib import Path

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.layouts.listing import SPLITS, Listing, index
from fastmix.pipelines.packing.walk import EXTENSIONS, Walk, is_image, summary
from fastmix.reading import shown


def class_folders(folder: Path) -> dict[str, list[str]]:
    """The class folders in a folder, by class name, sorted: one, or several whose names differ in their encoding."""
    with os.scandir(folder) as entries:
        found = sorted((e.name, e.path) for e in entries if not e.name.startswith(".") and e.is_dir())
    folders: dict[str, list[str]] = {}
    for name, path in found:
        folders.setdefault(rules.class_name(name), []).append(path)
    return dict(sorted(folders.items()))


def perhaps_splits(names: list[str]) -> list[str]:
    """A warning where class names look like the parts of a data set."""
    words = {word for group in SPLITS.values() for word in group}
    splits = [name for name in names if name.lower() in words]
    if len(splits) > 1 or len(splits) == len(names):
        return [f"takes {', '.join(splits)} for classes; if they are splits, give one of them"]
    return []


def read(source: Path, classes: list[str] | None) -> Listing:
    """The images in class folders. Raises ValueError, of one line, or OSError."""
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
    warnings += perhaps_splits(list(found))
    known, files, labels, empty = index(classes or list(found)), [], [], []
    for name, folders in found.items():
        if name not in known:
            raise ValueError(f"{shown(folders[0])}: not one of the {len(known)} given classes")
        if len(folders) > 1:
            warnings.append(
                f"one class '{name}' of {len(folders)} folders whose names differ in their Unicode form only"
            )
        images = [image for folder in folders for image in walk.images(folder, name)]
        empty += [name] * (not images)
        files += images
        labels += [known[name]] * len(images)
    if not files:
        left = f"; passed over: {summary(walk.passed)}" if walk.passed else ""
        raise ValueError(f"{shown(source)}: no images ({' '.join(EXTENSIONS)}) in its class folders{left}")
    if empty:
        more = f" and {len(empty) - rules.NAMED} more" if len(empty) > rules.NAMED else ""
        warnings.append(f"class folders without images: {', '.join(empty[: rules.NAMED])}{more}")
    return Listing(files, labels, classes or list(found), walk.passed, warnings)
