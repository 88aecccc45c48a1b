"""Restart markers in JPEGs: putting them in without loss, and cutting a region out without decoding it.

A baseline JPEG's Huffman stream can be entered at its start and after restart markers only (ITU T.81, E.1.4 and
F.2.1.3.1). Where these stand at equal parts of each row of MCUs, they are found by looking for the bytes FF D0..D7,
which occur nowhere else in the stream, and the parts that a crop needs make a JPEG of their own: the same tables,
another height and width, the markers numbered anew. `insert` makes such files of others by rewriting the DC differences
at the markers; the coefficients stay what they are.
"""

from __future__ import annotations

import numpy as np

from fastmix.kernels.compiled import compiled, inner
from fastmix.pipelines.jpeg.huffman import NO_CODE, components, standard_dc, transcode
from fastmix.pipelines.jpeg.markers import (
    APP0,
    APP14,
    DHT,
    DRI,
    EOI,
    RST0,
    SOF0,
    SOF1,
    SOS,
    frame,
    next_marker,
    segment,
)


def insert(data: bytes, least: int = 4) -> bytes | None:
    """The same JPEG with restart markers that divide each row of MCUs into equal parts: what `cut` needs.

    A part has the smallest number of MCUs, `least` or more, that divides a row; else it is a whole row. The decoded
    pixels are the same bit for bit; all segments (EXIF, ICC, ...) and what follows the image are kept. Restart markers
    that are there are replaced. Where the DC tables lack a code that is needed, the standard ones are put in.
    None where that cannot be: progressive, arithmetic, lossless or 12 bit coding, several scans, CMYK, or damaged data.
    """
    source = np.frombuffer(data, np.uint8)
    grid = frame(source)
    if not grid.scan:
        return None
    step = next((k for k in range(least, grid.columns) if grid.columns % k == 0), grid.columns)
    out = np.empty(2 * len(data) + 32 * min(grid.rows * grid.columns, 4 * len(data)) + 4096, np.uint8)
    tables = b""
    length, end = transcode(source, grid, step, False, out)
    if length == NO_CODE:
        tables = _standard_tables(source, grid.scan)
        length, end = transcode(source, grid, step, True, out)
    if length <= 0 or source[end + 1] != EOI:
        return None
    at, head = 2, [data[:2]]
    while at < grid.scan:
        start = at
        marker, _, at = segment(source, at)
        if marker == SOS:
            head += [tables, bytes((0xFF, DRI, 0, 4, step >> 8, step & 255))]
        if marker != DRI:
            head.append(data[start:at])
    return b"".join([*head, out[:length].tobytes(), data[end:]])


def _standard_tables(data: np.ndarray, scan: int) -> bytes:
    """A DHT segment with the standard DC tables, under the numbers that the scan's components use."""
    content, numbers = b"", components(data, scan)[1][:, 0].tolist()
    for number in sorted(set(numbers)):
        counts, symbols = standard_dc(number != numbers[0])
        content += bytes([number, *counts[1:], *symbols[:12]])
    return bytes((0xFF, DHT, 0, 2 + len(content))) + content


@inner()
def _copy(data, start, end, out, at):
    source, target = data[start:end], out[at : at + end - start]
    for k in range(len(source)):  # assigning the slice would take longer, to compile and to run
        target[k] = source[k]
    return at + end - start


@inner(inline="always")
def _head(data, scan, height, width, out):
    """Copies what decoding needs of the segments before the scan, with another height and width; returns the length."""
    none, at = np.int64(0), np.int64(2)
    length = _copy(data, none, at, out, none)
    while at < scan:
        start = at
        marker, first, at = segment(data, at)
        if marker < APP0 or marker == APP0 or marker == APP14:  # JFIF and Adobe tell the colour space
            length = _copy(data, start, at, out, length)
            if marker == SOF0 or marker == SOF1:
                size = length - (at - first) + 1
                out[size], out[size + 1] = height >> 8, height & 255
                out[size + 2], out[size + 3] = width >> 8, width & 255
    return length


@compiled()
def cut(data, top, left, bottom, right, out):
    """Writes a JPEG of the pixels [top, bottom) x [left, right) of a JPEG, and some around them, to `out`, undecoded.

    data: the JPEG, uint8 [N], contiguous. out: uint8, contiguous, as long as data or longer. Returns (length, y, x,
    height, width): the new JPEG is out[:length], its first pixel is the pixel y, x of the whole image.

    A margin of 1 pixel, as far as the image goes, is added: libjpeg's "fancy" upsampling reads the neighbouring chroma
    sample. So the pixels asked for, not those of the margin, are the same as those of the whole image, bit for bit.
    Then the region grows to whole MCUs in height (8 or 16 pixels, by the chroma subsampling), and to whole restart
    intervals in width, or to the image's edges.

    length is 0, and nothing else means anything, where that cannot be: no pixels asked for; `out` too short; not a
    baseline JPEG of one scan; restart intervals that do not divide the MCUs of a row; markers that are missing, too
    many or out of order; no end marker. Damage between the markers is left to the decoder.
    """
    grid = frame(data)
    step = grid.interval
    if step == 0 or grid.columns % step or len(out) < len(data):
        return 0, 0, 0, 0, 0
    if max(top, 0) >= min(bottom, grid.height) or max(left, 0) >= min(right, grid.width):
        return 0, 0, 0, 0, 0
    top, left = max(top - 1, 0), max(left - 1, 0)
    bottom, right = min(bottom + 1, grid.height), min(right + 1, grid.width)
    low, high = top // grid.down, -(-bottom // grid.down)
    near, far = left // (step * grid.across), -(-right // (step * grid.across))
    y, x = low * grid.down, near * step * grid.across
    height = min(high * grid.down, grid.height) - y
    width = min(far * step * grid.across, grid.width) - x
    length = _head(data, grid.scan, height, width, out)
    at, taken = grid.scan, 0
    for row in range(grid.rows):
        for column in range(grid.columns // step):
            end = next_marker(data, at)
            k = row * (grid.columns // step) + column
            last = k + 1 == grid.rows * (grid.columns // step)
            if end == len(data) or data[end + 1] != (EOI if last else RST0 + k % 8):
                return 0, 0, 0, 0, 0
            if low <= row < high and near <= column < far:
                length = _copy(data, at, end, out, length)
                out[length], out[length + 1] = 0xFF, RST0 + taken % 8
                length += 2
                taken += 1
            at = end + 2
    out[length - 1] = EOI
    return length, y, x, height, width
