"""The tables of a `.beton` file elsewhere, without its images: what is where in it, by a few short requests.

    CACHE/remote/<hash of the URL>/tables/NAME.beton   as long as the file, a hole but for tables and the first image
                                          NAME.beton.source.json, .classes.json, .sums   as beside a copy

They are used as long as size and version are those of the server, which is asked once a minute and not by each process
of a machine; and where the server cannot be reached.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmix import files
from fastmix.pipelines.packing import checksums
from fastmix.pipelines.packing.format import COLUMNS, FIELD, HEADER, VERSION, Beton, record
from fastmix.pipelines.sources import cache, remote
from fastmix.pipelines.sources.download import Tries
from fastmix.pipelines.sources.streams import Failure, shown, stream

RECENT = 60.0  # seconds in which the server is not asked again
HEAD = 1 << 16  # bytes of the first request: the header, and often all that stands before the images


class Tables(NamedTuple):
    """url; digest: the SHA-256 that is asked for, or ""; path: the tables; size in bytes and version of the file."""

    url: str
    digest: str
    path: Path
    size: int
    version: str

    def taken(self) -> int:
        """Bytes of the disk that the tables take, with what lies beside them."""
        paths = [self.path, remote.note_path(self.path), *(name(self.path) for name in remote.BESIDE)]
        return sum(path.stat().st_blocks * 512 for path in paths if path.exists())


class Part(NamedTuple):
    """Some bytes of a file elsewhere, and size and version of the whole."""

    data: bytes
    size: int
    version: str


def fetch(source: str) -> Tables:
    """The tables of a URL, which may end in #sha256=<hex>, copied now if need be.

    Raises ValueError for an address that cannot be one and for bytes that are no `.beton`, OSError where they cannot be
    had: the server sends no parts of files, or fails for good.
    """
    url, digest = remote.parse(source)
    path = remote.place(url, "tables")
    with cache.alone(path):
        kept, note = _kept(path), remote.note_path(path)
        if kept and 0 <= time.time() - note.stat().st_mtime < RECENT:
            return Tables(url, digest, path, *kept)
        try:
            head = read(url, 0, HEAD)
            if not kept or (head.size, head.version) != kept:
                _copy(url, path, head)
                kept = head.size, head.version
            with suppress(OSError):  # a cache that may only be read
                os.utime(note)
        except Failure as failure:
            if not kept:
                raise OSError(f"{shown(url)}: {failure}") from None
            sys.stderr.write(f"{shown(url)}: cannot be reached ({failure}); its tables are those of {path}\n")
    return Tables(url, digest, path, *kept)


def read(url: str, start: int, stop: int, version: str = "") -> Part:
    """The bytes [start, stop) of a file elsewhere, fewer where it ends; failed requests are tried again.

    From another byte than 0 on they are those of this version. Raises Failure.
    """
    data, tries = b"", Tries()
    while True:
        try:
            at = start + len(data)
            there = stream(url, at, version, tries.limit, stop)
            try:
                if there.start != at or there.size is None:
                    raise Failure("the server sends no parts of files, or another file by now", again=False)
                size, version, stop = there.size, there.version, min(stop, there.size)
                while start + len(data) < stop and (block := there.read()):
                    data += block
                    tries.arrived(len(data), stop - start)
            finally:
                there.close()
            if start + len(data) >= stop:
                return Part(data[: stop - start], size, version)
            raise Failure(f"{len(data):,} bytes arrived of {stop - start:,}", again=True)
        except Failure as failure:
            tries.again(failure)


def _copy(url: str, path: Path, head: Part) -> None:
    """Writes the tables and what lies beside the file, and looks whether they are whole."""
    remote.note_path(path).unlink(missing_ok=True)
    try:
        with files.whole(path) as part:
            with open(part, "w+b") as file:
                file.truncate(head.size)
                end, table = _places(head.data, head.size)
                file.write(head.data[:end])
                for start, stop in ((len(head.data), end), (table, head.size)):
                    _add(file, url, start, stop, head)
            for name in remote.BESIDE:
                remote.fetch_beside(url, name("").name, name(part))
            with Beton(part) as beton:
                if len(beton):  # by which copies of a file are known
                    start = int(beton.offsets[0])
                    with open(part, "r+b") as file:
                        _add(file, url, start, start + int(beton.sizes[0]), head)
                checksums.load(beton)
            for name in remote.BESIDE:
                name(path).unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    os.replace(name(part), name(path))
        files.write_text(remote.note_path(path), json.dumps({"size": head.size, "version": head.version}))
    except ValueError as error:
        reason = str(error).replace(f"{path}.part", shown(url))
        raise ValueError(f"{reason} (this is what the server sends)") from None
    finally:
        for name in remote.BESIDE:
            remote.drop(name(path.with_name(f"{path.name}.part")))


def _places(head: bytes, size: int) -> tuple[int, int]:
    """Where the rows' records end and the allocation table begins, within the file; of something else its end."""
    header = np.frombuffer(head, HEADER, 1)[0] if len(head) >= HEADER.itemsize else np.zeros(1, HEADER)[0]
    if header["version"] != VERSION:
        return min(len(head), size), size
    count = min(int(header["num_fields"]), (len(head) - HEADER.itemsize) // FIELD.itemsize)
    types = np.frombuffer(head, FIELD, count, HEADER.itemsize)["type"].tolist()
    known = [kind for kind in types if kind in COLUMNS]
    end = HEADER.itemsize + count * FIELD.itemsize + int(header["num_samples"]) * record(known).itemsize
    return min(end, size), min(int(header["table"]) or size, size)


def _add(file, url: str, start: int, stop: int, head: Part) -> None:
    """Copies bytes of the file into their places. Raises Failure where it is another one by now."""
    if start >= stop:
        return
    part = read(url, start, stop, head.version)
    if (part.size, part.version) != (head.size, head.version):
        raise Failure("the file has changed while it was read", again=False)
    file.seek(start)
    file.write(part.data)


def _kept(path: Path) -> tuple[int, str] | None:
    """Size and version of the file that the tables here are of, or None."""
    try:
        note = json.loads(remote.note_path(path).read_text(encoding="utf-8"))
        size, version = note["size"], note["version"]
        return (size, version) if path.stat().st_size == size and isinstance(version, str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
