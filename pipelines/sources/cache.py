"""What is made or copied once a machine: $FASTMIX_CACHE, else $XDG_CACHE_HOME/fastmix, else ~/.cache/fastmix."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fastmix import system

PATIENCE = 5.0  # seconds of waiting before it is said
SETS = "set FASTMIX_CACHE to a folder that can be written"


def folder() -> Path:
    """The cache folder; it need not exist. Raises ValueError where nothing says which it is."""
    if os.environ.get("FASTMIX_CACHE"):
        return Path(os.path.expanduser(os.environ["FASTMIX_CACHE"]))
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fastmix")
    except RuntimeError:  # neither $HOME nor an entry of the user
        raise ValueError(f"there is no home folder to keep data in: {SETS}") from None


def kept(*names: str) -> Path:
    """The path of something kept in the cache folder.

    Where nobody has said which that is, and it cannot be written, a temporary folder has to do. Raises ValueError where
    that cannot be had either.
    """
    try:
        path = folder().joinpath(*names)
        if os.environ.get("FASTMIX_CACHE") or path.exists() or _writable(path.parent):
            return path
    except ValueError:
        pass
    if (temporary := system.temporary_folder("cache")) is None:
        raise ValueError(f"there is no folder to keep data in: {SETS}")
    return temporary.joinpath(*names)


def _writable(path: Path) -> bool:
    """Whether a folder is there, or can be made, and files in it."""
    above = next(folder for folder in (path, *path.parents) if folder.exists())
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Of the processes that are to make `path`, one at a time; its folder is made.

    Yields whether that is so: not on a file system without locks. Nor in a folder that may only be read, which will do
    if the path is there. Raises OSError where it is not.
    """
    lock = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_suffix(".lock"), "w")
    except OSError as error:
        if not path.exists():
            raise OSError(f"{path.parent}: {error.strerror}; {SETS}") from None
    if lock is None:
        yield False
        return
    with lock:
        yield _hold(lock, path)


def _hold(lock: IO, path: Path) -> bool:
    """Locks it; says what it waits for where that takes long."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            return system.hold(lock, wait=False)
        except BlockingIOError:
            time.sleep(0.05)
    sys.stderr.write(f"waiting for another process that makes {path}\n")
    return system.hold(lock)
