"""iNaturalist's competitions (2017 to 2021): a .json of images, annotations and categories as COCO has them.

Paths are relative to it. 2017 has 5,089 classes, 2018 8,142. Of the test images no class is told.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.layouts.listing import Listing, Reader, numbered
from fastmix.pipelines.packing.layouts.rows import text
from fastmix.reading import shown

ENDING = ".json"


def splits(folder: Path) -> dict[str, Reader]:
    """The parts of a folder that holds train2018.json, val2018.json and the like, of one year."""
    found = {}
    for part in ("train", "val"):
        years = [path for path in sorted(folder.glob(f"{part}20*.json")) if re.fullmatch(r"\D+\d{4}", path.stem)]
        if len(years) == 1:
            found[part] = partial(read, years[0])
    return found


def read(path: Path, classes: list[str] | None) -> Listing:
    """The images of such a file, in its order. Raises ValueError, of one line, or OSError."""
    try:
        told = json.loads(text(path))
        names = {image["id"]: image["file_name"] for image in told["images"]}
        given = {row["image_id"]: row["category_id"] for row in told["annotations"]}
        own = _names(told.get("categories") or [])
    except (ValueError, KeyError, TypeError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{shown(path)}: not a list of iNaturalist's, with images and annotations: {what}") from None
    if without := [image for image in names if image not in given]:
        raise ValueError(f"{shown(path)}: image {without[0]} has no annotation; of {len(without)} no class is told")
    if own is None:
        raise ValueError(f"{shown(path)}: its categories are not numbered from 0 to their number less one")
    files = [str(path.parent / name) for name in names.values()]
    labels = [given[image] for image in names]
    return Listing(files, *numbered(labels, classes, own or None, lambda row: shown(files[row])))


def _names(categories: list[dict]) -> list[str] | None:
    """The class names, label by label; [] where none are told, None where they are not numbered so.

    Two species may have one name: then their numbers are put behind it.
    """
    names = {category["id"]: rules.class_name(str(category["name"])) for category in categories}
    if sorted(names) != list(range(len(names))):
        return None
    told = [names[k] for k in range(len(names))]
    return (
        [f"{name} ({k})" if told.count(name) > 1 else name for k, name in enumerate(told)]
        if len(set(told)) < len(told)
        else told
    )
