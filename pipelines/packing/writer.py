"""Writes a `.beton` file row by row: the same rows give the same bytes, and a half-written file is never seen.

Everything goes to NAME.part, which takes the name only when it is whole and on the disk. The pages are filled in row
order by ffcv's own rule: an image that does not fit into the rest of a page starts the next one. With a journal a
writer takes up what a killed one left (journal.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from zlib import crc32

import numpy as np

from fastmix import system
from fastmix.pipelines.packing import labels
from fastmix.pipelines.packing.checksums import dump, sums_path
from fastmix.pipelines.packing.format import ALLOCATION, FIELD, HEADER, INT, RGB, VERSION, classes_path, record
from fastmix.pipelines.packing.journal import Journal, Row
from fastmix.pipelines.packing.note import Note, note_path
from fastmix.reading import kind, pread, shown

PAGE = 1 << 23  # bytes, ffcv's default
NOTED = 1 << 28  # bytes of rows that a killed writer may lose


class BetonWriter:
    """Use as `with BetonWriter(path, capacity) as writer:`, then add() the rows, finish() and publish().

    capacity is the most rows that may come: it only sets where the data begins. Leaving the block without publish(),
    by an error or otherwise, removes everything that was written. Raises OSError (disk full, no permission) and
    ValueError when another process is writing the same file.

    key: keeps a journal under it, `note` what was added, and begin with what an earlier writer with this key had done:
    `done`, its rows. Such a file is the same, byte for byte.
    """

    def __init__(self, path: str | Path, capacity: int, page_size: int = PAGE, key: str | None = None):
        self.path, self.part = Path(path), _part(path)
        self.page = page_size
        self.meta = np.zeros(capacity, record([RGB, INT]))
        self.table = np.zeros(capacity, ALLOCATION)
        self.rows = 0
        self.fields = np.zeros(2, FIELD)
        self.fields["type"], self.fields["name"] = (RGB, INT), (b"image", b"label")
        self.at = self._page_end(HEADER.itemsize + self.fields.nbytes + self.meta.nbytes)
        self._file = _open_alone(self.part)
        self._files = [self.part]
        self._key, self._journal, self._noted = key, None, self.at
        self.done: list[Row] = []

    def __enter__(self) -> BetonWriter:
        try:
            if self._key:
                self._files.append(Path(f"{self.part}.rows"))
                self._journal = Journal(self._files[-1], self._key)
                self.done = self._taken_up()
            self._file.truncate(self.at if self.done else 0)  # what a killed writer left there would fill the gaps
            self._header(0)  # says "interrupted" to a reader until finish() has run
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def add(self, mode: int, height: int, width: int, data: bytes, label: int) -> int:
        """Appends a row; returns at which byte its data begins. Raises ValueError for an image longer than a page."""
        check_page(len(data), self.page)
        if self.at % self.page + len(data) > self.page:
            self.at = self._page_end(self.at)
        self._file.seek(self.at)
        self._file.write(data)
        self.meta[self.rows] = (mode, width, height, self.at), label
        self.table[self.rows] = self.rows, self.at, len(data)
        self.at += len(data)
        self.rows += 1
        return self.at - len(data)

    def note(self, rows: list[Row]) -> bool:
        """Puts rows that were added, or left out, into the journal, if they are many; returns whether they were."""
        if self.at - self._noted < NOTED:
            return False
        self._noted = self.at
        self._file.flush()
        os.fsync(self._file.fileno())
        self._journal.add(rows)
        return True

    def _taken_up(self) -> list[Row]:
        """The journal's rows, whose bytes are there."""
        rows, size = self._journal.rows, os.fstat(self._file.fileno()).st_size
        written = [row for row in rows if not row.bad]
        last = written[-1:] + [row for row in written if row.at + row.size > size]
        if not written or any(crc32(pread(self._file.fileno(), row.size, row.at)) != row.crc for row in last):
            return self._journal.forget()
        self.rows, self.at = len(written), written[-1].at + written[-1].size
        for k, row in enumerate(written):
            self.meta[k] = (row.mode, row.width, row.height, row.at), row.label
            self.table[k] = k, row.at, row.size
        self._noted = self.at
        return rows

    def finish(self) -> Path:
        """Completes the .part file, waits until it is on the disk and returns its path: readable from now on."""
        end = self._page_end(self.at)
        self._file.seek(end)
        self._file.write(self.table[: self.rows].tobytes())
        self._file.seek(HEADER.itemsize)
        self._file.write(self.fields.tobytes())
        self._file.write(self.meta[: self.rows].tobytes())
        self._header(end)
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.part

    def publish(self, classes: list[str] | None, sums: list[int] | None = None, note: Note | None = None) -> None:
        """Gives the finished file its name, and class names, checksums of the rows and the note theirs beside it.

        Raises ValueError for a label that is none of the classes.
        """
        labels.check(self.meta["f1"][: self.rows], classes, lambda row: f"{shown(self.path)}: row {row}")
        beside = {}
        if sums is not None:
            first = int(self.table["ptr"][0]) if self.rows else self.at
            beside[sums_path(self.path)] = dump(self.part, first, self.at, np.array(sums, np.uint32))
        if classes is not None:
            text = json.dumps(classes, ensure_ascii=False, indent=0) + "\n"
            beside[classes_path(self.path)] = text.encode()
        if note is not None:
            beside[note_path(self.path)] = note.dump()  # last, as it says that all is there
        for path, content in beside.items():
            self._files.append(_part(path))
            write_durably(_part(path), content)
        for path in (note_path(self.path), sums_path(self.path), classes_path(self.path)):
            path.unlink(missing_ok=True)  # never new rows under old names or sums
        os.replace(self.part, self.path)
        for path in beside:
            os.replace(_part(path), path)
        self._files = []

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(self.path)  # "no space left on device": where
        for path in self._files:
            path.unlink(missing_ok=True)
        if self._journal:
            self._journal.close()
        with contextlib.suppress(OSError):  # a full disk fails again when the buffer is flushed
            self._file.close()

    def _page_end(self, at: int) -> int:
        return -(-at // self.page) * self.page

    def _header(self, table: int) -> None:
        self._file.seek(0)
        self._file.write(np.array([(VERSION, 2, self.page, self.rows, table)], HEADER).tobytes())


def _part(path: str | Path) -> Path:
    return Path(f"{path}.part")


def check_page(size: int, page: int = PAGE) -> None:
    """Raises ValueError where `size` bytes do not fit into a page."""
    if size > page:
        raise ValueError(f"{size} bytes do not fit into a page of {page}; see --max-resolution")


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _open_alone(part: Path):
    """Opens the .part file, also one that a killed writer left, never one that another process is writing."""
    while True:
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666), "wb", 1 << 20)
        if found := kind(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, f"a {found}, where a file is to be written", str(part))
        try:
            system.hold(file, wait=False)
        except BlockingIOError:
            file.close()
            raise ValueError(f"{shown(part)}: another process is writing it") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
                return file
        file.close()  # its writer has renamed or removed it meanwhile
