"""Decoding a part of a JPEG: TurboJPEG 3's cropping, from nopython code, where that library is installed.

simplejpeg decodes whole images only. A random crop covers half of an image on average, and libjpeg-turbo can leave out
the inverse DCT beside it and everything below it: a fifth of the decoding time, with the same pixels bit for bit. Where
the file has restart markers (restarts.py), all that lies outside is left out.
The library comes with the wheel `turbojpeg` (any that is called so by the system will do).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
import weakref
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import carray

from fastmix.kernels.compiled import compiled, inner
from fastmix.pipelines.jit.intrinsics import address, call, pointer
from fastmix.pipelines.jpeg.markers import frame
from fastmix.pipelines.jpeg.restarts import cut

# Of turbojpeg.h, which promises not to change them.
_DECOMPRESS, _RGB = 1, 0
_SUBSAMPLING, _WIDTH, _HEIGHT, _COLOURS = 4, 5, 6, 8
_YCBCR, _GREY = 1, 2
_MCU_WIDTH = (8, 16, 16, 8, 8, 32, 8)  # pixels of a block of all components, by subsampling


class Turbo(NamedTuple):
    """An instance of TurboJPEG, and addresses of its functions: int64."""

    handle: int
    header: int
    get: int
    scale: int
    region: int
    decompress: int


_FUNCTIONS = ("tj3DecompressHeader", "tj3Get", "tj3SetScalingFactor", "tj3SetCroppingRegion", "tj3Decompress8")


@cache
def library() -> ctypes.CDLL | None:
    """TurboJPEG 3, or None where it is not installed, or is called in another way than `machine.call` does."""
    if sys.platform == "win32" or platform.machine() not in ("x86_64", "aarch64", "arm64"):
        return None
    wheel = find_spec("turbojpeg")
    beside = Path(wheel.origin).parent / "turbojpeg.libs" if wheel and wheel.origin else None
    names = [str(path) for path in sorted(beside.glob("libturbojpeg*"))] if beside else []
    for name in (*names, ctypes.util.find_library("turbojpeg")):
        try:
            found = ctypes.CDLL(name) if name else None
            found.tj3Init.restype, found.tj3Destroy.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            for function in _FUNCTIONS:
                getattr(found, function)
            return found
        except (OSError, AttributeError):  # not for this machine, or TurboJPEG 2
            continue
    return None


def turbo(owner: object) -> Turbo | None:
    """A new instance, for one thread at a time, that goes when `owner` goes; None where there is no library."""
    tj = library()
    handle = tj and tj.tj3Init(_DECOMPRESS)
    if not handle:
        return None
    weakref.finalize(owner, tj.tj3Destroy, handle)
    return Turbo(handle, *(ctypes.cast(getattr(tj, name), ctypes.c_void_p).value for name in _FUNCTIONS))


@inner()
def upright_size(turbo, data, size):
    """(height, width) of the JPEG of `size` bytes at the address `data`; 0, 0 for none, or colours but UPRIGHT."""
    if np.int32(call(turbo.header, (turbo.handle, data, size))) != 0:
        return 0, 0
    colours = np.int32(call(turbo.get, (turbo.handle, _COLOURS)))
    if colours != _YCBCR and colours != _GREY:
        return 0, 0
    height, width = call(turbo.get, (turbo.handle, _HEIGHT)), call(turbo.get, (turbo.handle, _WIDTH))
    return np.int64(np.int32(height)), np.int64(np.int32(width))


@compiled()
def decode_part(turbo, source, size, height, width, factor, top, left, bottom, right, small, pixels):
    """The part [top, bottom) x [left, right) of a JPEG of height x width pixels at 1/factor, and columns beside it.

    source, size: the JPEG's bytes, by address. The part is in pixels of the scaled image, and may reach beyond it.
    small: memory of `size` bytes. pixels: memory for the result, of height * width * 3 bytes; both uint8.
    Returns (y, x, h, w): the place of the result in the scaled image. Its pixels inside the part are those of the whole
    image decoded. h is 0 for a JPEG that is damaged, of another size, or cannot be decoded in this way.
    """
    top, left = max(top, 0), max(left, 0)
    bottom, right = min(bottom, -(-height // factor)), min(right, -(-width // factor))
    if top >= bottom or left >= right or size < 4:
        return 0, 0, 0, 0
    data = carray(pointer(source), (size,), np.uint8)
    grid = frame(data)
    if grid.interval and grid.height == height and grid.width == width:
        margin = factor - 1  # and the 1 of `cut`: together a pixel of the scaled image
        length, y, x, tall, broad = cut(
            data,
            top * factor - margin,
            left * factor - margin,
            bottom * factor + margin,
            right * factor + margin,
            small,
        )
        if length:
            y, x = y // factor, x // factor
            region = top - y, left - x, bottom - y, right - x
            top, left, h, w = _decode(turbo, address(small), length, tall, broad, factor, *region, pixels)
            return top + y, left + x, h, w
    if data[size - 2] != 0xFF or data[size - 1] != 0xD9:  # cut short perhaps, which shows when all of it is read
        top, left, bottom, right = 0, 0, -(-height // factor), -(-width // factor)
    return _decode(turbo, source, size, height, width, factor, top, left, bottom, right, pixels)


@inner()
def _decode(turbo, data, size, height, width, factor, top, left, bottom, right, pixels):
    """decode_part of `size` bytes at the address `data`; the part lies inside the image; markers are not looked for."""
    handle = turbo.handle
    if np.int32(call(turbo.header, (handle, data, size))) != 0:
        return 0, 0, 0, 0
    sampling = np.int32(call(turbo.get, (handle, _SUBSAMPLING)))
    tall, wide = np.int32(call(turbo.get, (handle, _HEIGHT))), np.int32(call(turbo.get, (handle, _WIDTH)))
    if tall != height or wide != width or not 0 <= sampling < len(_MCU_WIDTH):
        return 0, 0, 0, 0
    # A region begins at a whole block; chroma of the neighbours left and right enters the upsampling.
    block = _MCU_WIDTH[sampling] // factor
    left = max(left - 1, 0) // block * block
    h, w = bottom - top, min(right + block, -(-width // factor)) - left
    if np.int32(call(turbo.scale, (handle, 1 | factor << 32))) != 0:
        return 0, 0, 0, 0
    if np.int32(call(turbo.region, (handle, left | top << 32, w | h << 32))) != 0:
        return 0, 0, 0, 0
    if np.int32(call(turbo.decompress, (handle, data, size, address(pixels), 0, _RGB))) != 0:
        return 0, 0, 0, 0
    return top, left, h, w
