"""Tiny-ImageNet's validation set: SOURCE/images/ with SOURCE/val_annotations.txt.

Where the classes are not given, they are those of the train folders beside SOURCE, else of wnids.txt there, else of
the annotations, always sorted.
"""

from __future__ import annotations

from pathlib import Path

from fastmix.pipelines.packing.layouts.folders import class_folders
from fastmix.pipelines.packing.layouts.listing import Listing, named
from fastmix.pipelines.packing.layouts.rows import Rows, again, annotated, words
from fastmix.pipelines.packing.walk import Walk, is_image

ANNOTATIONS = "val_annotations.txt"


def read(source: Path, classes: list[str] | None) -> Listing:
    """The images that the annotations name. Raises ValueError, of one line, or OSError."""
    rows: Rows = annotated(source / ANNOTATIONS)
    train, wnids = source.parent / "train", source.parent / "wnids.txt"
    if classes is None and train.is_dir():
        classes = list(class_folders(train))
    elif classes is None and wnids.is_file():
        classes = sorted(words(wnids))
    labels, classes = named(rows.labels, classes, rows.where, "classes")
    files = [str(source / "images" / name) for name in rows.paths]
    walk, warnings = Walk(source), again(rows)
    taken = set(rows.paths)
    for entry in walk.entries(source / "images") if (source / "images").is_dir() else ():
        if entry.name not in taken:
            walk.leave(entry, "not in the annotations")
    if left := sum(is_image(file.path) for file in walk.passed if file.why):
        warnings.append(f"{left} images that {ANNOTATIONS} does not name, passed over")
    return Listing(files, labels, classes, walk.passed, warnings)
