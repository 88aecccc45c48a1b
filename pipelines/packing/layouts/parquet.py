"""Parquet files as Hugging Face's datasets have them: a column of images (a struct with `bytes`, perhaps `path`), and
one of class numbers. The class names are in the schema, under "huggingface", where `datasets` wrote the file.

Rows keep the files' order: a row is read with its whole row group, so that only reading in order is fast, and only
`convert`, validation and the loader `resident` do so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from fastmix import optional
from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.labels import class_name
from fastmix.pipelines.packing.layouts.listing import Listing, named, numbered
from fastmix.pipelines.packing.layouts.wnids import wnids_of
from fastmix.reading import reason, shown

ENDING = ".parquet"
IMAGES, LABELS = ("image", "img", "jpg", "png"), ("label", "fine_label", "labels", "cls", "class")
GROUPS = 2  # row groups that are kept in memory


class Cell(NamedTuple):
    """An image in a parquet file: row `row` of row group `group`; `column` holds the images."""

    file: str
    name: str
    group: int
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"

    def load(self) -> bytes:
        """Its bytes. Raises OSError."""
        with _reading:  # what others wait for is the row group that they need too
            cells = _group(self.file, self.group, self.column)
        data = cells[self.row].as_buffer()
        if data is None:
            raise OSError("no bytes in its cell")
        return data.to_pybytes()


_reading = Lock()


@lru_cache(GROUPS)
def _group(file: str, group: int, column: str):
    """A row group's images, as pyarrow's binary array."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            cells = parquet.read_row_group(group, [column], use_threads=False).column(0).combine_chunks()
    except ArrowException as error:
        raise OSError(reason(error)) from error
    return cells.field("bytes") if hasattr(cells, "field") else cells


def read(files: Sequence[Path], classes: list[str] | None) -> Listing:
    """The images of one or several files, in their order. Raises ValueError, of one line, or OSError."""
    optional.need(f"{shown(files[0])}: parquet", "pyarrow")
    cells, labels, own = [], [], None
    for k, path in enumerate(files):
        names = _file(path, cells, labels)
        if k and names != own:
            raise ValueError(f"{shown(path)}: names other classes than {shown(files[0])}")
        own = names

    def where(row: int) -> str:
        return shown(str(cells[row]))

    if labels and isinstance(labels[0], str):
        return Listing(cells, *named([class_name(name) for name in labels], classes, where))
    if secret := [k for k, label in enumerate(labels) if label is None or label < 0]:
        raise ValueError(f"{where(secret[0])}: label {labels[secret[0]]}, as of images whose classes are kept secret")
    own = own and (wnids_of(own) or [class_name(name) for name in own])
    labels, classes = numbered(labels, classes, own, where)
    lines = [line] if classes is None and (line := rules.gaps(labels, None)) else []
    return Listing(cells, labels, classes, (), lines)


def _file(path: Path, cells: list[Cell], labels: list) -> list[str] | None:
    """Appends a file's images and labels; returns the names of its classes."""
    from pyarrow import ArrowException, types
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as parquet:
            schema = parquet.schema_arrow
            image = next((name for name in IMAGES if name in schema.names), None)
            label = next((name for name in LABELS if name in schema.names), None)
            if image is None or label is None:
                told = ", ".join(schema.names)
                raise ValueError(f"{shown(path)}: has the columns {told}; needs one of {IMAGES} and one of {LABELS}")
            kind = schema.field(image).type
            named_too = types.is_struct(kind) and "path" in [kind[k].name for k in range(kind.num_fields)]
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, [label, *([f"{image}.path"] if named_too else [])])
                paths = table.column(image).combine_chunks().field("path").to_pylist() if named_too else []
                for row, value in enumerate(table.column(label).to_pylist()):
                    name = paths[row] if named_too and paths[row] else f"row {len(cells)}"
                    cells.append(Cell(str(path), name.rpartition("/")[2], group, row, image))
                    labels.append(value)
    except ArrowException as error:
        raise ValueError(f"{shown(path)}: not a whole parquet file ({reason(error)})") from None
    return _names(schema, label)


def _names(schema, label: str) -> list[str] | None:
    """The class names that `datasets` writes into a schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None
