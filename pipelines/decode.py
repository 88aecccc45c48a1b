"""JPEG to RGB pixels by libjpeg-turbo (simplejpeg), whole or scaled in the DCT domain.

Strict: libjpeg's warnings are errors, so a file cut short never becomes half a picture. Other kinds of image files are
fastmix.pipelines.images' business.
"""

from __future__ import annotations

import threading

import numpy as np
import simplejpeg
from numpy import ndarray

DECODES = ("exact", "fast")
UPRIGHT = ("YCbCr", "Gray")  # colour spaces that libjpeg-turbo turns into RGB
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


def jpeg(data: bytes | ndarray, height: int, width: int, reduction: float = 1) -> tuple[ndarray, int]:
    """A JPEG of height x width pixels: (uint8 [h,w,3], factor), in memory of this thread that the next call overwrites.

    It is decoded at 1/factor of its size, factor the largest of 8, 4, 2, 1 that is not above `reduction`; h and w are
    rounded up. Raises ValueError with the reason for a damaged file, or one of another size.
    """
    # Of libjpeg-turbo's scales n/8 those between 1/2 and 1 take longer than decoding whole, so they are passed over.
    factor = next(f for f in (8, 4, 2, 1) if f <= max(reduction, 1))
    tall, wide = -(-height // factor), -(-width // factor)
    scaled = {"min_height": tall, "min_width": wide, "min_factor": 2} if factor > 1 else {}
    pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=_memory(height * width * 3), **scaled)
    if pixels.shape[:2] != (tall, wide):
        raise ValueError(f"the JPEG has another size than the {width} x {height} pixels given for it")
    return pixels, factor


def _memory(size: int) -> ndarray:
    """Reused by the thread: page faults of fresh memory would cost a fifth of a decode."""
    if getattr(_scratch, "memory", None) is None or len(_scratch.memory) < size:
        _scratch.memory = np.empty(size, np.uint8)
    return _scratch.memory
