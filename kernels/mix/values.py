"""What compiled code reads and writes as fp32: values of uint8, fp32, bf16 and fp16, which numpy or numba lack."""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

INFINITE = np.uint32(0x7F800000)


@intrinsic
def as_float(typing, word):
    """The fp32 number of 32 bits."""
    return types.float32(types.uint32), lambda _, builder, __, args: builder.bitcast(args[0], ir.FloatType())


def pixel(value):
    """A source's value in fp32: of uint8, fp32, or the bits of a bf16 as uint16, of an fp16 as int16."""
    return np.float32(value)


@overload(pixel)
def _pixel(value):
    if value == types.uint16:
        return lambda value: as_float(np.uint32(value) << np.uint32(16))
    if value == types.int16:
        return _half
    return lambda value: np.float32(value)


def _half(value):
    size = np.uint32(value & np.int16(0x7FFF)) << np.uint32(13)
    number = as_float(size) * np.float32(2.0**112)  # the exponent's bias goes from 15 to 127; subnormals are exact
    if size >= np.uint32(0x0F800000):  # infinite, or none
        number = as_float(size | INFINITE)
    return -number if value < 0 else number


@intrinsic
def _as_word(typing, number):
    """The 32 bits of an fp32 number."""
    return types.uint32(types.float32), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(32))


def put(line, e, value):
    """line[e] = value, fp32, rounded to nearest, ties to even; of 16 bits as `pixel` has them."""
    line[e] = value


@overload(put)
def _put(line, e, value):
    if line.dtype == types.uint16:
        return _put_bfloat16
    if line.dtype == types.int16:
        return _put_float16
    return put


def _put_bfloat16(line, e, value):
    word = _as_word(value)
    even = (word >> np.uint32(16)) & np.uint32(1)
    line[e] = np.uint16(np.uint32(word + np.uint32(0x7FFF) + even) >> np.uint32(16))


def _put_float16(line, e, value):
    """Below 2**-14 the fp32 adder rounds to the fixed step of subnormals, from 65520 on all is infinite."""
    word = _as_word(value)
    sign, size = (word >> np.uint32(16)) & np.uint32(0x8000), word & np.uint32(0x7FFFFFFF)
    even = (size >> np.uint32(13)) & np.uint32(1)
    rebased = np.uint32(size + np.uint32(0xC8000FFF) + even)  # the exponent's bias goes from 127 to 15
    half = rebased >> np.uint32(13)
    if size >= np.uint32(0x47800000):
        half = np.uint32(0x7C00)
    elif size < np.uint32(0x38800000):
        half = np.uint32((abs(value) + np.float32(0.5) - np.float32(0.5)) * np.float32(1 << 24))
    line[e] = np.int16(np.uint16(sign | half))


def as_numpy(images: Tensor) -> np.ndarray:
    """Images as numpy has them: see `pixel`."""
    bits = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}
    return images.view(bits[images.dtype]).numpy() if images.dtype in bits else images.numpy()
