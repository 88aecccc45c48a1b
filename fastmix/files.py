"""Files that are written whole or not at all, and read as data: regular ones only, and none that brings code along."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST = 1 << 32  # bytes of a file that is read at once
KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
         stat.S_IFDIR: "folder"}  # fmt: skip


def shown(path: str | Path) -> str:
    r"""A path as one printable line: control characters and bytes that are no UTF-8 are escaped (\\n, \\xe9)."""
    return "".join(c if c.isprintable() else _escaped(c) for c in str(path))


def _escaped(c: str) -> str:
    code = ord(c)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else c.encode("unicode_escape").decode("ascii")


def reason(error: Exception) -> str:
    """Why a file could not be had, in one line and without its path."""
    return (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split()) or type(error).__name__


def kind(mode: int) -> str | None:
    """What a file is that is no regular one, by its mode: "FIFO", "folder", ...; None for a regular file."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "special file")


def open_regular(path: str | Path) -> int:
    """A descriptor of a regular file, to read from.

    Nothing else is opened: a FIFO would wait for ever, and a device may do anything. Raises OSError.
    """
    found = kind(os.stat(path).st_mode)
    if found is None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # should another be there by now
        found = kind(os.fstat(file).st_mode)
        if found is None:
            return file
        os.close(file)
    raise OSError(errno.EINVAL, f"a {found}, where a file is needed", str(path))


def read(path: str | Path, most: int = MOST) -> bytes:
    """The bytes of a regular file. Raises OSError, also for one of more than `most` bytes."""
    with open(open_regular(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size} bytes are more than the {most} that can be read", str(path))
        return file.readall()


def pread(file: int, size: int, at: int) -> bytes:
    """Up to `size` bytes of an open file from byte `at` on: fewer only where it ends. Raises OSError."""
    data = os.pread(file, size, at)
    while len(data) < size and (more := os.pread(file, size - len(data), at + len(data))):
        data += more
    return data


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
