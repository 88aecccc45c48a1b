"""The loader's engine: threads decode ahead into batch buffers; the order and every crop are functions of the seed.

    entries of an epoch -> chunks of a batch -> threads: find, window, decode and resize into the buffer -> device

The decoder and the resize kernel release the interpreter's lock, so threads are enough: nothing is pickled, nothing is
copied twice, and there are no processes to leak.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from fastmix import system
from fastmix.launch import local_world
from fastmix.pipelines import sampling, selection
from fastmix.pipelines.chunk import Chunk, Located, Record
from fastmix.pipelines.decode_crop import develop
from fastmix.pipelines.in_one_call import Work, able
from fastmix.pipelines.sources.resolve import name
from fastmix.pipelines.substitutes import Substitutes
from fastmix.pipelines.transfer import Delivery, Slot, deliver
from fastmix.pipelines.view import View
from fastmix.reading import reason

AHEAD = 2  # batches in work beyond the one that the caller asked for
ANNOUNCED = 8  # batches whose rows are announced before they are read
CHUNKS = 4  # parts of a batch a thread, where it is not compiled code that shares it out: all finish together then,
ENOUGH = 8  # but of so many images, while there is a part for each thread: a part costs 0.1 ms under Python's lock


class Once:
    """What the first thread that asks makes, for all of them."""

    def __init__(self, make: Callable[[], object]):
        self.make, self.lock, self.made = make, Lock(), None

    def __call__(self):
        with self.lock:
            if self.made is None:
                self.made = self.make()
        return self.made


class Loader:
    """Batches of images, one epoch at a time. A subclass writes open(), record() and where(); more where it pays.

    source   what the subclass reads; a list of packed files, for one that reads these: they are one data set
    batch    images of a step, on each rank
    view     how an image becomes an input
    train    random order, the incomplete last batch dropped; otherwise stored order, every image exactly once over all
             ranks, the last batch filled up with invalid images (black, label 0)
    seed     of order, crops and flips
    rank, world  of this process; every rank has the same number of steps
    repeats  training shows so many crops of an image in a batch, and 1 / repeats of the images in an epoch (repeated
             augmentation, Hoffer et al. 2019); 1: every image once
    workers  threads; None: this process's share of the cores (torchrun tells how many processes share them)
    device   where the batches go
    choose   of labels int64 [n] and the class names, which images are shown: bool [n]; None: all
    balance  of training: none, or how often classes are shown, see selection.POWERS
    bad      "raise", or "skip": a damaged image is replaced in a training batch (substitutes.py), and marked invalid in
             validation; `skipped` lists file, row and reason, once per encounter

    given is the source itself, and `source` how messages name it.
    n int, classes int, class_names list[str], labels int64 [n] tell what is in it; warnings list[str] what looks odd.
    Raises ValueError for no images, and for a training batch larger than the data set.
    """

    labels: ndarray
    class_names: list[str]
    warnings: list[str] = []
    locate: Callable[[ndarray], Located] | None = None
    """Of rows [n], where compiled code finds them; for a subclass that can tell. Otherwise `stored` gives each."""

    def __init__(
        self,
        source: str | list[str],
        batch: int,
        *,
        view: View,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        workers: int | None = None,
        device: str | torch.device = "cpu",
        choose: Callable[[ndarray, list[str]], ndarray] | None = None,
        balance: str = "none",
        bad: str = "raise",
    ):
        if bad not in ("raise", "skip"):
            raise ValueError(f"bad is {bad!r}; choose raise or skip")
        if batch < 1:
            raise ValueError(f"the batch is {batch}; it must be at least 1 image")
        if repeats < 1 or (repeats > 1 and not train):
            raise ValueError(f"repeats is {repeats}; it must be at least 1, and 1 without training")
        self.given = source if isinstance(source, list) else str(source)
        self.source, self.batch, self.view, self.train = name(self.given), batch, view, train
        self.seed, self.rank, self.world, self.repeats, self.bad = seed, rank, world, repeats, bad
        self.workers = workers or max(1, system.cores() // local_world())
        self.device = torch.device(device)
        self.skipped: list[str] = []
        self.open()
        self.n, self.classes = len(self.labels), len(self.class_names)
        self.rows = np.arange(self.n) if choose is None else np.flatnonzero(choose(self.labels, self.class_names))
        self.balance = balance
        if not self.n:
            raise ValueError(f"{source}: has no images")
        if train and batch * world > len(self.rows):
            ranks = f" on each of {world} ranks" if world > 1 else ""
            raise ValueError(
                f"{source}: a batch of {batch}{ranks} is larger than the data set of {len(self.rows)} images"
            )

    def open(self) -> None:
        """Opens `given` and sets `labels` and `class_names`."""
        raise NotImplementedError

    def record(self, row: int) -> Record:
        """The stored image of a row. Raises OSError or ValueError with the reason where it cannot be had."""
        raise NotImplementedError

    def where(self, row: int) -> str:
        """File and row, for messages."""
        raise NotImplementedError

    def stored(self, rows: ndarray) -> tuple[list[ndarray], dict[int, str]]:
        """How these rows [n] are stored: rows, heights, widths, raw and data of a Chunk, of those that can be had; and,
        by their index, why the others cannot. For a subclass that knows many at once better than one by one."""
        found, failed = [], {}
        for k, row in enumerate(rows):
            try:
                found.append((row, *self.record(row)))
            except (OSError, ValueError) as error:
                failed[k] = reason(error)
        row, heights, widths, data, raw = zip(*found, strict=True) if found else [()] * 5
        numbers = [np.array(column, np.int64) for column in (row, heights, widths)]
        return [*numbers, np.array(raw, bool), data], failed

    def announce(self, rows: ndarray) -> None:
        """Called some batches before these rows are read; a subclass may have the disk begin."""

    def develop(self, chunk: Chunk, view: View, images: ndarray) -> dict[int, str]:
        """Writes a chunk's crops into their places of images uint8 [B,S,S,3]; a subclass may have a decoder of its own.

        Returns, by index in the chunk, why an image could not be decoded.
        """
        return develop(chunk, view, images)

    def __len__(self) -> int:
        """Steps of an epoch."""
        together = self.batch * self.world
        return len(self.rows) // together if self.train else -(-len(self.rows) // together)

    def epoch(self, epoch: int, first: int = 0, res: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields the steps of an epoch from `first` on: images uint8 [B,S,S,3], labels int64 [B], valid bool [B].

        They are bit for bit those of the whole epoch. res: another resolution than the view's. A batch in host memory
        stays as it is until the second batch after it is asked for. Leaving the loop early ends the threads.
        Raises ValueError with file, row and reason for a damaged image, within a batch of its place.
        """
        return deliver(self.produce(self.view.at(res), epoch, first, *self.entries(epoch)), self.device)

    def entries(self, epoch: int) -> tuple[ndarray, ndarray]:
        """What this rank shows in an epoch, int64 [steps, batch], and which of it is valid, bool [steps, batch].

        An entry is row + n * copy; only with `repeats` or `balance` there are copies above 0, each with a crop of its
        own.
        """
        entries = self.order(epoch)
        return sampling.shard(entries, self.batch, self.rank, self.world, self.train, spread=self.repeats > 1)

    def order(self, epoch: int) -> ndarray:
        """The entries of an epoch over all ranks, int64, in order."""
        if not self.train:
            return self.rows
        if self.balance != "none":
            return selection.balanced(self.rows, self.labels, self.balance, self.seed, epoch)
        places, m = sampling.order(len(self.rows), self.seed, epoch, self.repeats), len(self.rows)
        return self.rows[places % m] + self.n * (places // m)

    def produce(self, view: View, epoch: int, first: int, entries: ndarray, valid: ndarray) -> Iterator[Delivery]:
        """The batches on the host, in order; a subclass whose decoder takes whole batches writes its own."""
        substitutes = Substitutes(self, view, epoch)
        ring = [Slot(self.batch, view.size, self.device) for _ in range(AHEAD + 2)]

        taken = np.zeros((len(ring), 1), np.int64)

        def begin(step: int) -> tuple[Slot, list[Callable[[], list[str]]]]:
            slot, own = ring[step % len(ring)], taken[step % len(ring)]
            slot.begin(valid[step])
            if self.locate is None or not able():
                return slot, [partial(self._fill, slot, part, entries[step], substitutes) for part in self.parts()]
            own[0] = 0
            work = Once(partial(self.work, own, slot, entries[step], view, epoch))
            return slot, [partial(self._share, work, slot, entries[step], substitutes)] * min(self.workers, self.batch)

        try:
            for step, slot, skipped in self.ahead(first, entries, begin):
                self.skipped += sorted(line for lines in skipped for line in lines)
                yield self.finish(slot, entries[step])
        finally:
            taken[:] = self.batch

    def work(self, taken: ndarray, slot: Slot, entries: ndarray, view: View, epoch: int) -> Work:
        """What threads do of a batch in compiled code."""
        images, valid = slot.images.numpy(), slot.valid.numpy()
        images[~valid], places = 0, np.flatnonzero(valid)
        where, draws = self.locate(entries[places] % self.n), view.draws(self.seed, epoch, entries[places])
        return Work(where, view, places, images, draws=draws, taken=taken)

    def parts(self) -> list[ndarray]:
        """The places of a batch, int64, in parts for the threads."""
        parts = min(CHUNKS * self.workers, max(self.workers, self.batch // ENOUGH), self.batch)
        return np.array_split(np.arange(self.batch), parts)

    def ahead(self, first: int, entries: ndarray, begin: Callable) -> Iterator[tuple[int, object, list]]:
        """Yields (step, what, results) from step `first` on, where begin(step) returned (what, jobs).

        The jobs, functions without arguments, run on threads, up to AHEAD steps ahead; the first error of one is raised
        in its step's turn. Leaving the loop ends the threads.
        """
        steps, announced = iter(range(first, len(entries))), first
        pool, work = ThreadPoolExecutor(self.workers, "fastmix-loader"), deque()
        try:
            while True:
                while len(work) <= AHEAD and (step := next(steps, None)) is not None:
                    while announced < min(step + ANNOUNCED, len(entries)):
                        self.announce(entries[announced] % self.n)
                        announced += 1
                    what, jobs = begin(step)
                    work.append((step, what, [pool.submit(job) for job in jobs]))
                if not work:
                    return
                step, what, jobs = work.popleft()
                yield step, what, [job.result() for job in jobs]
        finally:
            pool.shutdown(cancel_futures=True)

    def finish(self, slot: Slot, entries: ndarray) -> Delivery:
        """A filled slot with its labels."""
        labels = np.where(slot.valid.numpy(), self.labels[entries % self.n], 0)
        return slot, slot.images, torch.from_numpy(labels), slot.valid

    def chunk(self, places: ndarray, entries: ndarray, view: View, epoch: int) -> tuple[Chunk, list[str]]:
        """The images at these places of a batch of entries, ready to be decoded, and lines about what was left out.

        Raises ValueError for an image that is damaged, unless these are skipped, or too small for the view.
        """
        (rows, heights, widths, raw, data), failed = self.stored(entries[places] % self.n)
        skipped = [self.judge(entries[places[k]] % self.n, reason) for k, reason in failed.items()]
        places = np.delete(places, list(failed)) if failed else places
        small = np.minimum(heights, widths) < view.smallest()
        if small.any():
            k = int(small.argmax())
            crop = f"crop {view.crop!r} of {view.size}" + f" with {view.pad} pixels reflected" * view.reflects
            raise ValueError(
                f"{self.where(rows[k])}: {widths[k]} x {heights[k]} pixels, too small for {crop}: a side must have at "
                f"least {view.smallest()}"
            )
        windows, flips = view.windows(heights, widths, self.seed, epoch, entries[places])
        return Chunk(places, rows, heights, widths, raw, data, windows, flips), skipped

    def judge(self, row: int, reason: str) -> str:
        """A line about a damaged image, where these are skipped. Raises it as a ValueError otherwise."""
        line = f"{self.where(row)}: {reason}"
        if self.bad == "raise":
            raise ValueError(line)
        return line

    def _share(self, work: Once, slot: Slot, entries: ndarray, substitutes: Substitutes) -> list[str]:
        """A thread's share of a batch; as `_fill`, to which it gives what compiled code cannot do."""
        lines = []
        for left in work().left():
            lines += self._fill(slot, work().places[left], entries, substitutes)
        return lines

    def _fill(self, slot: Slot, part: ndarray, entries: ndarray, substitutes: Substitutes) -> list[str]:
        """Fills the places `part` of a batch, in a thread; returns what it had to leave out, and why.

        In training others take their places, in the batch and in `entries`.
        """
        images, valid, view = slot.images.numpy(), slot.valid.numpy(), substitutes.view
        chunk, skipped = self.chunk(part[valid[part]], entries, view, substitutes.epoch)
        failed = self.develop(chunk, view, images)
        skipped += [self.judge(chunk.rows[k], reason) for k, reason in failed.items()]
        if len(chunk.places) < len(part) or failed:
            left = np.setdiff1d(part, np.delete(chunk.places, list(failed)))
            if self.train:
                substitutes.fill(slot.images, left, entries)
            else:
                images[left], valid[left] = 0, False
        return skipped
