"""A file elsewhere, copied to a path: what breaks off is taken up where it broke off, also by a later run.

Between two runs a copy that broke off lies at the path, and beside it PATH.json with the version it is of and how many
bytes of it are on the disk. A server that names no version is asked for all of the file again by the next run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import IO

from tqdm import tqdm

from fastmix import files, system
from fastmix.pipelines.sources.streams import BLOCK, Failure, Stream, shown, stream

LIMIT = 60.0  # seconds without progress after which a copy fails; FASTMIX_REMOTE_TIMEOUT sets another
PROGRESS = 1024  # bytes that count as such; of a small file fewer
TRIES = 5  # in a row without progress
PAUSE = 0.5  # seconds before the second try; twice that before each further one


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal. (hashlib.file_digest came with Python 3.11.)"""
    with open(path, "rb") as file:
        return _sha256(file).hexdigest()


class Tries:
    """Failures in a row, and the waits between them; `limit`: seconds without progress that are too many.

    at: bytes that are there; `most` were there when there last was progress.
    """

    def __init__(self, at: int = 0):
        self.limit = system.seconds("FASTMIX_REMOTE_TIMEOUT", LIMIT)
        self.most, self.failures, self.last = at, 0, time.monotonic()

    def arrived(self, at: int, size: int | None) -> None:
        """Notes how many bytes, of `size`, are there. Raises Failure where they come too slowly."""
        now, least = time.monotonic(), PROGRESS if size is None else min(PROGRESS, size // 16)
        if at - self.most >= least:
            self.most, self.failures, self.last = at, 0, now
        elif now - self.last > self.limit:
            raise Failure(f"less than {least} bytes in {self.limit:g} s", again=False)

    def again(self, failure: Failure) -> None:
        """Waits for the next try, or raises the failure."""
        self.failures += 1
        pause = PAUSE * 2 ** (self.failures - 1)
        if not failure.again or self.failures >= TRIES or time.monotonic() + pause - self.last > self.limit:
            raise failure
        time.sleep(pause)


class Download:
    """A file elsewhere on its way to `part`; quiet: its progress is not shown.

    begin()   opens it; then `there` says its size and version. Raises Failure with the reason
    close()   ends it where it is not to be copied
    finish()  copies the rest; then `part` is all of it, on the disk. Raises Failure with address and reason where the
              server fails for good, keeping what has arrived; OSError with the path where the disk fails, keeping none
    keep()    leaves what has arrived to the next run
    drop()    removes it
    """

    def __init__(self, url: str, part: Path, quiet: bool = False):
        self.url, self.part, self.quiet = url, part, quiet
        self.note = _note(part)
        self.at, self.version, self.size = self._left()
        self.digest = hashlib.sha256()
        self.tries = Tries(self.at)
        self.there: Stream | None = None

    def begin(self) -> Stream:
        while self.there is None:
            try:
                start = 0 if self.at == self.size else self.at
                self.there = stream(self.url, start, self.version, self.tries.limit)
            except Failure as failure:
                self.tries.again(failure)
        return self.there

    def close(self) -> None:
        if self.there is not None:
            self.there.close()
            self.there = None

    def finish(self) -> tuple[int, str]:
        """Bytes, and their SHA-256 in hexadecimal."""
        try:
            with open(self.part, "r+b" if self.at else "w+b", buffering=0) as target:
                self.digest = _sha256(target)
                silent = self.quiet or None  # None: where nobody looks
                with tqdm(desc=f"copying {self.part.stem}", unit="B", unit_scale=True, disable=silent) as bar:
                    while not self._copy(target, bar):
                        pass
                os.fsync(target.fileno())
        except Failure as failure:
            raise Failure(f"{shown(self.url)}: {failure}{self.keep()}", again=False) from None
        except KeyboardInterrupt:
            self.keep()
            raise
        except OSError as error:
            self.drop()
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(self.part)) from None
        finally:
            self.close()
        self.note.unlink(missing_ok=True)
        return self.at, self.digest.hexdigest()

    def keep(self) -> str:
        """Says that it did, if it did: what has no version cannot be taken up."""
        if not (self.at and self.version):
            self.drop()
            return ""
        try:
            with open(self.part, "rb") as file:
                os.fsync(file.fileno())
            files.write_text(self.note, json.dumps({"at": self.at, "version": self.version, "size": self.size}))
        except OSError:  # no place even for that
            self.drop()
            return ""
        return f"; {self.at:,} bytes are kept, the same command goes on from there"

    def drop(self) -> None:
        drop(self.part)

    def _copy(self, target, bar: tqdm) -> bool:
        """Copies until the stream ends; whether that was the end of the file."""
        try:
            there = self.begin()
            if self._whole(there):
                return True
            self._place(there, target, bar)
            while block := there.read():
                _write(target, block)
                self.digest.update(block)
                self.at += len(block)
                bar.update(len(block))
                self.tries.arrived(self.at, self.size)
            if self.size in (None, self.at):
                return True
            raise Failure(f"{self.at:,} bytes arrived of {self.size:,}", again=True)
        except Failure as failure:
            self.close()
            bar.set_postfix_str(str(failure))
            self.tries.again(failure)
            return False

    def _whole(self, there: Stream) -> bool:
        """Whether an earlier run left all of this version."""
        return bool(self.at and self.version) and (self.at, self.version) == (there.size, there.version)

    def _place(self, there: Stream, target, bar: tqdm) -> None:
        """Sets all to where the stream begins."""
        if there.start != self.at:
            self.at, self.digest = 0, hashlib.sha256()
            target.truncate(0)
        target.seek(self.at)
        if there.version != self.version:
            self.tries.most = 0
        self.version, self.size = there.version, there.size
        bar.total, bar.n = there.size, self.at
        free = shutil.disk_usage(self.part.parent).free
        if there.size and there.size - self.at > free:
            need = f"{(there.size - self.at) / 1e9:.1f} GB more, but there are {free / 1e9:.1f} GB free"
            raise OSError(errno.ENOSPC, f"{shown(self.url)} needs {need}", str(self.part.parent))

    def _left(self) -> tuple[int, str, int | None]:
        """Bytes, version and size of what an earlier run left, if it can be taken up."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            at, version, size = note["at"], note["version"], note["size"]
            if self.part.stat().st_size == at and isinstance(version, str) and version:
                return at, version, size
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return 0, "", None


def drop(part: Path) -> None:
    """Removes what a copy that broke off left."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _sha256(file: IO):
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest


def _write(target, block: bytes) -> None:
    """All of it: a file without a buffer may take a part."""
    view = memoryview(block)
    while view:
        view = view[target.write(view) :]
