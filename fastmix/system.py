"""What systems differ in: cores, locks, memory and reading ahead. What one has not, it does without."""

from __future__ import annotations

import math
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def seconds(variable: str, default: float) -> float:
    """A time limit of the environment's, or the default. Raises ValueError."""
    text = os.environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 86400:
        raise ValueError(f"{variable} is {text!r}; it must be seconds, from above 0 to 86400")
    return value


def temporary_folder(name: str) -> Path | None:
    """A folder below the temporary one that is this user's alone, or None: others must not put code or data there."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    try:
        folder = Path(tempfile.gettempdir(), f"fastmix-{name}-{user}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and (user == "" or (found.st_uid == user and not found.st_mode & 0o077))
    return folder if mine else None


def cores() -> int:
    """Cores that this process may use; elsewhere than on Linux, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hold(file: IO, wait: bool = True, shared: bool = False) -> bool:
    """Locks an open file for this process until it is closed; shared: with others that hold it so.

    Returns whether it is locked: not where file system or system know no locks. Raises BlockingIOError where another
    process holds it and this one is not to wait.
    """
    if fcntl is None:
        return False
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def read_at_random(file: int) -> None:
    """Tells the system that nothing is to be read ahead of a descriptor's reads."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)


def read_soon(file: int, start: int, length: int) -> None:
    """Has the system read these bytes into its cache meanwhile."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, start, length, os.POSIX_FADV_WILLNEED)


def resident_memory() -> int:
    """Bytes of this process that lie in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def available_memory() -> int:
    """Bytes that a file's pages could have, without anything being swapped out; or all there are."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
