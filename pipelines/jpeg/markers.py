"""Where things stand in a JPEG file: its segments, its grid of MCUs, and the markers in its entropy-coded data.

ITU T.81, annex B. An MCU is the smallest part that the scan codes as a whole: 8 x 8 pixels, or 16 in the directions in
which chroma is subsampled. Nopython functions on the file's bytes, uint8 [N], which may be damaged in any way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmix.kernels.compiled import compiled, inner

SOF0, SOF1, SOF2, SOF15, DHT, SOI, EOI, SOS, DRI, RST0, RST7 = (
    0xC0, 0xC1, 0xC2, 0xCF, 0xC4, 0xD8, 0xD9, 0xDA, 0xDD, 0xD0, 0xD7
)  # fmt: skip
APP0, APP14, APP15, COM, JPG, DAC = 0xE0, 0xEE, 0xEF, 0xFE, 0xC8, 0xCC
_ONES, _SEVENS, _EIGHTS = (np.uint64(int(byte * 8, 16)) for byte in ("01", "7f", "80"))


class Frame(NamedTuple):
    """A sequential Huffman JPEG of one scan: where it stands in the file, and its grid. All 0: not such a file.

    scan: offset of the entropy-coded data, in bytes. interval: MCUs between restart markers, 0 without them.
    down, across: pixels of an MCU. rows, columns: MCUs of the image.
    """

    scan: int
    interval: int
    height: int
    width: int
    down: int
    across: int
    rows: int
    columns: int


_NONE = Frame(0, 0, 0, 0, 0, 0, 0, 0)


@inner()
def word(data, at):
    """Two bytes, big-endian."""
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@compiled()
def segment(data, at):
    """(marker, first, end) of the segment at `at`: its content is [first, end), after the length. Marker 0: none."""
    size = len(data)
    if at + 1 >= size or data[at] != 0xFF:
        return 0, 0, 0
    while at + 1 < size and data[at + 1] == 0xFF:  # fill bytes
        at += 1
    if at + 4 > size:
        return 0, 0, 0
    marker, end = np.int64(data[at + 1]), at + 2 + word(data, at + 2)
    if marker < SOF0 or RST0 <= marker <= EOI or end < at + 4 or end > size:
        return 0, 0, 0
    return marker, at + 4, end


@compiled()
def frame(data):
    """The Frame of a JPEG's bytes, uint8 [N]."""
    if len(data) < 4 or data[0] != 0xFF or data[1] != SOI:
        return _NONE
    at = np.int64(2)
    interval, height, width, components, across, down = 0, 0, 0, 0, 0, 0
    while True:
        marker, first, at = segment(data, at)
        if marker == SOF0 or marker == SOF1:
            if components or at - first < 6 or data[first] != 8:
                return _NONE
            height, width, components = word(data, first + 1), word(data, first + 3), np.int64(data[first + 5])
            if height * width == 0 or (components != 1 and components != 3) or at - first != 6 + 3 * components:
                return _NONE
            for k in range(components):
                factors = data[first + 7 + 3 * k]
                across, down = max(across, np.int64(factors >> 4)), max(down, np.int64(factors & 15))
                if not 1 <= factors >> 4 <= 4 or not 1 <= factors & 15 <= 4:
                    return _NONE
        elif marker == DRI and at - first == 2:
            interval = word(data, first)
        elif marker == SOS:
            if components == 0 or at - first != 4 + 2 * components or data[first] != components:
                return _NONE
            if data[at - 3] != 0 or data[at - 2] != 63 or data[at - 1] != 0:
                return _NONE
            if components == 1:  # not interleaved: an MCU is one block, whatever the sampling factors are
                across = down = 1
            down, across = 8 * down, 8 * across
            return Frame(at, interval, height, width, down, across, -(-height // down), -(-width // across))
        elif not (marker == DHT or marker == 0xDB or APP0 <= marker <= APP15 or marker == COM):
            return _NONE


@inner()
def next_marker(data, at):
    """Where the next marker of entropy-coded data stands, at `at` or later: its FF byte; len(data) if there is none.

    A byte FF in the data themselves is followed by 00. 64 bytes at a time are searched for FF and anything but 00.
    """
    size = len(data)
    blocks = (size - at - 1) // 64
    if blocks > 0:
        here, after = data[at : at + 64 * blocks].view(np.uint64), data[at + 1 : at + 1 + 64 * blocks].view(np.uint64)
        for block in range(blocks):
            found = np.uint64(0)
            for k in range(8 * block, 8 * block + 8):
                x, y = here[k], after[k]
                found |= (~x - _ONES) & x & (((y & _SEVENS) + _SEVENS) | y)  # top bits; x = FE may raise a false alarm
            if found & _EIGHTS:
                for k in range(at + 64 * block, at + 64 * block + 64):
                    if data[k] == 0xFF and data[k + 1] != 0:
                        return k
        at += 64 * blocks
    while at + 1 < size:
        if data[at] == 0xFF and data[at + 1] != 0:
            return at
        at += 1
    return size
