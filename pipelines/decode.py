"""JPEG to RGB pixels by libjpeg-turbo: whole or in part, at full size or scaled in the DCT domain.

Strict: libjpeg's warnings are errors, so a file cut short never becomes half a picture. Other kinds of image files are
fastmix.pipelines.images' business.
"""

from __future__ import annotations

import threading

import numpy as np
import simplejpeg
from numpy import ndarray

from fastmix.pipelines.turbo import Decoder, library

DECODES = ("exact", "fast")
UPRIGHT = ("YCbCr", "Gray")  # colour spaces that libjpeg-turbo turns into RGB
END = b"\xff\xd9"
HEAD = 65536  # bytes in which a JPEG carries its EXIF data
_scratch = threading.local()


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that `jpeg` decodes as it should be seen; None for anything else.

    Cheaper than opening the file with Pillow: whatever carries EXIF data, which may turn the image, is left to it.
    """
    if data[:2] != b"\xff\xd8" or b"Exif\0" in data[:HEAD]:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colours in UPRIGHT else None


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
    tall, wide = -(-height // factor), -(-width // factor)
    memory = _memory(height * width * 3)
    # A file cut short lacks its end, which decoding a part might not come to see.
    if part and (turbo := _turbo()) and bytes(data[-2:]) == END:
        top, left, bottom, right = max(part[0], 0), max(part[1], 0), min(part[2], tall), min(part[3], wide)
        if top < bottom and left < right:
            return turbo.decode(data, (height, width), factor, (top, left, bottom, right), memory)
    scaled = {"min_height": tall, "min_width": wide, "min_factor": 2} if factor > 1 else {}
    pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=memory, **scaled)
    if pixels.shape[:2] != (tall, wide):
        raise ValueError(f"the JPEG has another size than the {width} x {height} pixels given for it")
    return pixels, (0, 0)


def _turbo() -> Decoder | None:
    if not hasattr(_scratch, "turbo"):
        _scratch.turbo = Decoder() if library() else None
    return _scratch.turbo


def _memory(size: int) -> ndarray:
    """At least so many bytes, the same every time: fresh memory would cost page faults."""
    if getattr(_scratch, "memory", None) is None or len(_scratch.memory) < size:
        _scratch.memory = np.empty(size, np.uint8)
    return _scratch.memory
