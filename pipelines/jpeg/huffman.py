"""A JPEG's Huffman stream written again with restart markers; no coefficient changes.

An AC coefficient's code does not depend on other blocks, so its bits are copied. A DC coefficient is coded as the
difference from the block before, and from 0 after a restart marker: it is decoded, and coded again (ITU T.81, F.1.2.1,
F.2.2.1). Nopython functions; whatever the bytes are, nothing outside the arrays is touched.
"""

from __future__ import annotations

import numpy as np

from fastmix.kernels.compiled import compiled, inner
from fastmix.pipelines.jpeg.markers import DHT, RST0, SOF0, SOF1, next_marker, segment

INVALID, NO_CODE = 0, -1  # what `transcode` returns instead of a length
_LOOK = 10  # bits that are looked up at once
_SLACK = 1024  # bytes; more than a block's code can have, read or written


@compiled()
def standard_dc(chroma):
    """(counts uint8 [17], symbols uint8 [256]) of the usual DC table, which has all categories (T.81, K.3.1)."""
    counts, symbols = np.zeros(17, np.uint8), np.zeros(256, np.uint8)
    symbols[:12] = np.arange(12)
    if chroma:
        counts[2:12] = 1
        counts[2] = 3
    else:
        counts[2:10] = 1
        counts[3] = 5
    return counts, symbols


@inner()
def _tables(data, scan):
    """The Huffman tables that the segments before the scan define: counts uint8 [8,17], symbols uint8 [8,256].

    DC tables are 0..3, AC tables 4..7; a table that is not defined, or is damaged, has no codes.
    """
    counts, symbols = np.zeros((8, 17), np.uint8), np.zeros((8, 256), np.uint8)
    at = np.int64(2)
    while at < scan:
        marker, first, at = segment(data, at)
        while marker == DHT and first + 17 <= at:
            which = np.int64(data[first] >> 4 & 1) * 4 + np.int64(data[first] & 3)
            counts[which, 1:] = data[first + 1 : first + 17]
            total = counts[which].astype(np.int64).sum()
            first += 17
            if total > 256 or first + total > at:
                counts[which] = 0
                break
            symbols[which, :total] = data[first : first + total]
            first += total
    return counts, symbols


@inner()
def _decoder(counts, symbols, look, limits, bases):
    """Fills look [1 << _LOOK] with 256 * length + symbol of short codes; limits, bases [17] find longer ones.

    A code of some length is below its limit; its symbol stands at bases + code. False: codes that cannot be.
    """
    code, k = 0, 0
    for length in range(1, 17):
        bases[length] = k - code
        for _ in range(counts[length]):
            if code >= 1 << length:
                return False
            if length <= _LOOK:
                look[code << (_LOOK - length) : (code + 1) << (_LOOK - length)] = length << 8 | symbols[k]
            code += 1
            k += 1
        limits[length] = code
        code <<= 1
    return True


@inner()
def _encoder(counts, symbols, codes, lengths):
    """Fills codes and lengths [256] by symbol; length 0: it has no code."""
    code, k = 0, 0
    for length in range(1, 17):
        for _ in range(counts[length]):
            codes[symbols[k]], lengths[symbols[k]] = code, length
            code += 1
            k += 1
        code <<= 1


@inner()
def _unstuff(data, at, intervals):
    """The entropy-coded data without markers and stuffed zeros: (bytes, offset of each interval and of the end, end).

    end is where the marker after the last interval stands in `data`; 0 if markers are missing or out of order.
    """
    plain = np.zeros(len(data) - at + _SLACK, np.uint8)
    starts = np.zeros(intervals + 1, np.int64)
    size = 0
    for i in range(intervals):
        end = marker = next_marker(data, at)
        while marker + 2 < len(data) and data[marker + 1] == 0xFF:  # fill bytes
            marker += 1
        if end == len(data) or (i + 1 < intervals and data[marker + 1] != RST0 + i % 8):
            return plain, starts, 0
        for k in range(at, end):
            plain[size] = data[k]
            size += data[k] != 0 or data[k - 1] != 0xFF  # else a stuffed zero
        starts[i + 1] = size
        at = marker + 2
    return plain, starts, at - 2


@inner()
def _peek(data, position):
    """64 bits from bit `position` on, of which the last 7 at most are missing."""
    at = np.uint64(position >> 3)
    bits = np.uint64(0)
    for k in range(8):
        bits = bits << np.uint64(8) | np.uint64(data[at + np.uint64(k)])
    return bits << np.uint64(position & 7)


@inner()
def _symbol(bits, table, look, limits, bases, symbols):
    """(length, symbol) of the code that the bits begin with, by one of the tables; length 0: there is none."""
    entry = look[table, bits >> np.uint64(64 - _LOOK)]
    if entry:
        return entry >> 8, entry & 255
    for length in range(_LOOK + 1, 17):
        code = np.int64(bits >> np.uint64(64 - length))
        if code < limits[table, length]:
            return length, np.int64(symbols[table, bases[table, length] + code])
    return 0, 0


@inner()
def _write(byte, out, at):
    out[at] = byte
    if byte == 0xFF:
        out[at + 1] = 0
        return at + 2
    return at + 1


@inner()
def _put(value, count, pending, waiting, out, at):
    """Appends `count` bits, 32 at most, to the `waiting` ones, fewer than 32, that are `pending`; stuffs zeros."""
    pending = pending << np.uint64(count) | np.uint64(value)
    waiting += count
    if waiting >= 32:
        waiting -= 32
        four = pending >> np.uint64(waiting) & np.uint64(0xFFFFFFFF)
        for shift in range(24, -8, -8):
            at = _write(four >> np.uint64(shift) & np.uint64(255), out, at)
    return pending, waiting, at


@inner()
def _flush(pending, waiting, out, at):
    """Fills the last byte up with ones and writes what is waiting."""
    padding = -waiting % 8
    pending, waiting, at = _put((1 << padding) - 1, padding, pending, waiting, out, at)
    while waiting:
        waiting -= 8
        at = _write(pending >> np.uint64(waiting) & np.uint64(255), out, at)
    return at


@compiled()
def components(data, scan):
    """(component of each block of an MCU int64 [N], tables int64 [3,2] of DC and AC); N = 0: damaged."""
    order, tables, total = np.zeros(10, np.int64), np.zeros((3, 2), np.int64), 0
    at = np.int64(2)
    frame_at = count = first = 0
    while at < scan:
        marker, first, at = segment(data, at)
        if marker == SOF0 or marker == SOF1:
            frame_at, count = first + 6, np.int64(data[first + 5])
    for k in range(count):
        which = np.int64(data[first + 2 + 2 * k])
        if data[first + 1 + 2 * k] != data[frame_at + 3 * k] or which & 15 > 3 or which >> 4 > 3:
            return order[:0], tables
        tables[k, 0], tables[k, 1] = which >> 4, 4 + (which & 15)
        factors = np.int64(data[frame_at + 3 * k + 1])
        blocks = 1 if count == 1 else (factors >> 4) * (factors & 15)
        if total + blocks > 10:
            return order[:0], tables
        order[total : total + blocks] = k
        total += blocks
    return order[:total], tables


@compiled()
def transcode(data, grid, step, standard, out):
    """Writes the scan of a JPEG to `out`, with a restart marker every `step` MCUs: (length, end).

    grid: the markers.Frame of data. standard: code the DC coefficients by the standard tables, that of luminance where
    component 0 has its table. end: where the first marker after the scan stands in data. length is INVALID for damaged
    data, or where `out` is too short, and NO_CODE where the DC tables lack a code that is needed.
    """
    order, tables = components(data, grid.scan)
    counts, symbols = _tables(data, grid.scan)
    look, limits, bases = np.zeros((8, 1 << _LOOK), np.int32), np.zeros((8, 17), np.int64), np.zeros((8, 17), np.int64)
    codes, lengths = np.zeros((3, 256), np.int64), np.zeros((3, 256), np.int64)
    for t in range(8):
        if not _decoder(counts[t], symbols[t], look[t], limits[t], bases[t]):
            return INVALID, 0
    for c in range(3):
        dc = tables[c, 0]
        usual = standard_dc(dc != tables[0, 0]) if standard else (counts[dc], symbols[dc])
        _encoder(usual[0], usual[1], codes[c], lengths[c])
    mcus = grid.rows * grid.columns
    interval = grid.interval if grid.interval else mcus
    intervals = -(-mcus // interval)
    if len(order) == 0 or mcus > 4 * len(data) or intervals > len(data):  # not even 2 bits an MCU
        return INVALID, 0
    plain, starts, end = _unstuff(data, grid.scan, intervals)
    if end == 0:
        return INVALID, 0
    before, after = np.zeros(3, np.int64), np.zeros(3, np.int64)  # DC predictors, of what is read and what is written
    position = stop = at = waiting = 0
    pending = np.uint64(0)
    for mcu in range(mcus):
        if mcu % interval == 0:
            if stop - position > 7:
                return INVALID, 0
            position, stop = 8 * starts[mcu // interval], 8 * starts[mcu // interval + 1]
            before[:] = 0
        if mcu % step == 0:
            if mcu:
                at = _flush(pending, waiting, out, at)
                pending, waiting = np.uint64(0), 0
                out[at], out[at + 1] = 0xFF, RST0 + (mcu // step - 1) % 8
                at += 2
            after[:] = 0
        for block in range(len(order)):
            c = order[block]
            dc, ac = tables[c, 0], tables[c, 1]
            bits = _peek(plain, position)
            length, size = _symbol(bits, dc, look, limits, bases, symbols)
            if length == 0 or size > 15 or at + _SLACK > len(out):
                return INVALID, 0
            difference = np.int64(bits << np.uint64(length) >> np.uint64(1)) >> (63 - size)
            if size and difference >> (size - 1) == 0:
                difference -= (1 << size) - 1
            position += length + size
            before[c] += difference
            difference, after[c] = before[c] - after[c], before[c]
            size = 0
            while abs(difference) >> size:
                size += 1
            if size > 15 or lengths[c, size] == 0:
                return NO_CODE, 0
            pending, waiting, at = _put(codes[c, size], lengths[c, size], pending, waiting, out, at)
            value = difference if difference >= 0 else difference + (1 << size) - 1
            pending, waiting, at = _put(value, size, pending, waiting, out, at)
            begin, k = position, 1
            while k < 64:
                bits = _peek(plain, position)
                used = 0
                while k < 64 and used <= 26:  # of 57 bits; a code and its value have 31 at most
                    length, symbol = _symbol(bits, ac, look, limits, bases, symbols)
                    run, size = symbol >> 4, symbol & 15
                    if length == 0:
                        return INVALID, 0
                    used += length + size
                    bits <<= np.uint64(length + size)
                    if size:
                        k += run + 1
                    else:
                        k = k + 16 if run == 15 else 64
                position += used
            if k > 64 or position > stop:
                return INVALID, 0
            while begin < position:
                count = min(position - begin, 32)
                value = _peek(plain, begin) >> np.uint64(64 - count)
                pending, waiting, at = _put(value, count, pending, waiting, out, at)
                begin += count
    if stop - position > 7:
        return INVALID, 0
    return _flush(pending, waiting, out, at), end
