"""Functions compiled by numba and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastmix.kernels import compiled as kernels

SOURCES = sorted(Path(__file__).parent.parent.rglob("*.py"))
STAMP = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in SOURCES)


def compiled(function: Callable) -> Callable:
    """numba.njit without the interpreter's lock; the code is kept on disk until any file of pipelines/ changes.

    numba looks at the function's own file alone, and would go on with old code of the functions that it calls from
    others. It has no public way to say so.
    """
    dispatcher = kernels.compiled()(function)
    kept = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if kept is not None:
        kept._source_stamp = (kept._source_stamp, STAMP)
    return dispatcher
