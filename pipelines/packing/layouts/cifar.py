"""CIFAR-10 and CIFAR-100 as their authors hand them out: the folders of the "python" (pickle) and "binary" versions.

Pixels are 32 x 32, without a file of their own. CIFAR-100 has 100 fine classes, and 20 coarse ones: its parts are train
and test, and with the coarse ones train-coarse and test-coarse. (https://www.cs.toronto.edu/~kriz/cifar.html)
"""

from __future__ import annotations

import io
import pickle
from functools import partial
from pathlib import Path

import numpy as np

from fastmix.pipelines.packing.entries import Pixels
from fastmix.pipelines.packing.labels import class_name
from fastmix.pipelines.packing.layouts.listing import Listing, Reader, numbered
from fastmix.pipelines.packing.layouts.rows import words
from fastmix.reading import read as contents
from fastmix.reading import shown

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
TRAIN10, TEST10 = [f"data_batch_{k}" for k in range(1, 6)], ["test_batch"]
COARSE = "-coarse"


def splits(folder: Path) -> dict[str, Reader]:
    """The parts of one of the four folders."""

    def has(*names: str) -> bool:
        return all((folder / name).is_file() for name in names)

    if has("batches.meta", "test_batch"):
        return {"train": partial(_pickles, folder, TRAIN10, "batches.meta", b"labels", b"label_names"),
                "test": partial(_pickles, folder, TEST10, "batches.meta", b"labels", b"label_names")}  # fmt: skip
    if has("batches.meta.txt", "test_batch.bin"):
        return {"train": partial(_binaries, folder, TRAIN10, "batches.meta.txt", 1, 0),
                "test": partial(_binaries, folder, TEST10, "batches.meta.txt", 1, 0)}  # fmt: skip
    found: dict[str, Reader] = {}
    for part in ("train", "test"):
        for k, kind in enumerate(("coarse", "fine")):
            name = part + COARSE * (kind == "coarse")
            if has("meta", "train", "test"):
                labels, names = f"{kind}_labels".encode(), f"{kind}_label_names".encode()
                found[name] = partial(_pickles, folder, [part], "meta", labels, names)
            elif has("fine_label_names.txt", "train.bin", "test.bin"):
                found[name] = partial(_binaries, folder, [part], f"{kind}_label_names.txt", 2, k)
    return found


def _pickles(
    folder: Path, parts: list[str], meta: str, labels: bytes, names: bytes, classes: list[str] | None
) -> Listing:
    own = [name.decode() for name in _unpickled(folder / meta)[names]]
    batches = [(folder / part, _unpickled(folder / part)) for part in parts]
    try:
        return _listing([(path, np.asarray(batch[b"data"]), batch[labels]) for path, batch in batches], own, classes)
    except KeyError as error:
        raise ValueError(f"{shown(folder)}: a batch without {error}") from None


def _binaries(folder: Path, parts: list[str], names: str, ahead: int, at: int, classes: list[str] | None) -> Listing:
    """Records of `ahead` bytes of labels, of which number `at` counts, and the pixels."""
    batches = []
    for part in parts:
        path = folder / f"{part}.bin"
        data = np.frombuffer(contents(path), np.uint8)
        if len(data) % (ahead + PIXELS):
            raise ValueError(f"{shown(path)}: {len(data)} bytes are no whole number of records of {ahead + PIXELS}")
        records = data.reshape(-1, ahead + PIXELS)
        batches.append((path, records[:, ahead:], records[:, at].tolist()))
    return _listing(batches, words(folder / names), classes)


def _listing(batches: list, own: list[str], classes: list[str] | None) -> Listing:
    files, labels = [], []
    for path, pixels, given in batches:
        if pixels.dtype != np.uint8 or pixels.shape != (len(given), PIXELS):
            raise ValueError(
                f"{shown(path)}: {pixels.dtype} {pixels.shape} where {len(given)} images of 3 x 32 x 32 belong"
            )
        stack = pixels.reshape(-1, *SHAPE)
        files += [Pixels(str(path), row, stack) for row in range(len(given))]
        labels += [int(label) for label in given]
    own = [class_name(name) for name in own]
    return Listing(files, *numbered(labels, classes, own, lambda row: shown(str(files[row]))))


_ARRAYS = {  # what an array's pickle asks for, without numpy's own names for its inner modules
    ("multiarray", "_reconstruct"): np.empty(0, np.uint8).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Arrays(pickle.Unpickler):
    """Reads lists, texts and numpy's arrays, and runs nothing else that a pickle may ask for."""

    def find_class(self, module: str, name: str):
        known = _ARRAYS.get((module.removeprefix("numpy.").removeprefix("_").removeprefix("core."), name))
        if known is not None:
            return known
        raise pickle.UnpicklingError(f"asks for {module}.{name}")


def _unpickled(path: Path) -> dict:
    try:
        found = _Arrays(io.BytesIO(contents(path)), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises whatever it leads to
        raise ValueError(f"{shown(path)}: not one of CIFAR's pickles ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{shown(path)}: not one of CIFAR's pickles (holds no table)")
    return found
