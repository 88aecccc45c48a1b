"""What data a run had, as it wrote it down (data.json), and whether that is the data of a published column.

Never by the names of files: a part of a data set often lies under the whole one's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastmix.pipelines.packing.layouts import wnids

FILE = "data.json"


class DataSet(NamedTuple):
    """Images to train and to validate with, and classes."""

    train: int
    val: int
    classes: int


PUBLISHED = {
    "in1k": DataSet(1_281_167, 50_000, 1000),
    "tiny": DataSet(100_000, 10_000, 200),
    "cifar10": DataSet(50_000, 10_000, 10),
    "cifar100": DataSet(50_000, 10_000, 100),
    "cub200": DataSet(5_994, 5_794, 200),
    "aircraft": DataSet(6_667, 3_333, 100),
    "inat2017": DataSet(579_184, 95_986, 5089),
    "inat2018": DataSet(437_513, 24_426, 8142),
    "places205": DataSet(2_448_873, 20_500, 205),
}
"""By the first word of a published table's name."""
PARTS = ("train", "val")
DAMAGED = 1e-3  # share of images that may be missing: a download's damaged ones, left out


def record(train_images: int, val_images: int, names: Sequence[str]) -> str:
    """What a run writes down: how many images, and the class names, as their number and a hash."""
    told = {"train_images": train_images, "val_images": val_images, "classes": len(names), "names": _hash(names)}
    return json.dumps(told) + "\n"


def read(folder: Path) -> dict | None:
    """What is written down in a run folder; None where nothing is, as by older versions."""
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return told if isinstance(told, dict) and {"train_images", "val_images", "classes"} <= told.keys() else None


def differences(told: dict | None, table: str) -> list[str]:
    """In what the data are not those of a published table, in words; [] where they are, or the table is not known.

    Of ImageNet the classes themselves are known; of other data sets their number.
    """
    data = PUBLISHED.get(table.split("_")[0])
    if data is None:
        return []
    if told is None:
        return ["data (not written down)"]
    names = _hash(wnids.synsets()) if data == PUBLISHED["in1k"] else ""
    return _unlike(told, {"names": names, **data._asdict()}, DAMAGED)


def between(told: dict | None, other: dict | None) -> list[str]:
    """In what the data of one run are not those of another, likewise; [] where one of them is not written down."""
    if told is None or other is None:
        return []
    images = {part: other[f"{part}_images"] for part in PARTS}
    return _unlike(told, {"names": other.get("names", ""), "classes": other["classes"], **images}, 0.0)


def _unlike(told: dict, wanted: dict, damaged: float) -> list[str]:
    """damaged: the share of images that may be missing. Names that are numbers alone, or unknown, tell nothing."""
    if told["classes"] != wanted["classes"]:
        return [f"data ({told['classes']} classes, not {wanted['classes']})"]
    found = []
    if "" not in (told.get("names", ""), wanted["names"]) and told["names"] != wanted["names"]:
        found.append("data (other classes, or in another order)")
    for part in PARTS:
        images, right = told[f"{part}_images"], wanted[part]
        if abs(images - right) > damaged * right:
            found.append(f"data ({images:,} {part} images, not {right:,})")
    return found


def _hash(names: Sequence[str]) -> str:
    """Of class names in order; "" where they are numbers alone, which tell nothing."""
    if list(names) == [str(k) for k in range(len(names))]:
        return ""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
