"""The `beton` loader: rows of a packed file, or of several as one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy import ndarray
from torch import Tensor

from fastmix import system
from fastmix.pipelines import sampling
from fastmix.pipelines.chunk import Extents, Located, Record, located
from fastmix.pipelines.jpeg.codec import need
from fastmix.pipelines.nvjpeg import Jpegs
from fastmix.pipelines.packing.format import RAW
from fastmix.pipelines.packing.labels import names
from fastmix.pipelines.packing.shards import Shards
from fastmix.pipelines.sources.ahead import BEHIND, LEAD, NEVER, Ahead, Plan
from fastmix.pipelines.sources.bounded import Bounded
from fastmix.pipelines.sources.resolve import packed, resolve, tables
from fastmix.ranges import as_size
from fastmix.reading import shown

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
    window    of how many of its shards a machine mixes the images at a time (sampling.windowed); None: of all
    cache_size  bytes of this machine's disk that shards elsewhere may take: copies are made in the order of an epoch,
              and removed again; None: all are copied before it begins
    """

    def __init__(
        self,
        source: str | list[str],
        batch: int,
        *,
        os_cache: str = "auto",
        machines: int = 1,
        window: int | None = None,
        cache_size: int | None = None,
        **options,
    ):
        if os_cache not in OS_CACHES:
            raise ValueError(f"os_cache is {os_cache!r}; choose one of {', '.join(OS_CACHES)}")
        self.os_cache, self.machines, self.window, self.cache_size = os_cache, machines, window, cache_size
        self.orders: dict[int, ndarray] = {}
        super().__init__(source, batch, **options)
        if machines > 1 or window:
            self._require_machines()
        self.fetched = self._bounded() if cache_size else None

    def open(self) -> None:
        super().open()
        paths = packed(self.given)
        self.tables = tables(paths) if self.cache_size else []
        self.file = Shards([str(table.path) for table in self.tables] or [resolve(path) for path in paths])
        for file, table in zip(self.file.files, self.tables, strict=False):
            file.name = shown(table.url)
        need(self.source, (self.file.modes != RAW).any())
        self.labels = self.file.labels
        self.class_names, self.warnings = names(self.labels, self.file.classes), self.file.warnings
        if self.os_cache == "auto":
            self.os_cache = "disk" if self.file.size / self.machines > SHARE * system.available_memory() else "memory"
        if self.os_cache == "disk" and not self.tables:
            for file in self.file.descriptors.tolist():
                system.read_at_random(file)

    def __len__(self) -> int:
        if self.machines == 1:
            return super().__len__()
        images = np.bincount(self._homes(self.rows), minlength=self.machines)
        return int(images.min()) // (self.batch * self.world // self.machines)

    def epoch(self, epoch: int, first: int = 0, res: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        batches = super().epoch(epoch, first, res)
        return self.fetched.followed(batches, epoch, first) if self.fetched else batches

    def entries(self, epoch: int) -> tuple[ndarray, ndarray]:
        if self.machines == 1:
            return super().entries(epoch)
        processes = self.world // self.machines
        return sampling.shard(self._own(epoch), self.batch, self.rank % processes, processes, True)

    def order(self, epoch: int) -> ndarray:
        if not self.window:
            return super().order(epoch)
        kept = self.orders  # of two epochs: a thread plans the next one
        if epoch not in kept:
            shards, homes = self.file.shard(self.rows), np.arange(len(self.file.files)) % self.machines
            order = self.rows[sampling.windowed(shards, homes, self.window, self.seed, epoch)]
            self.orders = kept = {k: kept[k] for k in kept if k == epoch - 1} | {epoch: order}
        return kept[epoch]

    def _own(self, epoch: int) -> ndarray:
        """The entries of an epoch that this machine shows, in order."""
        entries = self.order(epoch)
        if self.machines > 1:
            entries = entries[self._homes(entries % self.n) == self.rank // (self.world // self.machines)]
        return entries[: len(self) * self._together]

    @property
    def _together(self) -> int:
        """Images of a step on this machine."""
        return self.batch * self.world // self.machines

    def _plan(self, epoch: int) -> Plan:
        """The first and the last step in which this machine reads each shard."""
        entries = self._own(epoch)
        shards, steps = self.file.shard(entries % self.n), np.arange(len(entries)) // self._together
        first, last = np.full(len(self.file.files), NEVER), np.full(len(self.file.files), -1)
        first[shards[::-1]], last[shards] = steps[::-1], steps  # of several the last one stays
        return first, last

    def _homes(self, rows: ndarray) -> ndarray:
        """Which machine shows each of these rows."""
        return self.file.shard(rows) % self.machines

    def _require_machines(self) -> None:
        if not self.train or self.world % self.machines:
            raise ValueError(f"{self.world} processes cannot train on {self.machines} machines, as many on each")
        if self.repeats > 1 or self.balance != "none":
            raise ValueError("an order by shards needs data.repeats=1 and data.balance=none")
        if len(self.file.files) < self.machines:
            few = f"{len(self.file.files)} shards for {self.machines} machines, of which each is to have its own"
            raise ValueError(f"{self.source}: {few}; convert with --shards, or set data.locality=none")
        if not len(self):
            raise ValueError(f"{self.source}: a machine's own shards have fewer images than its batches take in a step")

    def _bounded(self) -> Ahead:
        if not self.train or self.bad != "raise":
            raise ValueError("data.cache_size is for training with data.bad=raise: substitutes may lie in any shard")
        beside = sum(table.taken() for table in self.tables)
        copies = Bounded(self.tables, self.file.files, self.cache_size - beside)
        self._require_room(np.array(copies.sizes), copies.limit, beside)
        return Ahead(copies, self._plan, len(self))

    def _require_room(self, sizes: ndarray, limit: int, beside: int) -> None:
        """Raises ValueError where the shards that are read at a time, and those of the next steps, do not fit."""
        whole = int(np.bincount(np.arange(len(sizes)) % self.machines, sizes).max())
        if whole <= limit:
            return
        rows = np.bincount(self.file.shard(self.rows), minlength=len(sizes))
        spare = 1 + math.ceil(1.5 * (LEAD + BEHIND + 2) * self._together / rows[rows > 0].min())
        most = limit // int(sizes.max()) - spare
        if self.window and self.window <= most:
            return
        held, need = "all shards of a machine, whose images are in random order", whole
        if self.window:
            held = (
                f"data.window={self.window} and {spare} more of up to {as_size(int(sizes.max()))} that are on their way"
            )
            need = (self.window + spare) * int(sizes.max())
        fewer = f"data.locality=shard and data.window={most}, or fewer, or " if most > 0 else ""
        raise ValueError(
            f"{self.source}: data.cache_size={as_size(self.cache_size)} does not hold {held}: set {fewer}"
            f"data.cache_size={as_size(need + beside)}"
        )

    def record(self, row: int) -> Record:
        (_, (height,), (width,), (raw,), data), _ = self.stored(np.array([row]))
        return Record(int(height), int(width), data[0], bool(raw))

    def stored(self, rows: ndarray) -> tuple[list, dict[int, str]]:
        file = self.file
        heights, widths = (column[rows].astype(np.int64) for column in (file.heights, file.widths))
        data = Extents(self._files(rows), file.offsets[rows], file.sizes[rows])
        return [rows, heights, widths, file.modes[rows] == RAW, data], {}

    def locate(self, rows: ndarray) -> Located:
        file = self.file
        sides = file.heights[rows], file.widths[rows]
        return located(self._files(rows), file.offsets[rows], file.sizes[rows], *sides, file.modes[rows] == RAW)

    def _files(self, rows: ndarray) -> ndarray:
        """Descriptors, once the shards of these rows are there."""
        shards = self.file.shard(rows)
        return self.fetched.files(shards) if self.fetched else self.file.descriptors[shards]

    def announce(self, rows: ndarray) -> None:
        """Has the disk read these rows, if need be; neighbours in the file as one."""
        if self.os_cache != "disk" or self.fetched:
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
