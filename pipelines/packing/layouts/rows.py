"""Rows of text files that name images: .csv, .tsv and .txt lists, Tiny-ImageNet's annotations, class names."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

from fastmix.pipelines.packing import labels
from fastmix.reading import read, shown

HEADERS = (
    ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path", "name"),
    ("label", "labels", "class", "class_id", "class_name", "target", "category", "label_id"),
)
"""Words of which a list's first row is no image."""


class Rows(NamedTuple):
    """Paths as they are written, labels as text, and the row numbers in the file `source`."""

    source: Path
    paths: list[str]
    labels: list[str]
    numbers: list[int]

    def where(self, row: int) -> str:
        """File and row, for messages."""
        return f"{shown(self.source)}: row {self.numbers[row]}"


def text(path: Path, errors: str = "strict") -> str:
    """A text file's content. Raises ValueError where it is no UTF-8, or OSError."""
    data = read(path)
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
            raise ValueError("perhaps UTF-16")
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(path)}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise ValueError(f"{shown(path)}: not UTF-8 text ({error})") from None


def listed(path: Path) -> Rows:
    """The rows of a .csv or .tsv list of two columns, path and label. Raises ValueError, or OSError."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = _rows(path, delimiter, "path and label", minimum=2, maximum=2)
    if rows and all(cell.lower() in words for cell, words in zip(rows[0][1], HEADERS, strict=True)):
        rows = rows[1:]
    return _checked(path, rows, "lists no images")


def spaced(path: Path, columns: str = "path and label") -> Rows:
    """The rows of a list whose label is behind a path's last space. Raises ValueError, or OSError."""
    rows, name = [], shown(path)
    for number, line in enumerate(text(path, "surrogateescape").splitlines(), 1):
        cells = line.rsplit(maxsplit=1)
        if len(cells) == 1:
            raise ValueError(f"{name}: row {number}: needs {columns} behind a space, has '{shown(line.strip())}'")
        if cells:
            rows.append((number, [cells[0].strip(), cells[1]]))
    return _checked(path, rows, "lists no images")


def is_spaced(path: Path) -> bool:
    """Whether a list has spaces between its columns: one called .txt, or a .csv (of Places) without a comma."""
    if path.suffix.lower() != ".csv":
        return path.suffix.lower() == ".txt"
    first = text(path, "surrogateescape").lstrip().partition("\n")[0]
    return "," not in first and len(first.split()) > 1


def words(path: Path) -> list[str]:
    """The class names in a text file, one a line. Raises ValueError, or OSError."""
    return [labels.class_name(line.strip()) for line in text(path).splitlines() if line.strip()]


def annotated(path: Path) -> Rows:
    """The rows of Tiny-ImageNet's annotations: file, class, and a box. Raises ValueError, or OSError."""
    return _checked(path, _rows(path, "\t", "file, class and a box", minimum=2), "empty")


def repeats(rows: Rows) -> int:
    """How many rows name a file again, with the same label. Raises ValueError for one with another label."""
    first: dict[str, int] = {}
    for row, path in enumerate(rows.paths):
        above = first.setdefault(path, row)
        if rows.labels[above] != rows.labels[row]:
            raise ValueError(
                f"{rows.where(row)}: {shown(path)} has the label '{shown(rows.labels[row])}', but "
                f"'{shown(rows.labels[above])}' in row {rows.numbers[above]}"
            )
    return len(rows.paths) - len(first)


def again(rows: Rows) -> list[str]:
    """A warning where rows name a file again. Raises ValueError for one with another label."""
    n = repeats(rows)
    return [f"{n} of {len(rows.paths)} rows name a file that a row above names"] if n else []


def _checked(path: Path, rows: list[tuple[int, list[str]]], nothing: str) -> Rows:
    if not rows:
        raise ValueError(f"{shown(path)}: {nothing}")
    found = Rows(path, [cells[0] for _, cells in rows], [cells[1] for _, cells in rows], [line for line, _ in rows])
    for row, label in enumerate(found.labels):
        if not label.isprintable():
            raise ValueError(f"{found.where(row)}: label '{shown(label)}' is no text of one line in UTF-8")
    return found._replace(labels=[labels.class_name(label) for label in found.labels])


def _rows(path: Path, delimiter: str, columns: str, minimum: int, maximum: int | None = None):
    """(line number, stripped cells) of each row that is not blank."""
    reader = csv.reader(io.StringIO(text(path, "surrogateescape"), newline=""), delimiter=delimiter, strict=True)
    rows, name = [], shown(path)
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if len(cells) < minimum or (maximum and len(cells) > maximum) or not all(cells[:minimum]):
                found = shown(delimiter.join(cells))
                raise ValueError(f"{name}: row {reader.line_num}: needs {columns}, has '{found}'")
            rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{name}: row {reader.line_num}: {error}") from None
    return rows
