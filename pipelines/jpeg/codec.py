"""simplejpeg, imported when the first JPEG is decoded or written: whatever reads raw pixels, or none, works without."""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def codec() -> ModuleType:
    """The package. Raises ValueError where it is missing."""
    try:
        import simplejpeg
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"JPEGs need the package simplejpeg ({reason}): pip install simplejpeg") from None
    return simplejpeg


def need(source: str, jpegs: bool = True) -> None:
    """Asks for it before any of the source's JPEGs is read, if there are: a missing package is no damaged image."""
    try:
        if jpegs:
            codec()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
