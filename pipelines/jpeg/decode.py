"""JPEG to RGB pixels by libjpeg-turbo: whole or in part, at full size or scaled in the DCT domain.

Strict: libjpeg's warnings are errors, so a file cut short never becomes half a picture. Other kinds of image files are
fastmix.pipelines.packing.images' business.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy import ndarray

from fastmix.pipelines.jpeg.codec import codec
from fastmix.pipelines.jpeg.limits import check_jpeg
from fastmix.pipelines.jpeg.turbo import decode_part, turbo

DECODES = ("exact", "fast", "gpu")
UPRIGHT = ("YCbCr", "Gray")  # colour spaces that libjpeg-turbo turns into RGB
END = b"\xff\xd9"
HEAD = 65536  # bytes in which a JPEG carries its EXIF data
_local = threading.local()


class Workspace:
    """What a thread decodes with; it goes with the thread.

    turbo   its instance of TurboJPEG; None where that is not installed
    """

    def __init__(self):
        self.turbo = turbo(self)
        self._memory: dict[str, ndarray] = {}

    def memory(self, name: str, size: int) -> ndarray:
        """At least so many bytes, the same every time: fresh memory would cost page faults."""
        if name not in self._memory or len(self._memory[name]) < size:
            self._memory[name] = np.empty(size, np.uint8)
        return self._memory[name]


def workspace() -> Workspace:
    """This thread's."""
    if not hasattr(_local, "workspace"):
        _local.workspace = Workspace()
    return _local.workspace


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that `jpeg` decodes as it should be seen; None for anything else.

    Cheaper than opening the file with Pillow: whatever carries EXIF data, which may turn the image, is left to it.
    Raises ValueError for a size that cannot be, or of more than MAX_PIXELS.
    """
    if data[:2] != b"\xff\xd8" or b"Exif\0" in data[:HEAD]:
        return None
    header = codec().decode_jpeg_header
    try:
        height, width, colours, _ = header(data)
    except ValueError:
        return None
    if colours not in UPRIGHT:
        return None
    check_jpeg(height, width, len(data))
    return height, width


def factor(reduction: float) -> int:
    """The largest of 8, 4, 2, 1 that is not above `reduction`.

    Of libjpeg-turbo's scales n/8 those between 1/2 and 1 take longer than decoding whole, so they are passed over.
    """
    return next(f for f in (8, 4, 2, 1) if f <= max(reduction, 1))


def jpeg(
    data: bytes | ndarray, height: int, width: int, factor: int = 1, part: tuple[int, int, int, int] | None = None
) -> tuple[ndarray, tuple[int, int]]:
    """A JPEG of height x width pixels at 1/factor of its size (1, 2, 4 or 8), rounded up: (uint8 [h,w,3], (y, x)).

    part (top, left, bottom, right), in pixels of the scaled image: the rest is not needed, and may be left out. y, x is
    the place of the first pixel in the scaled image. The memory is the thread's: the next call overwrites it.
    Raises ValueError with the reason for a damaged file, or one of another size.
    """
    own = workspace()
    if codec().decode_jpeg_header(data)[:2] != (height, width):  # before memory is asked for
        raise ValueError(f"the JPEG has another size than the {width} x {height} pixels given for it")
    check_jpeg(height, width, len(data))
    memory = own.memory("pixels", height * width * 3)
    if part and own.turbo:
        source = np.frombuffer(data, np.uint8)
        where = source.ctypes.data, len(source), height, width, factor, *part
        y, x, h, w = decode_part(own.turbo, *where, own.memory("small", len(source)), memory)
        if h:
            return memory[: 3 * h * w].reshape(h, w, 3), (y, x)
    tall, wide = -(-height // factor), -(-width // factor)
    scaled = {"min_height": tall, "min_width": wide, "min_factor": 2} if factor > 1 else {}
    pixels = codec().decode_jpeg(data, "RGB", buffer=memory, **scaled)
    if pixels.shape[:2] != (tall, wide):
        raise ValueError(f"the JPEG has another size than the {width} x {height} pixels given for it")
    return pixels, (0, 0)
