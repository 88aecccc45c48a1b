"""Where data may come from: a path, the address of a file elsewhere, or built-in drawings."""

from __future__ import annotations

from fastmix.pipelines.packing import layouts
from fastmix.pipelines.sources import remote, shapes


def exists(source: str) -> bool:
    """Whether a source is there, as far as can be told without fetching it."""
    return source.startswith(shapes.PREFIX) or remote.is_url(source) or (bool(source) and layouts.exists(source))


def is_packed(source: str) -> bool:
    """Whether a source is one `.beton` file, and not a folder or list of image files."""
    return source.startswith(shapes.PREFIX) or remote.is_url(source) or source.endswith(".beton")


def resolve(source: str) -> str:
    """The local path of a source: of a URL its copy, of "shapes:..." the drawn file. Raises ValueError or OSError."""
    if source.startswith(shapes.PREFIX):
        return shapes.resolve(source)
    return remote.fetch(source) if remote.is_url(source) else source
