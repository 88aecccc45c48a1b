"""The `.beton` file of the ffcv package (format version 2): its layout and a validated reader.

    header, 24 bytes | field descriptors, 1041 each | one metadata record a row | padding to a page | data pages |
    allocation table to the end of the file, 24 bytes an entry

Little-endian, absolute file offsets. Pages are a power of two long and no image crosses a page's end. A row's record
holds the image's mode (JPEG or raw pixels), size and offset; its length stands in the allocation table only. The
table's own offset in the header is 0 until a writer has finished.

Class names are no part of the format: they lie beside `NAME.beton` as `NAME.beton.classes.json`, a list of strings.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastmix.pipelines.jpeg.limits import MAX_PIXELS
from fastmix.pipelines.packing import labels
from fastmix.reading import open_regular, pread, read, shown

VERSION = 2
JPEG, RAW = 0, 1
BLOCK = 1 << 15  # rows read at a time
FLOAT, INT, RGB = 0, 1, 2  # field types; the others are listed in COLUMNS

HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("table", "<u8")]
)
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "u1", 1024)])
ALLOCATION = np.dtype([("sample", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")])
_RANGE = np.dtype([("ptr", "<u8"), ("size", "<u8")])
# float, int, RGB image, bytes, array, JSON, tensor
COLUMNS = {FLOAT: "<f8", INT: "<i8", RGB: IMAGE, 3: _RANGE, 4: "<u8", 5: _RANGE, 6: "<u8"}


def record(types: list[int]) -> np.dtype:
    """The metadata record of these field types: columns f0, f1, ..., C alignment, structs packed."""
    return np.dtype([(f"f{k}", COLUMNS[t]) for k, t in enumerate(types)], align=True)


def classes_path(path: str | Path) -> Path:
    """Where the class names of a `.beton` file lie."""
    return Path(f"{path}.classes.json")


def read_classes(path: str | Path) -> list[str] | None:
    """The class names beside a `.beton` file, label by label; None where there are none.

    Raises ValueError for a file that is no list of distinct names, or OSError.
    """
    file = classes_path(path)
    if not file.exists():
        return None
    data = read(file)
    try:
        names = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        what = f"{shown(file)}: not JSON ({error})"
        raise ValueError(f"{what}; write the class names as a list or remove the file") from None
    if isinstance(names, list) and 0 < len(names) <= labels.MOST and all(isinstance(name, str) for name in names):
        names = [labels.class_name(name) for name in names]
        if len(set(names)) == len(names):
            return names
    what = f"not a list of distinct class names, from 1 to {labels.MOST} of them"
    raise ValueError(f"{shown(file)}: {what}; correct it or remove it")


def extent(file: int, offset: int, size: int) -> np.ndarray:
    """A part of an open file: uint8 [size], read-only. Raises OSError, and ValueError where the file ends too early."""
    data = np.frombuffer(pread(file, size, offset), np.uint8)
    if len(data) < size:
        raise ValueError(f"truncated: the file ends {size - len(data)} bytes before the image does")
    return data


class Beton:
    """A `.beton` file with one image field and one label, checked as a whole when opened.

    Any file of the ffcv package will do: fields in any order and of any name, other fields are passed over. Of several
    image (integer) fields the one called "image" ("label") is taken.

    path, name  str          name: the path as messages show it
    file     descriptor of the open file
    size     bytes of the file
    labels   int64 [N]
    heights, widths  int32 [N]  pixels
    modes    uint8 [N]       JPEG (0) or RAW (1): height * width * 3 bytes
    offsets, sizes   int64 [N]  the encoded image's place in the file, in bytes
    classes  list[str] or None  label by label
    warnings list[str]       lines on what looks odd

    Raises FileNotFoundError for a missing file and ValueError, with file and row, for anything that is no finished,
    whole `.beton`: labels are 0 .. classes - 1 too. The bytes of the images themselves are not read. It takes 34 bytes
    of memory a row.
    """

    def __init__(self, path: str | Path):
        self.path, self.name = str(path), shown(path)
        self.classes = None
        self.file = self._open(Path(path))
        self.size = os.fstat(self.file).st_size
        self._closer = weakref.finalize(self, os.close, self.file)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.labels)

    def data(self, row: int) -> np.ndarray:
        """The encoded image of a row: uint8 [size], read-only. Raises OSError, or ValueError for a file cut short."""
        return extent(self.file, int(self.offsets[row]), int(self.sizes[row]))

    def where(self, row: int) -> str:
        """File and row, for messages."""
        return f"{self.name}: row {row}"

    def close(self) -> None:
        """Closes the file."""
        self._closer()

    def __enter__(self) -> Beton:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @staticmethod
    def _open(path: Path) -> int:
        if path.is_dir():
            name = shown(path)
            raise ValueError(f"{name}: a folder, not a .beton file; pack it with: fastmix convert {name} OUT.beton")
        try:
            return open_regular(path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{shown(path)}: no such file") from None

    def _blocks(self, dtype: np.dtype, offset: int, count: int, what: str) -> Iterator[tuple[slice, np.ndarray]]:
        """The array [count] that stands at `offset`, in parts, so that all of it never takes memory at once."""
        if offset + count * dtype.itemsize > self.size:
            raise ValueError(f"{self.name}: truncated: its {what} reach past the end of the file; write it again")
        return (self._block(dtype, offset, first, min(BLOCK, count - first)) for first in range(0, count, BLOCK))

    def _block(self, dtype: np.dtype, offset: int, first: int, n: int) -> tuple[slice, np.ndarray]:
        data = pread(self.file, n * dtype.itemsize, offset + first * dtype.itemsize)
        if len(data) < n * dtype.itemsize:
            raise ValueError(f"{self.name}: truncated while it was being opened; write it again")
        return slice(first, first + n), np.frombuffer(data, dtype, n)

    def _read(self) -> None:
        if self.size < HEADER.itemsize:
            raise ValueError(f"{self.name}: not a .beton file: {self.size} bytes are shorter than its header")
        ((_, (header,)),) = self._blocks(HEADER, 0, 1, "header")
        page, rows, table = int(header["page_size"]), int(header["num_samples"]), int(header["table"])
        if header["version"] != VERSION or page & (page - 1) or not page or not header["num_fields"]:
            raise ValueError(f"{self.name}: not a .beton file of version {VERSION}")
        if not table:
            raise ValueError(f"{self.name}: its writer was interrupted, the file is not whole; write it again")
        described = self._blocks(FIELD, HEADER.itemsize, int(header["num_fields"]), "field descriptors")
        fields = np.concatenate([block for _, block in described])
        names = [name.decode("ascii", "replace") for name in fields["name"]]
        types = fields["type"].tolist()
        for name, kind in zip(names, types, strict=True):
            if kind not in COLUMNS:
                what = f"field '{shown(name)}' has the custom type {kind}"
                raise ValueError(f"{self.name}: {what}, which cannot be read")
        start, meta = HEADER.itemsize + fields.nbytes, record(types)
        image, label = f"f{self._find(names, types, RGB, 'image')}", f"f{self._find(names, types, INT, 'label')}"
        blocks = self._blocks(meta, start, rows, "metadata")
        try:
            self.labels, self.modes = np.empty(rows, np.int64), np.empty(rows, np.uint8)
            self.heights, self.widths = np.empty(rows, np.int32), np.empty(rows, np.int32)
            self.offsets = np.empty(rows, np.int64)
        except MemoryError:
            raise ValueError(
                f"{self.name}: there is no memory for {rows} rows; if it has less, write it again"
            ) from None
        for part, block in blocks:
            self._check_images(part.start, block[image])
            self.labels[part], self.modes[part] = block[label], block[image]["mode"]
            self.heights[part], self.widths[part] = block[image]["height"], block[image]["width"]
            self.offsets[part] = block[image]["ptr"].view(np.int64)
        self._locate(start + rows * meta.itemsize, table)
        self._check_sizes()
        self._check_labels()

    def _find(self, names: list[str], types: list[int], kind: int, usual: str) -> int:
        found = [k for k, t in enumerate(types) if t == kind]
        if len(found) > 1:
            found = [k for k in found if names[k] == usual]
        if len(found) != 1:
            what = "RGB image" if kind == RGB else "integer"
            has = shown(", ".join(names))
            raise ValueError(f"{self.name}: needs one {what} field, or one called '{usual}'; has {has}")
        return found[0]

    def _locate(self, first: int, table: int) -> None:
        """Looks every row's pointer up in the allocation table, which must lie inside the data pages."""
        left = self.size - table
        if left < 0 or left % ALLOCATION.itemsize or table < first:
            raise ValueError(f"{self.name}: truncated: no whole allocation table at byte {table}; write it again")
        count = left // ALLOCATION.itemsize
        ptr, size = np.empty(count, np.uint64), np.empty(count, np.uint64)
        for part, block in self._blocks(ALLOCATION, table, count, "allocation table"):
            ptr[part], size[part] = block["ptr"], block["size"]
            outside = (block["ptr"] < first) | (block["size"] > table) | (block["ptr"] > table - block["size"])
            if outside.any():
                entry = block[outside.argmax()]
                raise ValueError(
                    f"{self.name}: row {entry['sample']}: pointer {entry['ptr']} (+{entry['size']} bytes) lies outside "
                    f"the data pages [{first}, {table}); write it again"
                )
        wanted = self.offsets.view(np.uint64)
        if np.array_equal(ptr, wanted):  # as most writers leave it: an entry a row, in order
            self.sizes = size.view(np.int64)
            return
        order = np.argsort(ptr)
        if (ptr[order[1:]] == ptr[order[:-1]]).any():
            order = np.lexsort((size, ptr))
        ptr, size = ptr[order], size[order]
        # The last of equal pointers: an empty allocation may share its pointer with the next one.
        order, place = np.argsort(wanted), np.empty(len(wanted), np.int64)
        place[order] = np.searchsorted(ptr, wanted[order], "right") - 1  # far fewer cache misses than out of order
        missing = place < 0
        missing |= ptr[place] != wanted if count else True
        if missing.any():
            row = int(missing.argmax())
            raise ValueError(
                f"{self.name}: row {row}: pointer {wanted[row]} is not in the allocation table (truncated?)"
            )
        self.sizes = size[place].view(np.int64)

    def _check_images(self, first: int, images: np.ndarray) -> None:
        """Of a block of records that begins with row `first`: at once, as a file may claim any number of rows."""
        pixels = images["height"].astype(np.int64) * images["width"]
        self._refuse(first, images["mode"] > RAW, "an image mode that is neither JPEG nor raw")
        self._refuse(first, pixels == 0, "an empty image")
        self._refuse(first, pixels > MAX_PIXELS, f"an image of more than the {MAX_PIXELS} pixels that can be read")

    def _check_sizes(self) -> None:
        pixels = self.heights.astype(np.int64)
        pixels *= self.widths
        pixels *= 3
        self._refuse(0, self.sizes == 0, "an empty image")
        raw = (self.modes == RAW) & (self.sizes != pixels)
        self._refuse(0, raw, "raw pixels of another length than height * width * 3")

    def _refuse(self, first: int, bad: np.ndarray, what: str) -> None:
        if bad.any():
            raise ValueError(f"{self.where(first + int(bad.argmax()))}: {what}; write the file again")

    def _check_labels(self) -> None:
        self.classes = read_classes(self.path)
        labels.check(self.labels, self.classes, self.where)
        gaps = labels.gaps(self.labels, None) if self.classes is None else ""
        self.warnings = [f"{self.name}: {gaps}"] if gaps else []
