"""Decoding a part of a JPEG: TurboJPEG 3's cropping, by ctypes, where that library is installed.

simplejpeg decodes whole images only. A random crop covers half of an image on average, and libjpeg-turbo can leave out
the inverse DCT beside it and everything below it: a fifth of the decoding time, with the same pixels bit for bit.
The library comes with the wheel `turbojpeg` (any that is called so by the system will do).
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy import ndarray

# Of turbojpeg.h, which promises not to change them.
_DECOMPRESS, _RGB = 1, 0
_SUBSAMPLING, _WIDTH, _HEIGHT = 4, 5, 6
_MCU_WIDTH = {0: 8, 1: 16, 2: 16, 3: 8, 4: 8, 5: 32, 6: 8}  # pixels of a block of all components, by subsampling


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


class _Scale(ctypes.Structure):
    _fields_ = [("num", ctypes.c_int), ("denom", ctypes.c_int)]


_SIGNATURES = {
    "tj3Init": (ctypes.c_void_p, ctypes.c_int),
    "tj3Destroy": (None, ctypes.c_void_p),
    "tj3Get": (ctypes.c_int, ctypes.c_void_p, ctypes.c_int),
    "tj3GetErrorStr": (ctypes.c_char_p, ctypes.c_void_p),
    "tj3DecompressHeader": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
    "tj3SetScalingFactor": (ctypes.c_int, ctypes.c_void_p, _Scale),
    "tj3SetCroppingRegion": (ctypes.c_int, ctypes.c_void_p, _Region),
    "tj3Decompress8": (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
    ),
}  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """TurboJPEG 3, or None where it is not installed."""
    wheel = find_spec("turbojpeg")
    beside = Path(wheel.origin).parent / "turbojpeg.libs" if wheel and wheel.origin else None
    names = [str(path) for path in sorted(beside.glob("libturbojpeg*"))] if beside else []
    for name in (*names, ctypes.util.find_library("turbojpeg")):
        try:
            found = ctypes.CDLL(name) if name else None
            for function, (result, *arguments) in _SIGNATURES.items():
                getattr(found, function).restype = result
                getattr(found, function).argtypes = arguments
            return found
        except (OSError, AttributeError):  # not for this machine, or TurboJPEG 2
            continue
    return None


class Decoder:
    """A TurboJPEG instance, of one thread."""

    def __init__(self):
        self._tj = library()
        self._handle = self._tj.tj3Init(_DECOMPRESS)

    def __del__(self):
        self._tj.tj3Destroy(self._handle)

    def decode(
        self, data: bytes | ndarray, size: tuple[int, int], factor: int, part: tuple[int, int, int, int], out: ndarray
    ) -> tuple[ndarray, tuple[int, int]]:
        """Part (top, left, bottom, right) of a JPEG at 1/factor, and a few columns beside it: (uint8 [h,w,3], (y, x)).

        y, x is the place of the first pixel in the scaled image; the pixels are in `out`, uint8. Those of the part are
        the same as if the whole image had been decoded. size is the (height, width) that the JPEG must have at 1/1.
        Raises ValueError with the reason for a damaged file, or one of another size.
        """
        data = np.frombuffer(data, np.uint8)
        self._check(self._tj.tj3DecompressHeader(self._handle, data.ctypes.data, data.nbytes))
        height, width, sampling = (self._tj.tj3Get(self._handle, key) for key in (_HEIGHT, _WIDTH, _SUBSAMPLING))
        if (height, width) != size:
            raise ValueError(f"the JPEG has another size than the {size[1]} x {size[0]} pixels given for it")
        if sampling not in _MCU_WIDTH:
            raise ValueError("the JPEG has an unusual chroma subsampling")
        # A region begins at a whole block; chroma of the neighbours left and right enters the upsampling.
        block = _MCU_WIDTH[sampling] // factor
        top, left = part[0], max(part[1] - 1, 0) // block * block
        h, w = part[2] - top, min(part[3] + block, -(-width // factor)) - left
        self._check(self._tj.tj3SetScalingFactor(self._handle, _Scale(1, factor)))
        self._check(self._tj.tj3SetCroppingRegion(self._handle, _Region(left, top, w, h)))
        pixels = out[: 3 * h * w].reshape(h, w, 3)
        self._check(self._tj.tj3Decompress8(self._handle, data.ctypes.data, data.nbytes, pixels.ctypes.data, 0, _RGB))
        return pixels, (top, left)

    def _check(self, status: int) -> None:
        if status:
            raise ValueError(self._tj.tj3GetErrorStr(self._handle).decode(errors="replace"))
