"""A list of images: .csv or .tsv of two columns, path and label, with or without that header, or .txt with a space
between them. Paths are relative to the list; labels are class names, or class numbers if every one is a number.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastmix.pipelines.packing import labels as rules
from fastmix.pipelines.packing.layouts.listing import Listing, named
from fastmix.pipelines.packing.layouts.rows import again, is_spaced, listed, spaced

ENDINGS = (".csv", ".tsv", ".txt")


def read(source: Path, classes: list[str] | None) -> Listing:
    """The images of a list, in its order. Raises ValueError, of one line, or OSError."""
    rows = (spaced if is_spaced(source) else listed)(source)
    files, warnings = [os.path.join(source.parent, path) for path in rows.paths], again(rows)
    given = sorted(set(rows.labels))
    if not rules.are_numbers(given) or (classes and set(given) <= set(classes)):
        if classes is None and (number := next((label for label in given if rules.are_numbers([label])), None)):
            row = rows.numbers[rows.labels.index(number)]
            warnings.append(f"takes its labels for names, though some are numbers, such as '{number}' in row {row}")
        return Listing(files, *named(rows.labels, classes, rows.where), (), warnings)
    labels = rules.numbers(rows.labels, rows.where)
    rules.check(labels, classes, rows.where)
    if classes is None and (line := rules.gaps(np.array(labels), None)):
        warnings.append(line)
    return Listing(files, labels, classes, (), warnings)
