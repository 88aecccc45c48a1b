"""Copies of shards elsewhere, of which this machine's disk holds only so many bytes; its processes share them.

    CACHE/shards/<key>-<bytes>.beton        a copy whose bytes are those that arrived, and its note beside it
                 <key>-<bytes>.beton.part   one that is on its way: it counts as if it were there
                 <key>-<bytes>.lock         held together by who reads the copy, alone by who makes or removes it
                 room.lock                  held by who looks for room

key: a hash of a shard's address and version. What is needed last goes first, copies of other data before all, and none
that a process reads. A process that dies leaves no lock.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO

from fastmix import system
from fastmix.pipelines.packing.checksums import differs
from fastmix.pipelines.packing.format import Beton
from fastmix.pipelines.sources import cache, remote
from fastmix.pipelines.sources.download import Download, drop
from fastmix.pipelines.sources.streams import Failure, shown
from fastmix.pipelines.sources.tables import Tables
from fastmix.ranges import as_size
from fastmix.reading import open_regular

MORE = 1 << 14  # bytes that a copy takes besides: its note, and blocks that are not full
ARRIVALS = 3  # of a shard with bytes that are not those that were written, after which it counts as damaged
NAME = re.compile(r"([0-9a-f]{16}-\d+\.beton)(\.part)?")
BUSY, FULL = "another process is at it", "there is no room"


class Copy:
    """An open copy of a shard: `file` is its descriptor. Until it is closed nobody removes it."""

    def __init__(self, path: Path, lock: IO):
        self.file, self.lock = open_regular(path), lock

    def close(self) -> None:
        os.close(self.file)
        self.lock.close()


class Bounded:
    """At most `limit` bytes of copies of these shards: `tables` from the addresses, `betons` those tables opened.

    sizes  bytes that each shard takes
    Raises ValueError where the cache folder knows no locks, or its disk has less room than they may take.
    """

    def __init__(self, tables: list[Tables], betons: list[Beton], limit: int):
        self.tables, self.betons, self.limit = tables, betons, limit
        self.sizes = [table.size + MORE for table in tables]
        self.folder = cache.kept("shards", "room.lock").parent
        self.paths = [self.folder / f"{_key(table)}-{table.size}.beton" for table in tables]
        with cache.alone(self.folder / "room.lock") as locked:
            if not locked:
                raise ValueError(
                    f"{self.folder}: data.cache_size needs file locks; {cache.SETS} on a disk that has them"
                )
            free = shutil.disk_usage(self.folder).free + sum(map(_bytes, self._found()))
        if free < (most := min(limit, sum(self.sizes))):
            raise ValueError(
                f"{self.folder}: copies of shards may take {as_size(most)} by data.cache_size, and the disk has "
                f"{as_size(free)} for them: set less, or FASTMIX_CACHE to a folder on a larger disk"
            )

    def take(self, k: int, need: Callable[[int], float]) -> Copy | str:
        """Shard k, copied now if need be; or BUSY or FULL, after which to try again.

        need(j): how soon shard j is read, a number that is smaller for what is needed sooner. Raises OSError where the
        server or the disk fails, ValueError for another file than the tables are of, and for damaged bytes.
        """
        lock = open(_lock(self.paths[k]), "a")
        try:
            while True:
                system.hold(lock, wait=False, shared=True)
                if remote.kept_note(self.paths[k]):
                    return Copy(self.paths[k], lock)
                system.hold(lock, wait=False)
                if not self._room(k, need):
                    lock.close()
                    return FULL
                self._fetch(k)
        except BlockingIOError:
            lock.close()
            return BUSY
        except BaseException:
            lock.close()
            raise

    def _room(self, k: int, need: Callable[[int], float]) -> bool:
        """Makes room for shard k, and has it counted from now on, whose lock is held; whether that could be done."""
        known = {path: j for j, path in enumerate(self.paths)}
        with cache.alone(self.folder / "room.lock"):
            others = self._found() - {self.paths[k]}
            free = self.limit - sum(map(_bytes, others))
            urgency = {path: need(known[path]) if path in known else math.inf for path in others}
            for path in sorted(urgency, key=urgency.get, reverse=True):
                if free >= self.sizes[k] or urgency[path] <= need(k):
                    break
                free += _bytes(path) * _removed(path)
            if free >= self.sizes[k]:
                _part(self.paths[k]).touch()
            return free >= self.sizes[k]

    def _found(self) -> set[Path]:
        """The copies that are there or on their way, of any data."""
        return {self.folder / name[1] for entry in os.scandir(self.folder) if (name := NAME.fullmatch(entry.name))}

    def _fetch(self, k: int) -> None:
        """Copies a shard whose lock is held, and whose part is there."""
        table, path = self.tables[k], self.paths[k]
        path.unlink(missing_ok=True)  # one that was altered
        for _ in range(ARRIVALS):
            job = Download(table.url, _part(path), quiet=True)
            with closing(job):
                try:
                    there = job.begin()
                except Failure as failure:
                    raise OSError(f"{shown(table.url)}: {failure}") from None
                if there.version != table.version or there.size not in (None, table.size):
                    job.drop()
                    raise ValueError(f"{shown(table.url)}: another file than when the run began; begin or resume anew")
                size, digest = job.finish()
            why = differs(job.part, self.betons[k])
            if table.digest and digest != table.digest:
                why = f"has the SHA-256 {digest}, not the {table.digest} that was asked for"
            if not why:
                os.replace(job.part, path)
                remote.write_note(job, path, size, digest)
                return
            os.truncate(job.part, 0)  # it still counts
        job.drop()
        raise ValueError(f"{shown(table.url)}: {why}; it arrived so {ARRIVALS} times")


def _key(table: Tables) -> str:
    return hashlib.sha256(f"{table.url} {table.version}".encode()).hexdigest()[:16]


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _lock(path: Path) -> Path:
    return path.with_suffix(".lock")


def _bytes(path: Path) -> int:
    """What a copy takes of the disk, as its name says."""
    return int(path.stem.partition("-")[2]) + MORE


def _removed(path: Path) -> bool:
    """Removes a copy, or what there is of one, unless a process reads or makes it; whether it did."""
    with open(_lock(path), "a") as lock:
        try:
            system.hold(lock, wait=False)
        except BlockingIOError:
            return False
        drop(_part(path))
        remote.note_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        return True
