"""Files that are written whole or not at all, and torch's files read without running code from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The name of a neighbour to write to, which then gets the path's name; its bytes are on the disk by then.

    Where writing fails, what stood at the path stays, and nothing is left beside it.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_free(path: Path, overwrite: bool = False) -> None:
    """Raises ValueError where there is no folder for the file, or where it exists and is not to be replaced."""
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent} to write it to")
    if path.exists() and not (overwrite and path.is_file()):
        raise ValueError(f"{path}: exists already; remove it or give --overwrite")


def write_text(path: Path, text: str) -> None:
    """The text in UTF-8."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_torch(path: Path, content: dict) -> None:
    """torch.save."""
    import torch

    with whole(path) as part, open(part, "wb") as file:
        torch.save(content, file)


def read_torch(path: Path) -> dict:
    """What torch.save wrote: tensors on the CPU, loaded with weights_only=True. Raises ValueError of one line."""
    import pickle
    import zipfile

    import torch

    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from None
