"""Reading the user's files: regular ones only, whatever their names."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST = 1 << 32  # bytes of a file that is read at once
KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
         stat.S_IFDIR: "folder"}  # fmt: skip


def shown(path: str | Path) -> str:
    r"""A path as one printable line: control characters and bytes that are no UTF-8 are escaped (\\n, \\xe9)."""
    text = str(path)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


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
