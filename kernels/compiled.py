"""Functions compiled by numba, whose code is kept on the disk where that is possible.

numba keeps it beside the source, else in the user's cache folder ($NUMBA_CACHE_DIR goes before both). Where none of
them can be written, as in a container with an install that is read-only and no home, it raises; here the code then goes
to a folder of this user's below the temporary one, or is not kept. The same where the disk is full. Kept code that is
damaged is compiled anew, and so is all of a package when one of its files changes: numba looks at a function's own file
alone, and would go on with old code of the functions that it calls from others. It has no public way to say so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numba
from numba import njit
from numba.core.caching import FunctionCache
from numba.core.registry import CPUDispatcher

from fastmix.system import temporary_folder


def compiled(**options):
    """A decorator: numba.njit without the interpreter's lock, with these options, kept on the disk."""

    def decorate(function: Callable):
        dispatcher = njit(nogil=True, no_cfunc_wrapper=True, **options)(function)
        if (kept := _kept(function)) is not None:
            file = kept._cache_file
            file._source_stamp = (file._source_stamp, stamp(Path(function.__code__.co_filename)))
            dispatcher._cache = kept  # numba's cache=True puts its own class there, and has no way to choose another
        return dispatcher

    return decorate


def inner(**options):
    """A decorator for functions that compiled ones alone call: a third less to compile, and nothing of them is kept.

    What Python would call them by is left out: there they are plain Python. inline="always": the caller's code begins
    with theirs, which spares LLVM a round; for one level of calls, as numba's own work grows with each.
    A number that stands in a call, put(line, 0), is a type of its own, for which they are compiled once more: hence
    np.int64(0) there.
    """

    def decorate(function: Callable):
        dispatcher = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(function)
        dispatcher.__class__ = Inner
        return dispatcher

    return decorate


class Inner(CPUDispatcher):
    """numba's own calls what was left out, and crashes."""

    def __call__(self, *args, **kwargs):
        return self.py_func(*args, **kwargs)


def stamp(file: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of each file of the package that a file is in; of none for a file that is in no package."""
    folder = file.parent
    while (folder.parent / "__init__.py").exists():
        folder = folder.parent
    return _stamp(folder) if (folder / "__init__.py").exists() else ()


@cache
def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = ((path, path.stat()) for path in sorted(folder.rglob("*.py")))
    return tuple((str(path.relative_to(folder)), of.st_mtime_ns, of.st_size) for path, of in found)


class Kept(FunctionCache):
    """numba's cache of a function, for which it is no fault that its files cannot be read or written."""

    told = False
    temporary = False

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what unpickling damaged bytes may raise is not limited
            self._try(self.flush)
            return None

    def save_overload(self, sig, data):
        self._try(lambda: super(Kept, self).save_overload(sig, data))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
            if self.temporary:
                _say(f"kept in {Path(self.cache_path).parent}")
        except OSError as error:
            _say(f"not kept ({self.cache_path}: {error.strerror})")


def _say(where: str) -> None:
    """Once a process, when something was compiled."""
    if not Kept.told:
        Kept.told = True
        sys.stderr.write(f"fastmix: compiled code is {where}; NUMBA_CACHE_DIR names a folder for it\n")


def _kept(function: Callable) -> Kept | None:
    try:
        return Kept(function)
    except RuntimeError:  # no locator available: nothing can be written
        if not (folder := temporary_folder("compiled")):
            return None
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        kept = Kept(function)
        kept.temporary = True
        return kept
    except RuntimeError:
        return None
    finally:
        numba.config.CACHE_DIR = before
