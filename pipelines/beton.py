"""The `beton` loader: rows of a packed file, or of several as one."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from fastmix import system
from fastmix.pipelines import sampling
from fastmix.pipelines.chunk import Extents, Located, Record, located
from fastmix.pipelines.jpeg.codec import need
from fastmix.pipelines.nvjpeg import Jpegs
from fastmix.pipelines.packing.format import RAW
from fastmix.pipelines.packing.labels import names
from fastmix.pipelines.packing.shards import Shards
from fastmix.pipelines.sources.resolve import packed, resolve

OS_CACHES = ("auto", "memory", "disk")
SHARE = 0.8  # of the available memory, that a file may have to be kept in it


class Beton(Jpegs):
    """Reads a `.beton` file, its JPEGs or raw pixels; or built-in data, "shapes:train" and "shapes:val".

    A pattern or list of such files is one data set: its batches are, bit for bit, those of one file with the same rows.
    Records are read, not mapped into memory: a file that is cut short, or a disk that fails, is an error, no crash.

    machines  on how many the processes of training run: of several, each shows the images of its own shards alone, the
              k-th, of m, of shards k, k + m, ... in the order that the epoch has them in. With 1, all of all shards
    os_cache  "memory": the file is left to the system's cache, which keeps all of it once it was read
              "disk": it is larger than memory: nothing is read ahead but what is announced, record by record
              "auto": disk for a file larger than 80 % of the available memory
    """

    def __init__(self, source: str | list[str], batch: int, *, os_cache: str = "auto", machines: int = 1, **options):
        if os_cache not in OS_CACHES:
            raise ValueError(f"os_cache is {os_cache!r}; choose one of {', '.join(OS_CACHES)}")
        self.os_cache, self.machines = os_cache, machines
        super().__init__(source, batch, **options)
        if machines > 1:
            self._require_machines()

    def open(self) -> None:
        super().open()
        self.file = Shards([resolve(file) for file in packed(self.given)])
        need(self.source, (self.file.modes != RAW).any())
        self.labels = self.file.labels
        self.class_names, self.warnings = names(self.labels, self.file.classes), self.file.warnings
        if self.os_cache == "auto":
            self.os_cache = "disk" if self.file.size / self.machines > SHARE * system.available_memory() else "memory"
        if self.os_cache == "disk":
            for file in self.file.descriptors.tolist():
                system.read_at_random(file)

    def __len__(self) -> int:
        if self.machines == 1:
            return super().__len__()
        images = np.bincount(self._homes(self.rows), minlength=self.machines)
        return int(images.min()) // (self.batch * self.world // self.machines)

    def entries(self, epoch: int) -> tuple[ndarray, ndarray]:
        if self.machines == 1:
            return super().entries(epoch)
        machine, rank = divmod(self.rank, self.world // self.machines)
        entries = self.order(epoch)
        own = entries[self._homes(entries % self.n) == machine]
        together = self.batch * self.world // self.machines
        return sampling.shard(own[: len(self) * together], self.batch, rank, self.world // self.machines, True)

    def _homes(self, rows: ndarray) -> ndarray:
        """Which machine shows each of these rows."""
        return self.file.shard(rows) % self.machines

    def _require_machines(self) -> None:
        if not self.train or self.world % self.machines:
            raise ValueError(f"{self.world} processes cannot train on {self.machines} machines, as many on each")
        if self.repeats > 1 or self.balance != "none":
            raise ValueError("shards that stay on their machines need data.repeats=1 and data.balance=none")
        if len(self.file.files) < self.machines:
            few = f"{len(self.file.files)} shards for {self.machines} machines, of which each is to have its own"
            raise ValueError(f"{self.source}: {few}; convert with --shards, or set data.locality=none")
        if not len(self):
            raise ValueError(f"{self.source}: a machine's own shards have fewer images than its batches take in a step")

    def record(self, row: int) -> Record:
        (_, (height,), (width,), (raw,), data), _ = self.stored(np.array([row]))
        return Record(int(height), int(width), data[0], bool(raw))

    def stored(self, rows: ndarray) -> tuple[list, dict[int, str]]:
        file = self.file
        heights, widths = (column[rows].astype(np.int64) for column in (file.heights, file.widths))
        data = Extents(file.descriptors[file.shard(rows)], file.offsets[rows], file.sizes[rows])
        return [rows, heights, widths, file.modes[rows] == RAW, data], {}

    def locate(self, rows: ndarray) -> Located:
        file = self.file
        raw, files = file.modes[rows] == RAW, file.descriptors[file.shard(rows)]
        return located(files, file.offsets[rows], file.sizes[rows], file.heights[rows], file.widths[rows], raw)

    def announce(self, rows: ndarray) -> None:
        """Has the disk read these rows, if need be; neighbours in the file as one."""
        if self.os_cache != "disk":
            return
        file = self.file
        starts, order = np.unique(file.begins[file.shard(rows)] + file.offsets[rows], return_index=True)
        ends = starts + file.sizes[rows][order]
        first = np.flatnonzero(np.append(True, starts[1:] > ends[:-1]))  # no image ends where a file does
        starts, ends = starts[first], ends[np.append(first[1:], len(ends)) - 1]
        shards = np.searchsorted(file.begins, starts, "right") - 1
        for shard, start, length in zip(shards, starts - file.begins[shards], ends - starts, strict=True):
            system.read_soon(int(file.descriptors[shard]), int(start), int(length))

    def where(self, row: int) -> str:
        return self.file.where(row)
