"""The `dali` loader: NVIDIA DALI decodes and resizes; what it is to show comes from our tables, as everywhere.

    threads: read, window, check -> external_source -> decoders.image_slice -> resize, mirror -> torch, without a copy

A run of the graph is a batch; AHEAD of them are in work. decode "gpu" reads JPEGs by nvJPEG (device="mixed") on the
device that the batches are for; "exact" and "fast" both mean libjpeg-turbo's exact decoding on the CPU. Either way
little more is decoded than the filter sees.

DALI takes files in silence that libjpeg warns of, such as ones with flipped bits. What it refuses ends its whole batch;
the image is then found and judged as everywhere, and the batch is run again without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from fastmix.pipelines.beton import Beton
from fastmix.pipelines.chunk import Chunk, Record
from fastmix.pipelines.dali_graph import Graph
from fastmix.pipelines.folder import Folder
from fastmix.pipelines.jpeg.codec import codec
from fastmix.pipelines.jpeg.decode import END, jpeg
from fastmix.pipelines.loader import AHEAD, Loader
from fastmix.pipelines.sources.resolve import is_packed
from fastmix.pipelines.substitutes import Substitutes
from fastmix.pipelines.transfer import Delivery, Slot
from fastmix.pipelines.view import View
from fastmix.reading import reason


class Run(NamedTuple):
    """A batch on its way through DALI: its entries int64 [B], the images that can be had, and lines on the others."""

    slot: Slot
    entries: ndarray
    chunk: Chunk
    skipped: list[str]


class Dali(Loader):
    """Reads a `.beton` file, or image files as the loader `folder` does, and decodes with NVIDIA DALI.

    Raises ValueError where DALI is missing, and for decode "gpu" without a GPU that the batches are for.
    """

    def open(self) -> None:
        _package()
        if self.view.decode == "gpu" and not (self.device.type == "cuda" and torch.cuda.is_available()):
            raise ValueError(
                f"decode gpu needs an NVIDIA GPU with its driver, and batches on it, but the device is {self.device}: "
                "say decode exact"
            )
        packed = is_packed(self.given)
        self.files = (Beton if packed else Folder)(self.given, 1, view=replace(self.view, decode="exact"), train=False)
        self.labels, self.class_names = self.files.labels, self.files.class_names
        self.warnings = self.files.warnings

    def record(self, row: int) -> Record:
        return self.files.record(row)

    def where(self, row: int) -> str:
        return self.files.where(row)

    def announce(self, rows: ndarray) -> None:
        self.files.announce(rows)

    def stored(self, rows: ndarray) -> tuple[list[ndarray], dict[int, str]]:
        (*columns, encoded), failed = self.files.stored(rows)
        places = [k for k in range(len(rows)) if k not in failed]
        data, bad = [], []
        for k, (_, height, width, raw) in enumerate(zip(*columns, strict=True)):
            try:
                image = np.frombuffer(encoded[k], np.uint8)
                if not raw:
                    _check(image, height, width)
                data.append(image)
            except (OSError, ValueError) as error:
                failed[places[k]] = reason(error)
                bad.append(k)
        return [*(np.delete(column, bad) for column in columns), data], failed

    def produce(self, view: View, epoch: int, first: int, entries: ndarray, valid: ndarray) -> Iterator[Delivery]:
        def begin(step: int) -> tuple[Slot, list[Callable[[], tuple[Chunk, list[str]]]]]:
            slot = Slot(self.batch, 0, self.device)  # the images are where DALI puts them
            slot.begin(valid[step])
            parts = [part[valid[step][part]] for part in self.parts()]
            return slot, [partial(self.chunk, part, entries[step], view, epoch) for part in parts]

        prepared, more, failure = self.ahead(first, entries, begin), True, None
        graph, runs, substitutes = self._graph(view), deque(), Substitutes(self, view, epoch)
        try:
            while True:
                while more and len(runs) <= AHEAD:
                    try:
                        step, slot, parts = next(prepared)
                    except StopIteration:
                        more = False
                    except Exception as error:  # its turn comes after the batches that DALI has in work
                        more, failure = False, error
                    else:
                        chunks, skipped = zip(*parts, strict=True)
                        runs.append(Run(slot, entries[step], _joined(chunks), list(chain(*skipped))))
                        graph.start(runs[-1].chunk)
                if not runs:
                    break
                try:
                    images = graph.take(runs[0].chunk)
                except RuntimeError as error:
                    graph, runs[0] = None, self._judged(runs[0], error)
                    graph = self._graph(view)
                    for run in runs:
                        graph.start(run.chunk)
                    continue
                run = runs.popleft()
                self.skipped += run.skipped
                try:
                    yield self._delivery(run, images, substitutes)
                finally:
                    if run.slot.copied is not None:
                        run.slot.copied.synchronize()  # the copy has read DALI's memory
            if failure is not None:
                raise failure
        finally:
            prepared.close()
            graph = None  # it reads where `runs` has its data

    def _graph(self, view: View) -> Graph:
        return Graph(view, self.batch, self.workers, self.device if view.decode == "gpu" else None)

    def _judged(self, run: Run, error: RuntimeError) -> Run:
        """A run that DALI refused, without the images that are damaged."""
        chunk, failed = run.chunk, {}
        for k in np.flatnonzero(~chunk.raw):
            try:
                jpeg(chunk.data[k], int(chunk.heights[k]), int(chunk.widths[k]))
            except ValueError as reason:
                failed[k] = str(reason)
        if not failed:
            said = " ".join(str(error).partition("encountered:")[2].partition("Current pipeline")[0].split()) or error
            raise ValueError(f"{self.source}: DALI failed on rows {chunk.rows.tolist()}: {said}") from error
        lines = [self.judge(chunk.rows[k], reason) for k, reason in failed.items()]
        bad = list(failed)
        data = [data for k, data in enumerate(chunk.data) if k not in failed]
        kept = {name: np.delete(column, bad, 0) for name, column in chunk._asdict().items() if name != "data"}
        return run._replace(chunk=Chunk(**kept, data=data), skipped=run.skipped + lines)

    def _delivery(self, run: Run, images: Tensor, substitutes: Substitutes) -> Delivery:
        slot, places = run.slot, torch.from_numpy(run.chunk.places)
        slot.valid[:] = False
        slot.valid[places] = True
        if len(places) < self.batch:
            here, images = images, images.new_zeros(self.batch, *images.shape[1:])
            images[places] = here
            if self.train:
                substitutes.fill(images, np.flatnonzero(~slot.valid.numpy()), run.entries)
                slot.valid[:] = True
            if images.is_cuda:
                torch.cuda.current_stream(images.device).synchronize()
        slot.images = images
        return self.finish(slot, run.entries)


def _joined(chunks: tuple[Chunk, ...]) -> Chunk:
    columns = {name: [getattr(chunk, name) for chunk in chunks] for name in Chunk._fields}
    data = list(chain(*columns.pop("data")))
    return Chunk(**{name: np.concatenate(parts) for name, parts in columns.items()}, data=data)


def _check(data: ndarray, height: int, width: int) -> None:
    """Raises ValueError for what DALI would not notice: another size than is stored, or an end that is missing."""
    if codec().decode_jpeg_header(data)[:2] != (height, width):
        raise ValueError(f"the JPEG has another size than the {width} x {height} pixels given for it")
    if data[-2:].tobytes() != END:
        jpeg(data, int(height), int(width))


def _package() -> None:
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"the dali loader needs NVIDIA DALI ({error}): pip install nvidia-dali-cuda130, or nvidia-dali-cuda120 "
            "where nvidia-smi tells CUDA 12; either decodes on the CPU without a GPU"
        ) from None
