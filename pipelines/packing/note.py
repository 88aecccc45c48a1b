"""Beside a shard, in NAME.beton.shard.json: which part it is of which conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from fastmix.reading import read, shown


class Note(NamedTuple):
    """Shard number `shard`, from 0, of `of`: the rows [first, last) of a list of `images` images.

    listed   a hash of that list: names of the files without their folders, labels, and classes
    options  those that decide the bytes
    ways     how many rows were made how, as Packed counts them
    key      a hash of all that the shard's bytes depend on, see journal.key
    """

    shard: int
    of: int
    first: int
    last: int
    images: int
    listed: str
    options: dict = {}
    ways: dict = {}
    key: str = ""

    def dump(self) -> bytes:
        return (json.dumps(self._asdict()) + "\n").encode()


def note_path(path: str | Path) -> Path:
    """Where the note of a shard lies."""
    return Path(f"{path}.shard.json")


def load(path: str | Path) -> Note | None:
    """The note beside a `.beton` file; None where there is none. Raises ValueError for what is no note."""
    file = note_path(path)
    if not file.exists():
        return None
    try:
        note = Note(**json.loads(read(file)))
        if (
            all(type(number) is int for number in note[:5])
            and isinstance(note.options, dict)
            and isinstance(note.ways, dict)
        ):
            return note
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError(f"{shown(file)}: not what convert writes beside a shard; convert this shard again")
