"""Images as a user names them: files, folders, patterns, packed files, and lists of paths from elsewhere."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from fastmix.pipelines.packing import series
from fastmix.pipelines.packing.walk import EXTENSIONS, Walk
from fastmix.pipelines.sources.resolve import exists, is_packed

LISTED = "-"


def named(words: Iterable[str], lines: Iterable[str] = ()) -> list[list[str] | str]:
    """What the words name, in their order: lists of image files, and between them packed files.

    A word is an image file, a folder (the images in it, at any depth), a packed file (.beton, its address, shapes:), a
    pattern of files and folders (`*`, `?`, `[ab]`, and `**` for any depth), or `-`: `lines`, a path on each.

    A path of `lines` need not exist: what cannot be read is told by who reads it. Raises ValueError for a word that
    names nothing.
    """
    parts: list[list[str] | str] = []
    for word in words:
        for path in _lines(lines) if word == LISTED else _word(word):
            if is_packed(path) and exists(path):
                parts.append(path)
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(path)
            else:
                parts.append([path])
    if not parts:
        raise ValueError("no paths on standard input")
    return parts


def _word(word: str) -> list[str]:
    files = series.paths(word) if is_packed(word) else []
    if files and files != [word]:  # each is told by itself, so these need not be a whole series
        return files
    if exists(word):
        return _below(word)
    matched = sorted(glob.glob(word, recursive=True))
    if not matched:
        raise ValueError(f"{word}: no such image, folder or .beton file")
    files = [file for path in matched for file in (_below(path) if os.path.isdir(path) else [path])]
    return list(dict.fromkeys(map(os.path.normpath, files)))  # ** matches a folder and what is in it


def _below(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    found = _images(path)
    if not found:
        raise ValueError(f"{path}: no images in this folder ({' '.join(EXTENSIONS)})")
    return found


def _lines(lines: Iterable[str]) -> list[str]:
    paths = [path for line in lines if (path := line.rstrip("\r\n"))]
    return [file for path in paths for file in (_images(path) if os.path.isdir(path) else [path])]


def _images(folder: str) -> list[str]:
    return Walk(Path(folder).resolve().parent).images(folder, "")
