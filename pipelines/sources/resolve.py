"""Where data may come from: a path, the address of a file elsewhere, built-in drawings; packed files also several."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from fastmix.pipelines.packing import layouts, series
from fastmix.pipelines.sources import remote, shapes
from fastmix.pipelines.sources.tables import Tables
from fastmix.pipelines.sources.tables import fetch as fetch_tables
from fastmix.reading import shown

PACKED = ".beton"
REQUESTS = 16  # to servers, at a time


def words(source: str | list[str]) -> list[str]:
    """What a source names: itself, or what its list holds; nothing where it is empty."""
    return ([source] if source else []) if isinstance(source, str) else source


def name(source: str | list[str]) -> str:
    """A source as messages show it."""
    every = words(source)
    return shown("".join(every[:1])) + f" and {len(every) - 1} more" * (len(every) > 1)


def exists(source: str) -> bool:
    """Whether a source is there, as far as can be told without fetching it; of a pattern, any of its files."""
    if source.startswith(shapes.PREFIX) or remote.is_url(source):
        return True
    if is_packed(source) and any(map(os.path.exists, series.paths(source))):
        return True
    return bool(source) and layouts.exists(source)


def is_packed(source: str | list[str]) -> bool:
    """Whether a source is `.beton` files, and not a folder or list of image files."""
    every = words(source)
    return bool(every) and all(
        word.startswith(shapes.PREFIX) or remote.is_url(word) or word.endswith(PACKED) for word in every
    )


def packed(source: str | list[str]) -> list[str]:
    """The packed files that a source names, in the order of their rows, which is that of their names: paths, addresses.

    source: a path, a pattern of paths (packing/series.py), an address, which may hold ranges (`{000..127}`), built-in
    drawings, or a list of these. Raises ValueError for a pattern that fits nothing, or not all of a series.
    """
    return series.ordered(file for word in words(source) for file in _files(word))


def resolve(source: str) -> str:
    """The local path of a source: of a URL its copy, of "shapes:..." the drawn file. Raises ValueError or OSError."""
    if source.startswith(shapes.PREFIX):
        return shapes.resolve(source)
    return remote.fetch(source) if remote.is_url(source) else source


def tables(files: list[str]) -> list[Tables]:
    """The tables of files elsewhere, without their images. Raises ValueError or OSError."""
    if here := [file for file in files if not remote.is_url(file)]:
        raise ValueError(f"data.cache_size is for shards elsewhere, and {shown(here[0])} is none: leave it empty")
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(fetch_tables, files))


def _files(word: str) -> list[str]:
    if word.startswith(shapes.PREFIX):
        return [word]
    if remote.is_url(word):
        return series.spread(word)
    found = series.paths(word)
    if not found:
        raise ValueError(f"{shown(word)}: no file fits this pattern")
    if found != series.spread(word):  # wildcards took what is there
        series.check(word, found)
    return found
