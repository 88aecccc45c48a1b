"""The `resident` loader: the whole data set as pixels on the device, decoded once, when it is opened.

For data that fits there (CIFAR, Tiny-ImageNet). On a GPU an epoch's order, windows and flips are worked out on the host
when it begins and copied as one table; a step is then one launch of the crop pass on a part of it. On the CPU the
images are cut from memory by the threads of every other loader, to the very bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from tqdm import tqdm

from fastmix import system
from fastmix.kernels.crop import crop
from fastmix.kernels.crop.table import WORDS, rows
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.chunk import ELSEWHERE, IN_MEMORY, Located, Record, located
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.jpeg.decode import jpeg
from fastmix.pipelines.loader import CHUNKS, Loader
from fastmix.pipelines.sources.resolve import is_packed
from fastmix.pipelines.substitutes import Substitutes
from fastmix.pipelines.transfer import upload
from fastmix.pipelines.view import View
from fastmix.reading import reason

READ = 1024  # images that are read together when the set is opened
TABLE = 1 << 16  # rows of an epoch's table that are made together


class Parts(Sequence):
    """Pieces of the pixels, as data of a chunk: uint8 [size], on the host."""

    def __init__(self, pixels: Tensor, offsets: ndarray, sizes: ndarray):
        self.pixels = pixels.numpy() if pixels.device.type == "cpu" else None  # on a GPU the crop pass reads them there
        self.offsets, self.sizes = offsets, sizes

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, k: int) -> ndarray:
        return self.pixels[self.offsets[k] : self.offsets[k] + self.sizes[k]]


class Resident(Loader):
    """Reads a `.beton` file or built-in data, else image files as the loader `folder` does.

    Images are decoded exactly, whatever the view's `decode` says.

    pixels   uint8 [bytes] on the device: the images [h,w,3], one after another
    offsets  int64 [n]     where each begins

    Raises ValueError for a damaged image, unless these are skipped, and for more pixels than there is free memory for
    on the device, or on the host, through which they go.
    """

    def open(self) -> None:
        packed = is_packed(self.given)
        view = replace(self.view, decode="exact")
        self.files = (Beton if packed else Folder)(self.given, 1, view=view, train=False, workers=self.workers)
        self.labels, self.class_names = self.files.labels, self.files.class_names
        self.warnings = self.files.warnings
        n = len(self.labels)
        self.heights, self.widths, self.missing = np.zeros(n, np.int64), np.zeros(n, np.int64), {}
        free = _free(self.device)
        if packed:
            self._fit(3 * int((self.files.file.heights.astype(np.int64) * self.files.file.widths).sum()), free)
        blocks = self._decoded(n, free)
        if n and len(self.missing) == n:
            raise ValueError(f"{self.where(0)}: {self.missing[0]}; nor can any other of the {n} images be read")
        self.sizes = 3 * self.heights * self.widths
        self.offsets = np.cumsum(self.sizes) - self.sizes
        self.pixels = torch.empty(max(1, int(self.sizes.sum())), dtype=torch.uint8, device=self.device)
        at = 0
        while blocks:  # each is freed once it is copied
            block = blocks.popleft()
            if self.device.type == "cpu":  # by numpy: torch's threads would hang in a process that was forked
                self.pixels.numpy()[at : at + len(block)] = block
            else:
                self.pixels[at : at + len(block)] = torch.from_numpy(block)
            at += len(block)

    def record(self, row: int) -> Record:
        if row in self.missing:
            raise ValueError(self.missing[row])
        (data,) = Parts(self.pixels, self.offsets[[row]], self.sizes[[row]])
        return Record(int(self.heights[row]), int(self.widths[row]), data, True)

    def stored(self, rows: ndarray) -> tuple[list, dict[int, str]]:
        failed = {k: self.missing[row] for k, row in enumerate(rows.tolist()) if row in self.missing}
        rows = np.delete(rows, list(failed))
        data = Parts(self.pixels, self.offsets[rows], self.sizes[rows])
        return [rows, self.heights[rows], self.widths[rows], np.ones(len(rows), bool), data], failed

    def locate(self, rows: ndarray) -> Located:
        sizes, addresses = self.sizes[rows], self.pixels.data_ptr() + self.offsets[rows]
        files = np.where(sizes, IN_MEMORY, ELSEWHERE)
        return located(files, addresses, sizes, self.heights[rows], self.widths[rows], 1, memory=self.pixels)

    def where(self, row: int) -> str:
        return self.files.where(row)

    def epoch(self, epoch: int, first: int = 0, res: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As Loader.epoch. On a GPU `skipped` tells of an epoch's damaged images when it begins."""
        if self.device.type == "cpu":
            return super().epoch(epoch, first, res)
        return self.on_device(self.view.at(res), epoch, first)

    def on_device(self, view: View, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The steps of an epoch by the crop pass; at most 1 level from those of the threads."""
        entries, valid = (column[first:].reshape(-1) for column in self.entries(epoch))
        if self.train and self.missing:
            self._replace(entries, Substitutes(self, view, epoch))
        bounds = np.arange(0, len(entries) + 1, self.batch)
        table, shown = np.zeros((len(entries), WORDS), np.int32), np.zeros(len(entries), bool)
        wanted = np.flatnonzero(valid)
        for places in np.array_split(wanted, -(-len(wanted) // TABLE) or 1):
            chunk, skipped = self.chunk(places, entries, view, epoch)
            self.skipped += skipped
            shown[chunk.places] = True
            table[chunk.places] = rows(
                chunk.heights, chunk.widths, chunk.windows, chunk.flips, view.size, self.offsets[chunk.rows],
                interpolation=view.interpolation, whole=view.whole, reflect=view.reflects,
            )  # fmt: skip
        labels = np.where(shown, self.labels[entries % self.n], 0)
        table, labels, shown = (upload(column, self.device) for column in (table, labels, shown))
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            images = crop(self.pixels, table[start:end], view.size, view.interpolation)
            yield images, labels[start:end], shown[start:end]

    def _replace(self, entries: ndarray, substitutes: Substitutes) -> None:
        """Puts substitutes into an epoch's entries for damaged images."""
        for place in np.flatnonzero(np.isin(entries % self.n, list(self.missing))).tolist():
            row = int(entries[place] % self.n)
            self.skipped.append(self.judge(row, self.missing[row]))
            entries[place] = substitutes.next(int(entries[place]), lambda entry: entry % self.n not in self.missing)

    def _decoded(self, n: int, free: dict[str, int]) -> deque[ndarray]:
        """The pixels of all n images in order, in blocks uint8 [bytes]; sets heights, widths, missing."""
        blocks, total = deque(), 0
        groups = np.array_split(np.arange(n), -(-n // READ) or 1)

        def begin(step: int) -> tuple[None, list[Callable]]:
            parts = np.array_split(groups[step], CHUNKS * self.workers)
            return None, [partial(self._read, part) for part in parts if len(part)]

        with (
            closing(self.files.ahead(0, groups, begin)) as read,
            tqdm(desc="decode", total=n, unit="img", disable=None, leave=False) as progress,
        ):
            for step, _, results in read:
                for pixels, failed in results:
                    for row, reason in failed.items():
                        self.judge(row, reason)
                    self.missing |= failed
                    blocks.append(pixels)
                    total += len(pixels)
                self._fit(total, free)
                progress.update(len(groups[step]))
        return blocks

    def _read(self, part: ndarray) -> tuple[ndarray, dict[int, str]]:
        """The pixels of these rows, one after another, and by row why one has none."""
        (rows, heights, widths, raw, data), failed = self.files.stored(part)
        missing, images = {int(part[k]): reason for k, reason in failed.items()}, [np.empty(0, np.uint8)]
        for k, (row, height, width) in enumerate(zip(*(c.tolist() for c in (rows, heights, widths)), strict=True)):
            try:
                pixels = np.frombuffer(data[k], np.uint8) if raw[k] else jpeg(data[k], height, width)[0].reshape(-1)
            except (OSError, ValueError) as error:
                missing[row] = reason(error)
            else:
                images.append(pixels.copy())  # the decoder's memory is used again
                self.heights[row], self.widths[row] = height, width
        return np.concatenate(images), missing

    def _fit(self, size: int, free: dict[str, int]) -> None:
        for place, room in free.items():
            if size > room:
                raise ValueError(
                    f"{self.source}: its pixels take {size / 1e9:.1f} GB or more, and {place} has {room / 1e9:.1f} GB "
                    "of free memory: take the loader beton or folder"
                )


def _free(device: torch.device) -> dict[str, int]:
    """Free bytes, by the name of each memory that pixels on their way to the device lie in."""
    host = {"the host": system.available_memory()}
    return host | {str(device): torch.cuda.mem_get_info(device)[0]} if device.type == "cuda" else host
