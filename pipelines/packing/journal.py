"""What of a conversion is on the disk, so that one that was killed goes on: NAME.part.rows beside NAME.part.

A line of JSON for each block of rows, behind its own checksum, added once the block's bytes are on the disk. The first
line holds the key: what was asked for and what the source was. Another key, and the conversion begins anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from fastmix.pipelines.packing.entries import home

DIGEST = 8  # bytes of a line's checksum


class Row(NamedTuple):
    """A row of the file, as it was written: source is its number in the listing, or, where `bad` says why, it was left
    out and the rest is zero.

    way, why  how it was made, and, where it was encoded anew, of what
    crc       of its data, `size` bytes at byte `at`
    """

    source: int
    way: str = ""
    why: str = ""
    crc: int = 0
    mode: int = 0
    height: int = 0
    width: int = 0
    at: int = 0
    size: int = 0
    label: int = 0
    bad: str = ""


def key(files: list, labels: list[int], classes: list[str] | None, options: dict) -> str:
    """A hash of all that the bytes of a file depend on: sizes and times stand for the contents of the sources."""
    hashed, states = blake2b(digest_size=16), {}
    hashed.update(json.dumps([classes, sorted(options.items())]).encode())
    for file, label in zip(files, labels, strict=True):
        place = home(file)
        if isinstance(file, str) or place not in states:
            state = _state(place)
            states |= {} if isinstance(file, str) else {place: state}
        else:
            state = states[place]
        own = () if isinstance(file, str) else tuple(part for part in file[1:] if isinstance(part, (int, str)))
        hashed.update(repr((place, own, state, label)).encode("utf-8", "surrogateescape"))
    return hashed.hexdigest()


class Journal:
    """The lines on the disk; rows: what an earlier conversion with this key had done."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.rows, good = self._read(key)
        self._file = open(path, "r+b" if path.exists() else "w+b")
        self._file.truncate(good)
        self._file.seek(good)
        if not good:
            try:
                self._add(key)
            except OSError:
                self.close()
                raise

    def add(self, rows: Iterable[Row]) -> None:
        """Rows whose bytes are on the disk."""
        self._add(list(rows))

    def forget(self) -> list[Row]:
        """Begins anew; returns no rows."""
        self.rows = []
        self._file.truncate(0)
        self._file.seek(0)
        self._add(self.key)
        return []

    def close(self) -> None:
        """Ends and removes it: its conversion ended, one way or the other."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _add(self, content) -> None:
        text = json.dumps(content).encode()
        self._file.write(_digest(text) + b" " + text + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, key: str) -> tuple[list[Row], int]:
        """The rows, and up to which byte the file is whole."""
        rows, good = [], 0
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file):
                    digest, _, text = line.partition(b" ")
                    if not line.endswith(b"\n") or digest != _digest(text[:-1]):
                        break
                    content = json.loads(text)
                    if number == 0 and content != key:
                        return [], 0
                    rows += [Row(*row) for row in content] if number else []
                    good += len(line)
        except FileNotFoundError:
            pass
        return rows, good


def _state(path: str) -> tuple[int, int]:
    try:
        info = os.stat(path)
    except OSError:
        return -1, -1  # it will be told as an image that cannot be read
    return info.st_size, info.st_mtime_ns


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=DIGEST).hexdigest().encode()
