"""JPEGs decoded on the GPU by nvJPEG, through torchvision, and cut by the crop pass: `decode: gpu` without DALI.

    threads: read, window -> one thread: nvJPEG, a batch at a time -> crop pass, on a stream of its own -> device

nvJPEG gets whole colour JPEGs. Grey ones and other colour spaces, what it refuses, and files without their end, are
left to libjpeg-turbo, image by image, which also tells what is damaged. Damage that nvJPEG takes for an image goes
unnoticed. It repeats chroma samples where libjpeg-turbo interpolates, so colours differ at edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from fastmix.kernels.crop import crop
from fastmix.kernels.crop.table import offsets, rows
from fastmix.pipelines.jpeg.codec import codec
from fastmix.pipelines.jpeg.decode import END, jpeg
from fastmix.pipelines.loader import Loader
from fastmix.pipelines.substitutes import Substitutes
from fastmix.pipelines.transfer import Delivery, Slot, upload
from fastmix.pipelines.view import View
from fastmix.reading import reason


class Image(NamedTuple):
    """An image that was read: its place in the batch, row, size, window (y, x, h, w), flip, and data uint8 [bytes]:
    a JPEG for the GPU, or, if raw, pixels [h,w,3]."""

    place: int
    row: int
    height: int
    width: int
    window: ndarray
    flip: bool
    raw: bool
    data: ndarray


class Jpegs(Loader):
    """A loader of stored images that decodes on the CPU or, for the view's decode "gpu", here.

    A subclass calls this class's open(), which raises ValueError where the GPU cannot decode.
    """

    def open(self) -> None:
        self.decode = decoder(self.device) if self.view.decode == "gpu" else None
        # One for all epochs: the allocator keeps the memory of each stream apart. Not shared with another loader, whose
        # thread would free memory under nvJPEG, which has streams of its own.
        cuda = self.decode is not None and self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if cuda else None

    def produce(self, view: View, epoch: int, first: int, entries: ndarray, valid: ndarray) -> Iterator[Delivery]:
        if self.decode is None:
            yield from super().produce(view, epoch, first, entries, valid)
            return

        def begin(step: int) -> tuple[ndarray, list[Callable]]:
            parts = [part[valid[step][part]] for part in self.parts()]
            return entries[step], [partial(self._read, part, entries[step], view, epoch) for part in parts]

        read, substitutes = self.ahead(first, entries, begin), Substitutes(self, view, epoch)
        pool = ThreadPoolExecutor(1, "fastmix-loader-gpu")
        try:
            ahead = pool.submit(self._batch, read, substitutes)
            while (batch := ahead.result()) is not None:
                ahead = pool.submit(self._batch, read, substitutes)
                delivery, skipped = batch
                self.skipped += skipped
                yield delivery
                if self.stream is not None:
                    delivery[0].copied.synchronize()  # this memory has been read
        finally:
            pool.shutdown(cancel_futures=True)
            read.close()

    def _read(self, part: ndarray, entries: ndarray, view: View, epoch: int) -> tuple[list[Image], list[str]]:
        """The images at these places of a batch, in a thread, and lines about those that are left out."""
        chunk, skipped = self.chunk(part, entries, view, epoch)
        images = []
        numbers = zip(*(column.tolist() for column in chunk[:4]), strict=True)
        for k, (place, row, height, width) in enumerate(numbers):
            raw = bool(chunk.raw[k])
            try:
                data = np.array(np.frombuffer(chunk.data[k], np.uint8))
                if not raw and not _suits(data):
                    data, raw = jpeg(data, height, width)[0].reshape(-1).copy(), True
            except (OSError, ValueError) as error:
                skipped.append(self.judge(row, reason(error)))
            else:
                images.append(Image(place, row, height, width, chunk.windows[k], chunk.flips[k], raw, data))
        return images, skipped

    def _batch(self, read: Iterator, substitutes: Substitutes) -> tuple[Delivery, list[str]] | None:
        """The next batch that was read, cut on the device, and lines about what is left out; None after the last."""
        view = substitutes.view
        step, entries, parts = next(read, (None, None, None))
        if step is None:
            return None
        images, skipped = (list(chain(*column)) for column in zip(*parts, strict=True))
        with torch.cuda.stream(self.stream):
            shown = []
            for image, pixels in zip(images, self._decoded(images), strict=True):
                if isinstance(pixels, str):
                    skipped.append(self.judge(image.row, pixels))
                else:
                    shown.append((image, pixels))
            slot = Slot(self.batch, 0, self.device)  # the images are where the crop pass has written them
            slot.images = torch.zeros(self.batch, view.size, view.size, 3, dtype=torch.uint8, device=self.device)
            slot.valid[:] = False
            if shown:
                images, pixels = zip(*shown, strict=True)
                places, heights, widths, windows, flips = (
                    np.array([getattr(image, name) for image in images])
                    for name in ("place", "height", "width", "window", "flip")
                )
                table = rows(
                    heights, widths, windows, flips, view.size, offsets(pixels),
                    planar=np.array([p.ndim == 3 for p in pixels]),
                    interpolation=view.interpolation, whole=view.whole, reflect=view.reflects,
                )  # fmt: skip
                crops = crop(pixels, upload(table, self.device), view.size, view.interpolation)
                slot.images[upload(places, self.device)] = crops
                slot.valid[torch.from_numpy(places)] = True
            if self.train and not slot.valid.all():
                substitutes.fill(slot.images, np.flatnonzero(~slot.valid.numpy()), entries)
                slot.valid[:] = True
            delivery = self.finish(slot, entries)
        if self.stream is not None:
            self.stream.synchronize()  # nvJPEG gets the pixels' memory next, on a stream that waits for none
        return delivery, skipped

    def _decoded(self, images: list[Image]) -> list[Tensor | str]:
        """Pixels on the device, [3,h,w] of a JPEG, [h * w * 3] of others; or why an image has none."""
        found: list[Tensor | str] = [""] * len(images)
        if raw := [k for k, image in enumerate(images) if image.raw]:
            data = [images[k].data for k in raw]
            together = upload(np.concatenate(data), self.device)
            for k, pixels in zip(raw, together.split([len(d) for d in data]), strict=True):
                found[k] = pixels
        if jpegs := [k for k, image in enumerate(images) if not image.raw]:
            try:
                decoded = self.decode([torch.from_numpy(images[k].data) for k in jpegs])
            except RuntimeError:  # it names no image
                decoded = [self._alone(images[k]) for k in jpegs]
            for k, pixels in zip(jpegs, decoded, strict=True):
                found[k] = pixels
                size = images[k].height, images[k].width
                if not isinstance(pixels, str) and pixels.ndim == 3 and pixels.shape[1:] != size:
                    given = f"{size[1]} x {size[0]} pixels"
                    found[k] = f"the JPEG has another size than the {given} given for it"
        return found

    def _alone(self, image: Image) -> Tensor | str:
        """A JPEG of a batch that nvJPEG has refused."""
        try:
            return self.decode([torch.from_numpy(image.data)])[0]
        except RuntimeError:
            pass
        try:
            return upload(jpeg(image.data, image.height, image.width)[0].reshape(-1).copy(), self.device)
        except ValueError as error:
            return str(error)


def decoder(device: torch.device) -> Callable[[list[Tensor]], list[Tensor]]:
    """A function from JPEGs, uint8 [bytes] each, to their pixels on the device, uint8 [3,h,w] each.

    It raises RuntimeError if it refuses one of them. Raises ValueError where there is no such decoder.
    """
    instead = "say decode: exact or fast"
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ValueError(
            f"decode is 'gpu', but the batches are for the device {str(device)!r}: take a GPU, or {instead}"
        )
    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        decode = partial(decode_jpeg, mode=ImageReadMode.RGB, device=device)
        decode([torch.from_numpy(np.array(bytearray(codec().encode_jpeg(np.zeros((16, 16, 3), np.uint8)))))])
    except (ImportError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"decode is 'gpu', but torchvision cannot use nvJPEG here ({reason}): install the CUDA build of "
            f"torchvision that fits torch, or {instead}"
        ) from None
    return decode


def _suits(data: ndarray) -> bool:
    """Whether nvJPEG is asked first: a colour JPEG with its end. Raises ValueError for no JPEG at all."""
    return bytes(data[-2:]) == END and codec().decode_jpeg_header(data)[2] == "YCbCr"
