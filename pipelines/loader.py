"""The loader's engine: threads decode ahead into batch buffers; the order and every crop are functions of the seed.

    rows of the epoch -> chunks of a batch -> threads: read, window, decode, resize into the buffer -> device -> caller

The decoder and the resize kernel release the interpreter's lock, so threads are enough: nothing is pickled, nothing is
copied twice, and there are no processes to leak.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from fastmix.pipelines import sampling
from fastmix.pipelines.decode import factor, jpeg
from fastmix.pipelines.resize import place, sees
from fastmix.pipelines.transfer import Delivery, Slot, deliver
from fastmix.pipelines.view import View

AHEAD = 2  # batches in work beyond the one that the caller asked for
CHUNKS = 4  # parts of a batch a thread, so that all finish at about the same time


class Record(NamedTuple):
    """An image as it is stored: height, width, and a JPEG's bytes or, if raw, pixels uint8 [height,width,3]."""

    height: int
    width: int
    data: bytes | ndarray
    raw: bool


class Loader:
    """Batches of images, one epoch at a time. A subclass writes open(), record() and where().

    source   what the subclass reads
    batch    images of a step, on each rank
    view     how an image becomes an input
    train    random order, the incomplete last batch dropped; otherwise stored order, every image exactly once over all
             ranks, the last batch filled up with invalid images (black, label 0)
    seed     of order, crops and flips
    rank, world  of this process; every rank has the same number of steps
    workers  threads; None: this process's share of the cores (torchrun tells how many processes share them)
    device   where the batches go
    bad      "raise", or "skip": a damaged image is left out of a training batch, which gets shorter, and marked invalid
             in validation; `skipped` lists file, row and reason, once per encounter

    n int, classes int, class_names list[str], labels int64 [n] tell what is in it.
    Raises ValueError for a training batch larger than the data set.
    """

    labels: ndarray
    class_names: list[str]

    def __init__(
        self,
        source: str,
        batch: int,
        *,
        view: View,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
        device: str | torch.device = "cpu",
        bad: str = "raise",
    ):
        if bad not in ("raise", "skip"):
            raise ValueError(f"bad is {bad!r}; choose raise or skip")
        if batch < 1:
            raise ValueError(f"the batch is {batch}; it must be at least 1 image")
        self.source, self.batch, self.view, self.train = str(source), batch, view, train
        self.seed, self.rank, self.world, self.bad = seed, rank, world, bad
        self.workers = workers or max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        self.device = torch.device(device)
        self.skipped: list[str] = []
        self.open()
        self.n, self.classes = len(self.labels), len(self.class_names)
        if train and batch * world > self.n:
            ranks = f" on each of {world} ranks" if world > 1 else ""
            raise ValueError(f"{source}: a batch of {batch}{ranks} is larger than the data set of {self.n} images")

    def open(self) -> None:
        """Opens `source` and sets `labels` and `class_names`."""
        raise NotImplementedError

    def record(self, row: int) -> Record:
        """The stored image of a row. Raises OSError or ValueError with the reason where it cannot be had."""
        raise NotImplementedError

    def where(self, row: int) -> str:
        """File and row, for messages."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Steps of an epoch."""
        together = self.batch * self.world
        return self.n // together if self.train else -(-self.n // together)

    def epoch(self, epoch: int, first: int = 0, res: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields the steps of an epoch from `first` on: images uint8 [B,S,S,3], labels int64 [B], valid bool [B].

        They are bit for bit those of the whole epoch. res: another resolution than the view's. A batch in host memory
        stays as it is until the second batch after it is asked for. Leaving the loop early ends the threads.
        Raises ValueError with file, row and reason for a damaged image, within a batch of its place.
        """
        return deliver(self._produce(self.view.at(res), epoch, first, *self.rows(epoch)), self.device)

    def rows(self, epoch: int) -> tuple[ndarray, ndarray]:
        """This rank's rows of an epoch, int64 [steps, batch], and which of them are valid, bool [steps, batch]."""
        rows = sampling.order(self.n, self.seed, epoch) if self.train else np.arange(self.n)
        return sampling.shard(rows, self.batch, self.rank, self.world, self.train)

    def _produce(self, view: View, epoch: int, first: int, rows: ndarray, valid: ndarray) -> Iterator[Delivery]:
        ring = [Slot(self.batch, view.size, self.device) for _ in range(AHEAD + 2)]
        steps = iter(range(first, len(rows)))
        parts = np.array_split(np.arange(self.batch), min(self.batch, CHUNKS * self.workers))
        pool, work = ThreadPoolExecutor(self.workers, "fastmix-loader"), deque()
        try:
            while True:
                while len(work) <= AHEAD and (step := next(steps, None)) is not None:
                    slot = ring[step % len(ring)]
                    slot.begin(valid[step])
                    jobs = [pool.submit(self._fill, slot, part, rows[step], view, epoch) for part in parts]
                    work.append((slot, rows[step], jobs))
                if not work:
                    return
                slot, taken, jobs = work.popleft()
                for job in jobs:
                    self.skipped += job.result()
                yield self._finish(slot, self.labels[taken])
        finally:
            pool.shutdown(cancel_futures=True)

    def _finish(self, slot: Slot, labels: ndarray) -> Delivery:
        valid = slot.valid.numpy()
        if self.train and not valid.all():
            keep = torch.from_numpy(valid.nonzero()[0])
            return slot, slot.images[keep], torch.from_numpy(labels)[keep], slot.valid[keep]
        return slot, slot.images, torch.from_numpy(np.where(valid, labels, 0)), slot.valid

    def _fill(self, slot: Slot, part: ndarray, rows: ndarray, view: View, epoch: int) -> list[str]:
        """Fills the places `part` of a batch of these rows, in a thread; returns what it had to leave out, and why."""
        images, valid = slot.images.numpy(), slot.valid.numpy()
        skipped, found = [], []
        for k in part[valid[part]]:
            with self._judged(rows[k], skipped):
                found.append((k, self.record(rows[k])))
        for k, record in found:
            if min(record.height, record.width) < view.smallest():
                size = f"{record.width} x {record.height} pixels"
                raise ValueError(f"{self.where(rows[k])}: {size}, too small for crop {view.crop!r} of {view.size}")
        heights, widths = (np.array([getattr(r, side) for _, r in found], np.int64) for side in ("height", "width"))
        places = np.array([k for k, _ in found], np.int64)
        windows, flips = view.windows(heights, widths, self.seed, epoch, rows[places])
        done = []
        for (k, record), window, flip in zip(found, windows, flips, strict=True):
            with self._judged(rows[k], skipped):
                _develop(record, window, flip, view, images[k])
                done.append(k)
        left = np.setdiff1d(part, done)
        images[left], valid[left] = 0, False
        return skipped

    @contextmanager
    def _judged(self, row: int, skipped: list[str]) -> Iterator[None]:
        """What is wrong with a row becomes an error that names it, or a line in `skipped`."""
        try:
            yield
        except (OSError, ValueError) as error:
            message = f"{self.where(row)}: {error}"
            if self.bad == "raise":
                raise ValueError(message) from error
            skipped.append(message)


def _develop(record: Record, window: ndarray, flip: bool, view: View, out: ndarray) -> None:
    """Decodes an image and writes its window into out uint8 [S,S,3]."""
    height, width, data, raw = record
    if raw:
        pixels, origin = data, (0, 0)
    else:
        reduced = factor(min(window[2:]) / view.size) if view.decode == "fast" else 1
        window = window / reduced
        part = sees(window, view.size, view.interpolation, view.whole)
        pixels, origin = jpeg(data, height, width, reduced, part)
    place(pixels, window, flip, out, view.interpolation, view.whole, origin)
