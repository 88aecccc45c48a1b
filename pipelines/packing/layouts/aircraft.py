"""FGVC-Aircraft as it is handed out: fgvc-aircraft-2013b/data/ with images/ and lists of image and class.

Classes are the 100 variants; the parts are its authors' train, val, trainval and test, and, with the 70 families or the
30 manufacturers for classes, for example train-family. Names may hold a slash (F/A-18) and are no folders.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.layouts.listing import Listing, Reader, named
from fastmix.pipelines.packing.layouts.rows import text
from fastmix.reading import shown

PARTS = ("train", "val", "trainval", "test")
KINDS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}


def splits(folder: Path) -> dict[str, Reader]:
    """The parts of the data set's folder, or of its `data`."""
    for place in (folder, folder / "data"):
        if (place / KINDS["variant"]).is_file() and (place / "images").is_dir():
            return {
                part if kind == "variant" else f"{part}-{kind}": partial(_read, place, part, kind)
                for kind in KINDS
                for part in PARTS
                if (place / f"images_{kind}_{part}.txt").is_file()
            }
    return {}


def _read(folder: Path, part: str, kind: str, classes: list[str] | None) -> Listing:
    own = [rules.class_name(line.strip()) for line in text(folder / KINDS[kind]).splitlines() if line.strip()]
    path = folder / f"images_{kind}_{part}.txt"
    pairs = [line.strip().partition(" ") for line in text(path).splitlines() if line.strip()]
    if broken := next((row for row, (_, _, name) in enumerate(pairs, 1) if not name), None):
        raise ValueError(f"{shown(path)}: row {broken}: needs image and {kind}, has '{shown(pairs[broken - 1][0])}'")
    files = [str(folder / "images" / f"{image}.jpg") for image, _, _ in pairs]
    given = [rules.class_name(name.strip()) for _, _, name in pairs]
    return Listing(files, *named(given, classes or own, lambda row: f"{shown(path)}: row {row + 1}"))
