"""The `ffcv` loader: the ffcv package's own reader and C decoder, with our order, crops, threads and errors.

What ffcv's Python does is left out: its loader draws crops and flips of its own, ignores what its decoder returns (a
damaged JPEG trains on the pixels of another image), and waits for ever when its thread fails. Its C code is what makes
its pixels and its speed, and that is used as it is: pread of the file, libjpeg-turbo's whole image with the fast DCT,
OpenCV's INTER_AREA on the window. So the windows and mirror images are those of the other loaders, and the pixels are
not quite: INTER_AREA is a box filter where `beton` has an antialiased triangle, and the fast DCT rounds downwards (on
photographs 1.7 levels apart on average, 0.8 levels darker). `decode` says nothing here. There is no bicubic filter.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from types import ModuleType

import numpy as np
from numpy import ndarray

from fastmix.pipelines.chunk import Chunk, Record
from fastmix.pipelines.jpeg.codec import codec, need
from fastmix.pipelines.loader import Loader
from fastmix.pipelines.packing.format import RAW
from fastmix.pipelines.packing.format import Beton as File
from fastmix.pipelines.packing.labels import names
from fastmix.pipelines.resize import place
from fastmix.pipelines.sources.resolve import packed, resolve
from fastmix.pipelines.view import View

INSTALL = (
    "apt-get install -y --no-install-recommends g++ pkg-config python3-dev libturbojpeg0-dev libopencv-dev libgl1 "
    "libglib2.0-0, then pip install 'fastmix[ffcv]'"
)


class Ffcv(Loader):
    """Reads a `.beton` file, JPEG or raw rows. Raises ValueError where ffcv is missing, and for what it cannot do."""

    def open(self) -> None:
        if self.view.interpolation != "bilinear":
            raise ValueError(
                f"the ffcv loader resizes by INTER_AREA alone, not by {self.view.interpolation!r}: say bilinear, which "
                "is nearest to it, or take the loader beton"
            )
        if self.view.decode == "gpu":
            raise ValueError("the ffcv loader decodes on the CPU: say decode exact, or take the loader beton or dali")
        if len(files := packed(self.given)) > 1:
            what = f"the ffcv loader reads one .beton file, not {len(files)} as one data set"
            raise ValueError(f"{self.source}: {what}; take the loader beton, dali or resident")
        self.file = File(resolve(*files))  # checked here, as ffcv would hang or read beyond it
        self.labels = self.file.labels
        self.class_names, self.warnings = names(self.labels, self.file.classes), self.file.warnings
        need(self.source, (self.file.modes != RAW).any())
        self._c, reader = _package()
        table = reader.Reader(self.file.path)
        images = [name for name, handler in table.handlers.items() if type(handler).__name__ == "RGBImageField"]
        field = table.field_names.index("image" if "image" in images else images[0])
        self._images = table.metadata[f"f{field}"]
        self._descriptor = os.open(self.file.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def record(self, row: int) -> Record:
        image = self._images[row]
        data = np.empty(self.file.sizes[row], np.uint8)
        if self._c.read(self._descriptor, data, int(image["data_ptr"])) != len(data):
            raise ValueError("the file has become shorter since it was opened")
        return Record(int(image["height"]), int(image["width"]), data, image["mode"] == RAW)

    def where(self, row: int) -> str:
        return self.file.where(row)

    def develop(self, chunk: Chunk, view: View, images: ndarray) -> dict[int, str]:
        memory = np.empty((chunk.heights * chunk.widths * 3).max(initial=0), np.uint8)
        failed = {}
        for k, at in enumerate(chunk.places):
            height, width = int(chunk.heights[k]), int(chunk.widths[k])
            pixels = (chunk.data[k] if chunk.raw[k] else memory[: height * width * 3]).reshape(height, width, 3)
            try:
                if not chunk.raw[k]:
                    self._decode(chunk.data[k], pixels)
            except ValueError as error:
                failed[k] = str(error)
            else:
                self._place(pixels, chunk.windows[k], chunk.flips[k], images[at], view)
        return failed

    def _decode(self, data: ndarray, pixels: ndarray) -> None:
        """A JPEG's pixels; raises ValueError for a damaged one, or one of another size, which would go unnoticed."""
        height, width = pixels.shape[:2]
        if codec().decode_jpeg_header(data)[:2] != (height, width):
            raise ValueError(f"the JPEG has another size than the {width} x {height} pixels given for it")
        if self._c.imdecode(data, pixels, height, width, height, width):
            # What libjpeg only warns of counts too: then TurboJPEG decodes, and returns -1 all the same.
            raise ValueError(self._c.lib.tjGetErrorStr().decode())

    def _place(self, pixels: ndarray, window: ndarray, flip: bool, out: ndarray, view: View) -> None:
        """Writes a window of the pixels into out, resized by INTER_AREA; as resize.place, but for the filter."""
        size = len(out)
        y, x, h, w = window
        if view.whole and (h, w) != (size, size):  # the image is resized, then cropped
            tall, wide = (round(side * size / part) for side, part in zip(pixels.shape[:2], (h, w), strict=True))
            small = np.empty((tall, wide, 3), np.uint8)
            self._c.resize_crop(pixels, 0, pixels.shape[0], 0, pixels.shape[1], small)
            place(small, np.rint([y * size / h, x * size / w, size, size]), flip, out)
        elif (h, w) == (size, size):
            place(pixels, window, flip, out, mirrored=pixels.shape[:2] if view.reflects else (0, 0))
        else:
            target = np.empty_like(out) if flip else out
            self._c.resize_crop(pixels, int(y), int(y + h), int(x), int(x + w), target)
            if flip:
                out[:] = target[:, ::-1]


def _package() -> tuple[ModuleType, ModuleType]:
    """ffcv.libffcv and ffcv.reader. Importing ffcv sets torch and numba to one thread, which is undone."""
    import numba
    import torch

    threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        import ffcv.libffcv as library
        import ffcv.reader as reader
    except (ImportError, OSError) as error:
        raise ValueError(f"the ffcv loader needs the ffcv package ({error}): {INSTALL}") from None
    finally:
        torch.set_num_threads(threads[0])
        numba.set_num_threads(threads[1])
    library.lib.tjGetErrorStr.restype = ctypes.c_char_p
    return library, reader
