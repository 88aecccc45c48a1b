"""Predictions as a table that is written while they come: CSV, JSON or Parquet, with the same columns.

    path, row, class_1, probability_1, ... class_k, probability_k, reason

What a row has not is empty in CSV, and null elsewhere.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fastmix import files, optional
from fastmix.engine.prediction import Row

Write = Callable[[list[Row]], None]


def columns(top: int) -> dict[str, type]:
    """Names and types of the columns for so many classes a row."""
    best = {f"{what}_{k}": kind for k in range(1, top + 1) for what, kind in (("class", str), ("probability", float))}
    return {"path": str, "row": int, **best, "reason": str}


def record(row: Row, top: int) -> dict:
    """A row by column, None where it has nothing; probabilities to six digits."""
    path = row.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # a name may be any bytes
    best = {}
    for k, (name, share) in enumerate(row.top, 1):
        best |= {f"class_{k}": name, f"probability_{k}": float(f"{share:.6g}")}
    return dict.fromkeys(columns(top)) | {"path": path, "row": row.row, **best, "reason": row.reason or None}


@contextmanager
def table(path: Path | None, top: int) -> Iterator[Write]:
    """A function that writes rows, of `top` classes each, to a file of FORMATS, or as CSV to standard output.

    The file is written whole or not at all. Raises OSError where it cannot be written.
    """
    if path is None:
        with _csv(sys.stdout, top) as write:
            yield write
        return
    with files.whole(path) as part:
        if path.suffix == ".parquet":
            with _parquet(part, top) as write:
                yield write
        else:
            with open(part, "w", encoding="utf-8", newline="") as file, _TEXTS[path.suffix](file, top) as write:
                yield write


def fill(path: Path | None, batches: Iterable[list[Row]], top: int) -> tuple[int, int]:
    """Writes the rows as `table` does; returns how many they are, and how many of them could not be read.

    Raises ValueError where none could; then no file is left.
    """
    images, failed, first = 0, 0, ""
    with table(path, top) as write:
        for rows in batches:
            write(rows)
            images += len(rows)
            for row in rows:
                if row.reason:
                    failed += 1
                    first = first or f"{row.path}{'' if row.row is None else f' (row {row.row})'}: {row.reason}"
        if failed == images:
            raise ValueError(f"none of {images} images could be read; the first is {first}")
    return images, failed


def check(path: Path) -> None:
    """Raises ValueError for a name of no known kind, or where a package is missing for it."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    if path.suffix == ".parquet":
        optional.need(str(path), "pyarrow")


@contextmanager
def _csv(file: TextIO, top: int) -> Iterator[Write]:
    writer = csv.DictWriter(file, list(columns(top)), lineterminator="\n")
    writer.writeheader()

    def write(rows: list[Row]) -> None:
        writer.writerows(record(row, top) for row in rows)
        file.flush()

    yield write


@contextmanager
def _json(file: TextIO, top: int) -> Iterator[Write]:
    """A list of objects, one a line."""
    before = "["

    def write(rows: list[Row]) -> None:
        nonlocal before
        for row in rows:
            file.write(f"{before}\n{json.dumps(record(row, top), ensure_ascii=False)}")
            before = ","

    yield write
    file.write(f"{before.replace(',', '')}\n]\n")


@contextmanager
def _parquet(path: Path, top: int) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns(top).items()])
    with ParquetWriter(path, schema) as writer:
        yield lambda rows: writer.write(pa.Table.from_pylist([record(row, top) for row in rows], schema))


_TEXTS = {".csv": _csv, ".json": _json}
FORMATS = (*_TEXTS, ".parquet")
