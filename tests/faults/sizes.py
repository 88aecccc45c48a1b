"""Sizes that headers claim: compared before memory is asked for, with limits that are stated and told."""

from __future__ import annotations

import csv
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fastmix.pipelines.packing.format import ALLOCATION, Beton
from faults.harness import Fault
from helpers.conversion import saved, tree
from helpers.sources import beton, folders, of_size, picture, put, sized

TRAIN = "fastmix.train {config} data.train=x.beton data.val=x.beton"
RESIDENT = TRAIN + " data.loader=resident"
VERIFY = "fastmix.convert --verify x.beton"
CONVERT = "fastmix.convert in y.beton --skip-bad"
LIMIT = "500000000"
OTHER = "the JPEG has another size than the"


def recorded(width: int, height: int, sums: bool = False):
    """A packed file whose row 3 has another size in its record."""

    def prepare(folder: Path) -> None:
        path = beton(folder)
        sized(path, 3, width, height)
        if not sums:
            os.remove(f"{path}.sums")

    return prepare


def claims(width: int, height: int):
    """The same with a JPEG whose header claims that size."""

    def prepare(folder: Path) -> None:
        with Beton(beton(folder)) as file:
            put(folder / "x.beton", int(file.offsets[3]), of_size(width, height, file.data(3).tobytes()))
        sized(folder / "x.beton", 3, width, height)
        os.remove(folder / "x.beton.sums")

    return prepare


def with_file(name: str, data: bytes):
    return lambda folder: tree(folders(folder), {f"a/{name}": data})


def left_out(name: str, *reason: str):
    """One image was left out, for this reason."""

    def after(folder: Path, said: str) -> None:
        with open(folder / "y.beton.bad.csv", newline="") as file:
            _, (path, why) = csv.reader(file)
        assert path == f"in/a/{name}" and all(part in why for part in reason), why

    return after


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def converted(name: str, data: bytes, *reason: str) -> Fault:
    return Fault(f"{name} claims too much", with_file(name, data), CONVERT, ("16 images", "1 damaged"), 0,
                 left_out(name, *reason))  # fmt: skip


def large(side: int) -> bytes:
    return saved(Image.new("1", (side, side)), "PNG")


def sparse(folder: Path) -> None:
    away(folders(folder) / "a/9.jpg", folder, 1 << 40)


def away(path: Path, folder: Path, size: int) -> None:
    """Makes a file sparse, and a link to a place outside the folder, which is read as a whole before and after."""
    target = folder.with_name(f"{folder.name} {path.name}")
    if path.exists():
        path.rename(target)
    else:
        target.touch()
    os.truncate(target, size)
    path.symlink_to(target)


def size_of(folder: Path, said: str) -> None:
    with Beton(folder / "y.beton") as file:
        assert (file.heights.max(), file.widths.max()) == (100, 100)


def two_tables(folder: Path) -> None:
    """Rows that a sparse file's size allows, and its bytes do not hold."""
    path = beton(folder)
    put(path, 8, struct.pack("<Q", 1 << 31))
    away(path, folder, 1 << 37)


def swollen(folder: Path) -> None:
    """An allocation as long as the whole file."""
    path = beton(folder)
    with Beton(path) as file:
        count, end = len(file), file.size
    table = end - count * ALLOCATION.itemsize
    put(path, table + 16, struct.pack("<Q", end))


FAULTS = [
    Fault("a record of 65535 x 65535", recorded(65535, 65535), TRAIN, ("x.beton: row 3: an image of more", LIMIT)),
    Fault("a record of 65535 x 65535, verified", recorded(65535, 65535), VERIFY, ("row 3: an image of more", LIMIT)),
    Fault("a record of 65535 x 65535, resident", recorded(65535, 65535), RESIDENT, ("row 3: an image of more", LIMIT)),
    Fault("a record of 20000 x 20000", recorded(20000, 20000), RESIDENT, (f"x.beton: row 3: {OTHER} 20000 x 20000",)),
    Fault("a record of 20000 x 20000, verified", recorded(20000, 20000), VERIFY, (f"row 3: {OTHER} 20000 x 20000",)),
    Fault("a record of 5000 x 5000, resident", recorded(5000, 5000), RESIDENT, (f"row 3: {OTHER} 5000 x 5000",)),
    Fault("a record of 31 x 32", recorded(31, 32), RESIDENT, (f"x.beton: row 3: {OTHER} 31 x 32",)),
    Fault("a record of 31 x 32, with checksums", recorded(31, 32, sums=True), VERIFY,
          ("x.beton: its labels, sizes or offsets are not those",)),
    Fault("a record of 0 x 32", recorded(0, 32), TRAIN, ("x.beton: row 3: an empty image",)),
    Fault("record and JPEG of 65535 x 65535", claims(65535, 65535), TRAIN, ("row 3: an image of more", LIMIT)),
    Fault("record and JPEG of 20000 x 20000", claims(20000, 20000), VERIFY,
          ("row 3: 20000 x 20000 pixels cannot be in a JPEG of",)),
    Fault("images no larger than a border that mirrors them", folders,
          "fastmix.train {config} data.loader=folder data.train=in data.val=in "
          "data.crop=pad data.pad=32 data.pad_mode=reflect",
          ("in/", "32 x 32 pixels, too small for crop 'pad' of 32 with 32 pixels reflected")),
    Fault("a JPEG of 65535 x 65535, resident", with_file("9.jpg", of_size(65535, 65535)),
          "fastmix.train {config} data.loader=resident data.train=in data.val=in",
          ("in/a/9.jpg (row 8): 65535 x 65535 pixels are more than the", LIMIT)),
    Fault("a PNG of 65535 x 65535, resident", with_file("9.png", png(65535, 65535)),
          "fastmix.train {config} data.loader=resident data.train=in data.val=in",
          ("in/a/9.png (row 8): 65535 x 65535 pixels are more than the", LIMIT)),
    Fault("a JPEG of 20000 x 20000, resident", with_file("9.jpg", of_size(20000, 20000)),
          "fastmix.train {config} data.loader=resident data.train=in data.val=in",
          ("in/a/9.jpg (row 8): 20000 x 20000 pixels cannot be in a JPEG of",)),
    converted("9.jpg", of_size(65535, 65535), "65535 x 65535 pixels are more than the", LIMIT),
    converted("8.jpg", of_size(20000, 20000), "20000 x 20000 pixels cannot be in a JPEG of"),
    converted("9.png", png(65535, 65535), "65535 x 65535 pixels are more than the", LIMIT),
    converted("9.ppm", b"P6 60000 60000 255\n" + bytes(100), "60000 x 60000 pixels are more than the", LIMIT),
    converted("9.bmp", saved(np.zeros((4, 4, 3), np.uint8), "BMP").replace(struct.pack("<ii", 4, 4),
              struct.pack("<ii", 60000, 60000)), "60000 x 60000 pixels are more than the", LIMIT),
    Fault("a file of a terabyte", sparse, CONVERT, ("16 images", "1 damaged"), 0,
          left_out("9.jpg", "1099511627776 bytes are more than the")),
    Fault("180 million pixels, reduced", with_file("9.png", large(13450)), CONVERT + " --max-resolution 100",
          ("17 images",), 0, size_of, limit=60),
    Fault("--max-pixels", with_file("9.png", large(100)), CONVERT + " --max-pixels 9999", ("16 images", "1 damaged"), 0,
          left_out("9.png", "100 x 100 pixels are more than the 9999")),
    Fault("--max-pixels, enough", with_file("9.png", large(100)), CONVERT + " --max-pixels 10000", ("17 images",), 0),
    Fault("--max-pixels=0", folders, "fastmix.convert in y.beton --max-pixels 0",
          ("--max-pixels: '0' is not a whole number from 1",)),
    Fault("a number of rows that only a sparse file holds", two_tables, TRAIN, ("x.beton: ",)),
    Fault("an image as long as the file", swollen, TRAIN, ("x.beton: row 0: pointer", "outside the data pages")),
    Fault("a file cut in half", lambda folder: os.truncate(beton(folder), 1 << 23), TRAIN, ("x.beton: truncated",)),
    Fault("a file cut in half, verified", lambda folder: os.truncate(beton(folder), 1 << 23), VERIFY,
          ("x.beton: truncated",)),
    Fault("an empty packed file", lambda folder: (folder / "x.beton").touch(), TRAIN, ("x.beton: not a .beton file",)),
    Fault("a packed file without rows", lambda folder: put(beton(folder), 8, struct.pack("<Q", 0)), TRAIN,
          ("x.beton: has no images",)),
    Fault("a billion drawings", lambda folder: None, "fastmix.train {config} 'data.train=shapes:train?n=1000000000'",
          ("n must be a whole number from 10 to 1,000,000",)),
    Fault("drawings of a million pixels a side", lambda folder: None,
          "fastmix.train {config} 'data.train=shapes:train?size=1000000'", ("size must be", "from 16 to 4,096")),
    Fault("one pixel", lambda folder: tree(folder / "in", {"a/1.png": large(1), "b/2.png": picture(1)}),
          "fastmix.convert in y.beton", ("2 images",), 0),
]  # fmt: skip
