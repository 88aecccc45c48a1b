"""Files that are written whole or not at all, and torch's files with a checksum, read without running code in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastmix.reading import shown

SEAL = b"\nfastmix sha256 "
"""What stands, with 64 hexadecimal digits and a line's end, behind a file of torch's: of all the bytes before it."""
LENGTH = len(SEAL) + 65
ZIP_BEGIN, ZIP_END, ZIP_TAIL = b"PK\x03\x04", b"PK\x05\x06", 22
"""How a zip file begins, which torch's are, and how its last bytes begin, and their number."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The name of a neighbour to write to, which then gets the path's name; its bytes are on the disk by then.

    Where writing fails, what stood at the path stays, and nothing is left beside it. Raises OSError with the path.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno is None or error.filename == str(path):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def require_folder(path: Path) -> None:
    """Raises ValueError where there is no folder for the file."""
    if not path.parent.is_dir():
        raise ValueError(f"{shown(path)}: there is no folder {shown(path.parent)} to write it to")


def check_free(path: Path, overwrite: bool = False) -> None:
    """Raises ValueError where there is no folder for the file, or where it exists and is not to be replaced."""
    require_folder(path)
    if path.exists() and not (overwrite and path.is_file()):
        raise ValueError(f"{shown(path)}: exists already; remove it or give --overwrite")


def write_bytes(path: Path, content: bytes) -> None:
    with whole(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """The text in UTF-8."""
    write_bytes(path, text.encode())


class Sealed:
    """A file to write to that sums up its bytes, and keeps the error of a write that failed."""

    def __init__(self, file):
        self.file, self.sum, self.error = file, hashlib.sha256(), None

    def write(self, data) -> int:
        self.sum.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_torch(path: Path, content: dict) -> None:
    """torch.save, and behind it the checksum, which torch.load passes over. Raises OSError with the path."""
    import torch

    with whole(path) as part, open(part, "wb") as file:
        sealed = Sealed(file)
        try:
            torch.save(content, sealed)
        except RuntimeError:  # what torch makes of a write that failed
            raise sealed.error or OSError(f"{path}: cannot be written") from None
        file.write(SEAL + sealed.sum.hexdigest().encode() + b"\n")


def read_torch(path: Path) -> dict:
    """What torch.save wrote: tensors on the CPU, loaded with weights_only=True, after the checksum was compared.

    Raises ValueError of one line.
    """
    import torch

    check(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of a damaged or foreign file torch raises anything
        raise ValueError(f"{path}: not a checkpoint, or a damaged one: torch cannot read it") from error


def is_sealed(path: Path) -> bool:
    """Whether a checksum stands behind the file's content."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LENGTH))
        return file.read().startswith(SEAL)


def note(path: Path) -> str:
    """What is said of a checkpoint without a checksum; else nothing."""
    return "" if is_sealed(path) else f"{path}: no checksum in it, as older versions wrote them; taken as it is"


def check(path: Path) -> None:
    """Raises ValueError where no such file is, it is empty, or its content is not what its checksum is of.

    A file of torch's alone, without a checksum, passes if it ends as one; so does one that is no zip file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{path}: an empty file, no checkpoint")
    with open(path, "rb") as file:
        if is_sealed(path):
            sum, left = hashlib.sha256(), size - LENGTH
            while left and (block := file.read(min(left, 1 << 20))):
                sum.update(block)
                left -= len(block)
            if file.read() == SEAL + sum.hexdigest().encode() + b"\n":
                return
        elif file.read(len(ZIP_BEGIN)) != ZIP_BEGIN:
            return
        else:
            file.seek(max(0, size - ZIP_TAIL))
            if file.read().startswith(ZIP_END):
                return
    raise ValueError(f"{path}: damaged: its bytes are not those that were written; take another checkpoint")
