"""What is made or copied once a machine: $FASTMIX_CACHE, else $XDG_CACHE_HOME/fastmix, else ~/.cache/fastmix."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def folder() -> Path:
    """The cache folder; it need not exist."""
    if os.environ.get("FASTMIX_CACHE"):
        return Path(os.environ["FASTMIX_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fastmix")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Of the processes that are to make `path`, one at a time; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
