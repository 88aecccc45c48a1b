"""Which files of a folder are images of a data set: each real file once, whatever its name, and no file unseen.

What is not taken is kept with its kind: an ending that is no image's, a name that begins with a dot, a link to a file
that was taken already, a FIFO, a socket, a device (which are never opened). Links are followed, but not in a circle.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastmix.reading import kind, shown

JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif")
EXTENSIONS = (*JPEGS, ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's, and all of JPEG
HIDDEN, REPEATED = "hidden", "repeated"
TOLD = 8  # kinds that a summary names


class Passed(NamedTuple):
    """A file that was not taken, of which kind it is, and what else there is to say."""

    path: str
    kind: str
    why: str = ""

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.kind}" + (f", {self.why}" if self.why else "")


def summary(passed: Sequence[Passed]) -> str:
    """How many were passed over, by kind, the most frequent first: "16 .heic, 1 FIFO"."""
    counts = Counter(file.kind for file in passed).most_common()
    told = ", ".join(f"{n} {shown(what)}" for what, n in counts[:TOLD])
    rest = sum(n for _, n in counts[TOLD:])
    return told + (f", {rest} of {len(counts) - TOLD} other kinds" if rest else "")


def is_image(name: str) -> bool:
    """Whether a file's name has the ending of an image."""
    return name.lower().endswith(EXTENSIONS)


class Walk:
    """Goes through the class folders of `source`.

    passed   what was not taken so far
    """

    def __init__(self, source: Path):
        self.passed: list[Passed] = []
        self._taken: dict[tuple[int, int], tuple[str, str]] = {}  # by device and inode: path, class
        self._walked: dict[tuple[int, int, str], str] = {}  # by device, inode and class: path
        self._above = [_identity(os.stat(folder)) for folder in (source, *source.resolve().parents)]

    def images(self, folder: str, label: str) -> list[str]:
        """The image files below a folder, in the order of torchvision's ImageFolder.

        Raises ValueError for a link that leads back to a folder above it, and for one file under two classes; OSError.
        """
        found, waiting = [], [(folder, self._above)]
        while waiting:
            path, above = waiting.pop()
            here = _identity(os.stat(path))
            if here in above:
                raise ValueError(f"{shown(path)}: a link that leads back to a folder above it; remove it")
            first = self._walked.setdefault((*here, label), path)
            if first != path:  # all of it would be repeated, and links to links grow without bound
                self.passed.append(Passed(path, REPEATED, f"the same folder as {shown(first)}"))
                continue
            below = []
            for entry in self.entries(path):
                if entry.is_dir():
                    below.append((entry.path, [*above, here]))
                elif self._is_image(entry, label):
                    found.append(entry.path)
            waiting += reversed(below)
        return found

    def entries(self, folder: str | Path) -> list[os.DirEntry]:
        """What lies in a folder, sorted by name, but for what is hidden."""
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        self.passed += [Passed(entry.path, HIDDEN) for entry in entries if entry.name.startswith(".")]
        return [entry for entry in entries if not entry.name.startswith(".")]

    def leave(self, entry: os.DirEntry, why: str = "") -> None:
        """Passes over a file that lies where no image is looked for."""
        try:
            what = kind(entry.stat().st_mode)
        except FileNotFoundError:
            what = "link to nothing"
        ending = os.path.splitext(entry.name)[1].lower()
        self.passed.append(Passed(entry.path, what or ending or "without an ending", why))

    def _is_image(self, entry: os.DirEntry, label: str) -> bool:
        if not is_image(entry.name):
            self.leave(entry)
            return False
        try:
            info = entry.stat()
        except FileNotFoundError:
            return True  # a link to nothing, which will be told as an image that cannot be read
        if kind(info.st_mode):
            self.leave(entry)
            return False
        own = entry.path, label
        first, its = self._taken.setdefault(_identity(info), own) if info.st_ino else own  # 0: not told by its system
        if first == entry.path:
            return True
        same = f"the same file as {shown(first)}"
        if its != label:
            raise ValueError(f"{shown(entry.path)}: {same}, which is of another class; remove one of the two")
        self.passed.append(Passed(entry.path, REPEATED, same))
        return False


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
