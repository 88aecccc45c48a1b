"""ReaL: the score against all the labels that apply to an image, "Are we done with ImageNet?" (Beyer et al. 2020).

Their file real.json (https://github.com/google-research/reassessed-imagenet) is a list, in the order of the validation
files' names, of each image's labels; it may be an empty one, and such images do not count.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fastmix.engine.evaluate import Predictions
from fastmix.pipelines.packing.entries import name_of
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.sources.resolve import is_packed, name

AGREEMENT = 0.5
"""Least share of images whose own label is among their new ones; in ImageNet it is nine tenths, by chance 0.1 %."""


def read(path: Path, labels: np.ndarray, source: str | list[str], listing: str | None = None) -> list[set[int]]:
    """The new labels of each row of validation data, with labels int64 [n], that `source` is.

    listing: the folder or list from which a packed file was made; without one its rows are taken to be in the order of
    the file names. Raises ValueError for a file of another form or length, and where the labels contradict the order.
    """
    listing, source = listing or (None if is_packed(source) else source), name(source)
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(given, list) or not all(isinstance(image, list) for image in given):
        raise ValueError(f"{path}: expected a list of lists of labels, one for each validation image")
    if bad := next((k for k, image in enumerate(given) if not all(type(label) is int for label in image)), None):
        raise ValueError(f"{path}: entry {bad} is {given[bad]!r}; labels are whole numbers")
    if len(given) != len(labels):
        raise ValueError(f"{path} is for {len(given)} images, but {source} has {len(labels)}; it must be one for each")
    new = [set(given[k]) for k in (_places(listing, labels, source) if listing else range(len(given)))]
    own = [label in image for label, image in zip(labels.tolist(), new, strict=True) if image]
    if not own:
        raise ValueError(f"{path}: no image in it has a label")
    if np.mean(own) < AGREEMENT:
        raise ValueError(
            f"{path}: only {np.mean(own):.1%} of the images of {source} have their own label in it, so its order is "
            "another: give --names FOLDER, the validation folder (or list) from which the file was made"
        )
    return new


def scores(found: Predictions, new: list[set[int]]) -> dict[str, float]:
    """real_top1, real_top5 (percent; any of the likeliest classes is among the labels) and real_images."""
    rows = [k for k in np.flatnonzero(found.valid) if new[k]]
    hits = np.array([[guess in new[k] for guess in found.top[k].tolist()] for k in rows])
    n = len(rows)
    top1, top5 = (100 * int(hit.sum()) / n for hit in (hits[:, 0], hits.any(1)))
    return {"real_top1": top1, "real_top5": top5, "real_images": n}


def _places(listing: str, labels: np.ndarray, source: str) -> np.ndarray:
    """The place of each row in the order of file names, int64 [n]."""
    files, listed, *_ = scan(listing)
    if list(listed) != labels.tolist():
        raise ValueError(f"{listing} does not list the {len(labels)} images of {source}, in that order")
    names = np.array([name_of(file) for file in files])
    order = names.argsort(kind="stable")
    if (names[order][1:] == names[order][:-1]).any():
        raise ValueError(f"{listing}: two images have the same file name, so the names give no order")
    places = np.empty(len(names), np.int64)
    places[order] = np.arange(len(names))
    return places
