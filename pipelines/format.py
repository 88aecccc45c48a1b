"""The `.beton` file of the ffcv package (format version 2): its layout and a validated, memory-mapped reader.

    header, 24 bytes | field descriptors, 1041 each | one metadata record a row | padding to a page | data pages |
    allocation table to the end of the file, 24 bytes an entry

Little-endian, absolute file offsets. Pages are a power of two long and no image crosses a page's end. A row's record
holds the image's mode (JPEG or raw pixels), size and offset; its length stands in the allocation table only. The
table's own offset in the header is 0 until a writer has finished.

Class names are no part of the format: they lie beside `NAME.beton` as `NAME.beton.classes.json`, a list of strings.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np

VERSION = 2
JPEG, RAW = 0, 1
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

    Raises ValueError for a file that is no list of distinct names.
    """
    file = classes_path(path)
    if not file.is_file():
        return None
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); write the class names as a list or remove the file") from None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise ValueError(f"{file}: not a list of distinct class names; correct it or remove it")
    return names


class Beton:
    """A `.beton` file with one image field and one label, memory-mapped and checked as a whole when opened.

    Any file of the ffcv package will do: fields in any order and of any name, other fields are passed over. Of several
    image (integer) fields the one called "image" ("label") is taken.

    path     str
    labels   int64 [N]
    heights, widths  int64 [N]  pixels
    modes    uint8 [N]       JPEG (0) or RAW (1): height * width * 3 bytes
    offsets, sizes   int64 [N]  the encoded image's place in the file, in bytes
    classes  list[str] or None  label by label

    Raises FileNotFoundError for a missing file and ValueError, with file and row, for anything that is no finished,
    whole `.beton`. The bytes of the images themselves are not read.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        self.classes = None
        self._bytes = self._map(Path(path))
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.labels)

    def data(self, row: int) -> np.ndarray:
        """The encoded image of a row: uint8 [size], read-only, a view of the file."""
        start = self.offsets[row]
        return self._bytes[start : start + self.sizes[row]]

    def close(self) -> None:
        """Drops the map; views that are still held keep it alive until they go."""
        self._bytes = None

    def __enter__(self) -> Beton:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _map(self, path: Path) -> np.ndarray:
        if path.is_dir():
            raise ValueError(f"{path}: a folder, not a .beton file; pack it with: fastmix convert {path} OUT.beton")
        try:
            with open(path, "rb") as file:
                size = file.seek(0, 2)
                if size < HEADER.itemsize:
                    raise ValueError(f"{path}: not a .beton file: {size} bytes are shorter than its header")
                return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such file") from None

    def _view(self, dtype: np.dtype, offset: int, count: int, what: str) -> np.ndarray:
        if offset + count * dtype.itemsize > len(self._bytes):
            raise ValueError(f"{self.path}: truncated: its {what} reach past the end of the file; write it again")
        return np.frombuffer(self._bytes, dtype, count, offset)

    def _read(self) -> None:
        header = self._view(HEADER, 0, 1, "header")[0]
        page, rows, table = int(header["page_size"]), int(header["num_samples"]), int(header["table"])
        if header["version"] != VERSION or page & (page - 1) or not page or not header["num_fields"]:
            raise ValueError(f"{self.path}: not a .beton file of version {VERSION}")
        if not table:
            raise ValueError(f"{self.path}: its writer was interrupted, the file is not whole; write it again")
        fields = self._view(FIELD, HEADER.itemsize, int(header["num_fields"]), "field descriptors")
        names = [name.decode("ascii", "replace") for name in fields["name"]]
        types = fields["type"].tolist()
        for name, kind in zip(names, types, strict=True):
            if kind not in COLUMNS:
                raise ValueError(f"{self.path}: field '{name}' has the custom type {kind}, which cannot be read")
        start = HEADER.itemsize + fields.nbytes
        meta = self._view(record(types), start, rows, "metadata")
        image = meta[f"f{self._find(names, types, RGB, 'image')}"]
        self.labels = np.ascontiguousarray(meta[f"f{self._find(names, types, INT, 'label')}"], np.int64)
        self.modes = np.ascontiguousarray(image["mode"])
        self.heights, self.widths = image["height"].astype(np.int64), image["width"].astype(np.int64)
        self._locate(image["ptr"].copy(), start + meta.nbytes, table)
        self._check_images()
        self._check_classes()

    def _find(self, names: list[str], types: list[int], kind: int, usual: str) -> int:
        found = [k for k, t in enumerate(types) if t == kind]
        if len(found) > 1:
            found = [k for k in found if names[k] == usual]
        if len(found) != 1:
            what = "RGB image" if kind == RGB else "integer"
            raise ValueError(f"{self.path}: needs one {what} field, or one called '{usual}'; has {', '.join(names)}")
        return found[0]

    def _locate(self, ptr: np.ndarray, first: int, table: int) -> None:
        """Looks every row's pointer up in the allocation table, which must lie inside the data pages."""
        left = len(self._bytes) - table
        if left < 0 or left % ALLOCATION.itemsize or table < first:
            raise ValueError(f"{self.path}: truncated: no whole allocation table at byte {table}; write it again")
        entries = self._view(ALLOCATION, table, left // ALLOCATION.itemsize, "allocation table")
        entries = entries[np.lexsort((entries["size"], entries["ptr"]))]
        outside = (entries["ptr"] < first) | (entries["size"] > table) | (entries["ptr"] > table - entries["size"])
        if outside.any():
            entry = entries[outside.argmax()]
            raise ValueError(
                f"{self.path}: row {entry['sample']}: pointer {entry['ptr']} (+{entry['size']} bytes) lies outside "
                f"the data pages [{first}, {table}); write it again"
            )
        # The last of equal pointers: an empty allocation may share its pointer with the next one.
        place = np.searchsorted(entries["ptr"], ptr, "right") - 1
        missing = place < 0
        missing |= entries["ptr"][place] != ptr if len(entries) else True
        if missing.any():
            row = int(missing.argmax())
            raise ValueError(f"{self.path}: row {row}: pointer {ptr[row]} is not in the allocation table (truncated?)")
        self.offsets, self.sizes = ptr.astype(np.int64), entries["size"][place].astype(np.int64)

    def _check_images(self) -> None:
        pixels = self.heights * self.widths * 3
        for bad, what in [
            (self.modes > RAW, "an image mode that is neither JPEG nor raw"),
            ((pixels == 0) | (self.sizes == 0), "an empty image"),
            ((self.modes == RAW) & (self.sizes != pixels), "raw pixels of another length than height * width * 3"),
        ]:
            if bad.any():
                raise ValueError(f"{self.path}: row {int(bad.argmax())}: {what}; write the file again")

    def _check_classes(self) -> None:
        self.classes = read_classes(self.path)
        if self.classes is not None and len(self) and self.labels.max() >= len(self.classes):
            row = int(self.labels.argmax())
            raise ValueError(
                f"{classes_path(self.path)}: names {len(self.classes)} classes but row {row} has label "
                f"{self.labels[row]}; correct it or remove it"
            )
