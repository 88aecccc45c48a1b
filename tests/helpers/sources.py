"""Small data sets for faults: made in the current case's folder, by functions that take it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastmix.pipelines.packing.format import FIELD, HEADER, INT, RGB, record
from fastmix.pipelines.packing.pack import pack
from fastmix.pipelines.packing.walk import is_image
from helpers.conversion import saved, smooth, tree

SIDE = 32
META = HEADER.itemsize + 2 * FIELD.itemsize  # where a file of our writer has its records
RECORD = record([RGB, INT])


def picture(seed: int, side: int = SIDE, **options) -> bytes:
    """A JPEG."""
    return saved(smooth(side, side, seed=seed), **options)


def folders(folder: Path, classes: str = "ab", n: int = 8, ending: str = "jpg") -> Path:
    """n JPEGs in each of these class folders of `folder`/in."""
    files = {f"{c}/{k}.{ending}": picture(100 * i + k) for i, c in enumerate(classes) for k in range(n)}
    return tree(folder / "in", files)


def beton(folder: Path, name: str = "x.beton", labels: list[int] | None = None, **options) -> Path:
    """16 JPEGs of two classes, without class names, checksums as of convert; labels are then put in by force."""
    from fastmix.pipelines.packing.layouts import Listing

    files = tree(folder / "made", {f"{k}.jpg": picture(k) for k in range(16)})
    names = [str(files / f"{k}.jpg") for k in range(16)]
    pack(Listing(names, [k % 2 for k in range(16)], None), folder / name, workers=1, **options)
    for file in files.iterdir():
        file.unlink()
    files.rmdir()
    if labels is not None:
        os.remove(folder / f"{name}.sums")
        for row, label in enumerate(labels):
            put(folder / name, META + row * RECORD.itemsize + RECORD.fields["f1"][1], struct.pack("<q", label))
    return folder / name


def put(path: Path, at: int, data: bytes) -> None:
    """Overwrites bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def sized(path: Path, row: int, width: int, height: int) -> None:
    """Puts another size into a row's record."""
    put(path, META + row * RECORD.itemsize + 1, struct.pack("<HH", width, height))


def of_size(width: int, height: int, data: bytes | None = None) -> bytes:
    """A JPEG whose header claims this size."""
    data = bytearray(data or picture(0))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def csv_of(*labels: str, n: int = 16) -> Callable[[Path], None]:
    """x.csv with n images; its first labels are these, the others 0 and 1 in turn."""

    def prepare(folder: Path) -> None:
        tree(folder, {f"{k}.jpg": picture(k) for k in range(n)})
        cells = [*labels, *(str(k % 2) for k in range(len(labels), n))]
        (folder / "x.csv").write_text("path,label\n" + "".join(f"{k}.jpg,{cell}\n" for k, cell in enumerate(cells)))

    return prepare


def labels_of(path: Path) -> list[int]:
    from fastmix.pipelines.packing.format import Beton

    with Beton(path) as file:
        return file.labels.tolist()


def count(folder: Path) -> int:
    """Real image files below a folder."""
    paths = [Path(root, name) for root, _, names in os.walk(folder) for name in names if is_image(name)]
    return len({(p.stat().st_dev, p.stat().st_ino) for p in paths})


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
