"""Checksums beside a `.beton` file, which has no place for them: NAME.beton.sums.

    header, 32 bytes: "FASTMIXS" | rows uint64 | bytes of the .beton uint64 | index uint32 | version (1) uint32
    one uint32 a row: CRC-32 (zlib's) of the encoded image

Little-endian. `index` is the CRC-32 of the .beton's bytes before the first image (header, fields, sizes, labels) and
after the last one (allocation table).
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from fastmix.pipelines.packing.format import Beton
from fastmix.reading import pread, read, shown

HEADER = np.dtype([("magic", "S8"), ("rows", "<u8"), ("size", "<u8"), ("index", "<u4"), ("version", "<u4")])
MAGIC, VERSION = b"FASTMIXS", 1


def sums_path(path: str | Path) -> Path:
    """Where the checksums of a `.beton` file lie."""
    return Path(f"{path}.sums")


def dump(path: str | Path, first: int, last: int, sums: np.ndarray) -> bytes:
    """The content of a .sums file. path: the whole .beton; its images lie in bytes [first, last). sums: uint32 [N]."""
    with open(path, "rb") as file:
        index = _index(file.fileno(), first, last)
    header = np.array((MAGIC, len(sums), os.path.getsize(path), index, VERSION), HEADER)
    return header.tobytes() + sums.astype("<u4").tobytes()


def load(beton: Beton) -> np.ndarray | None:
    """The checksums uint32 [N] of an open `.beton` file; None where there are none.

    Raises ValueError where they are damaged or belong to another file, and where the file's index is damaged.
    """
    path = sums_path(beton.path)
    if not path.exists():
        return None
    data = read(path)
    header = np.frombuffer(data, HEADER, 1)[0] if len(data) >= HEADER.itemsize else np.zeros(1, HEADER)[0]
    whole = len(data) == HEADER.itemsize + 4 * int(header["rows"])
    if header["magic"] != MAGIC or header["version"] != VERSION or not whole:
        raise ValueError(f"{shown(path)}: no checksums of version {VERSION}, or cut short; remove it or convert again")
    if (header["rows"], header["size"]) != (len(beton), beton.size):
        raise ValueError(f"{shown(path)}: belongs to another file than {beton.name}; remove it or convert again")
    if _index(beton.file, *_images(beton)) != header["index"]:
        raise ValueError(f"{beton.name}: its labels, sizes or offsets are not those that were written; convert again")
    return np.frombuffer(data, "<u4", offset=HEADER.itemsize)


def differs(path: str | Path, tables: Beton) -> str:
    """How a `.beton` file differs from one that is open and may have its tables alone; empty where it does not.

    The tables are compared, and with the checksums beside `tables`, if there are any, the image of each row.
    """
    sums, place = load(tables), _images(tables)
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != tables.size or _index(file.fileno(), *place) != _index(
            tables.file, *place
        ):
            return "its labels, sizes or offsets are others"
        for row, (offset, size) in enumerate(zip(tables.offsets.tolist(), tables.sizes.tolist(), strict=True)):
            if sums is not None and zlib.crc32(pread(file.fileno(), size, offset)) != sums[row]:
                return f"row {row}: its bytes are not those that were written (checksum)"
    return ""


def _images(beton: Beton) -> tuple[int, int]:
    """The bytes from the first image to the end of the last one."""
    if not len(beton):
        return beton.size, beton.size
    return int(beton.offsets.min()), int((beton.offsets + beton.sizes).max())


def _index(file: int, first: int, last: int) -> int:
    """The CRC-32 of an open file without its bytes [first, last)."""
    crc = zlib.crc32(pread(file, first, 0))
    return zlib.crc32(pread(file, max(0, os.fstat(file).st_size - last), last), crc)
