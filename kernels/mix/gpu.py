"""The mixing pass on a GPU: the Triton kernel that kernels/mix launches.

A program writes G groups of V neighbouring values of one sample's flat H*W*3. No group crosses the end of a row, so a
group is one access: V bytes of an image, read as one whole number, and V values of the output. What depends on the
place is worked out once a group, or once a pixel, of which a group shows parts of up to four, and spread over the
values last. Where a pixel is one image's or the other's, its bytes are chosen as bits of those whole numbers. Images of
floats are read value by value; PLANAR ones, and their output, lie channel by channel, at other places in memory alone.

The kernel is built for the kinds that a plan holds. For one kind alone there is no branch in it but one: what a window
shows, and what is erased, is fetched only where the program's rows meet the box.
"""

from __future__ import annotations

from fastmix.kernels import plan as P
from fastmix.kernels._triton import constant, jit, tl
from fastmix.kernels.erase import LEVELS

PLAIN, BLEND, BOX, WINDOW, PROFILE, RANKS = map(constant, (P.PLAIN, P.BLEND, P.BOX, P.WINDOW, P.PROFILE, P.RANKS))
BLOCKS, CELLS, RESIZED, MAP = map(constant, (P.BLOCKS, P.CELLS, P.RESIZED, P.MAP))
ONE, COLUMNS, STEPS, NOISE = map(constant, (P.ONE, P.COLUMNS, P.STEPS, LEVELS))
HAS_BLEND, HAS_WINDOW, HAS_PROFILE, HAS_RANKS = (constant(1 << k) for k in (P.BLEND, P.WINDOW, P.PROFILE, P.RANKS))
HAS_BLOCKS, HAS_CELLS, HAS_RESIZED, HAS_MAP = (constant(1 << k) for k in (P.BLOCKS, P.CELLS, P.RESIZED, P.MAP))
BOXED = constant(1 << P.BOX | 1 << P.WINDOW | 1 << P.RESIZED)
BLENDED = constant(1 << P.BLEND | 1 << P.PROFILE | 1 << P.MAP | 1 << P.BLOCKS)
PIXEL = constant(0xFFFFFF)  # the bits of its three bytes


@jit(numbers=("cells", "map_rows", "map_columns"))
def mix_kernel(
    images, table, profiles, bank, blocks, maps, boxes, fill, out,
    mean0, mean1, mean2, scale0, scale1, scale2, cells, map_rows, map_columns,
    H: tl.constexpr, W: tl.constexpr, KINDS: tl.constexpr, KIND: tl.constexpr, ERASE: tl.constexpr,
    PLANAR: tl.constexpr, V: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """KINDS, a bit each, are those that a row may have; KIND is the only one, or -1 where a row says which."""
    CHUNKS: tl.constexpr = (H * W * 3 + G * V - 1) // (G * V)
    EVERY: tl.constexpr = (1 << 8 * V) - 1
    sample = tl.program_id(0) // CHUNKS
    begin = (tl.program_id(0) % CHUNKS) * (G * V)
    start = begin + tl.arange(0, G)[:, None] * V
    lane = tl.arange(0, V)[None, :]
    valid = start < H * W * 3
    y = start // (W * 3)
    x = (start - y * (W * 3)) // 3
    phase = start % 3

    row = table + sample * COLUMNS
    if KIND >= 0:
        kind: tl.constexpr = KIND
    else:
        kind = tl.load(row)
    partner = sample  # where there is no other, nor a table
    if KIND != PLAIN:
        partner = tl.load(row + 1)
    keep = tl.full([G, 1], EVERY, tl.uint64)  # all bits of the bytes that are the image's own
    weight = tl.full([G, V], 1.0, tl.float32)
    need_a, need_b = valid, start < 0
    in_reach = True  # whether the rows of this program meet those of the box

    if HAS_BLEND & KINDS and kind == BLEND:
        share = tl.load(row + 4)
        weight = weight * (share.to(tl.float32) * (1 / ONE))
        need_a, need_b = valid & (share > 0), valid & (share < ONE)
    if HAS_PROFILE & KINDS and kind == PROFILE:
        profile = profiles + tl.load(row + 4) * (H + W)
        down = tl.load(profile + y, mask=valid, other=0).to(tl.int32)
        weight, need_a, need_b = _weights(_pixels(_profile, (profile + H, down, valid), x, W), valid, phase, lane)
    if HAS_MAP & KINDS and kind == MAP:
        first = maps + tl.load(row + 4).to(tl.int64) * (map_rows * map_columns)
        top, down = _between(y, map_rows, H)
        given = (first + top * map_columns, map_columns, down, valid, W)
        weight, need_a, need_b = _weights(_pixels(_map, given, x, W), valid, phase, lane)
    if BOXED & KINDS and ((kind == BOX) | (kind == WINDOW) | (kind == RESIZED)):
        top, bottom = tl.load(row + 4), tl.load(row + 5)
        column, inside = start - y * (W * 3), (y >= top) & (y < bottom)
        left, right = tl.load(row + 6) * 3 - column, tl.load(row + 7) * 3 - column
        keep = tl.where(inside, _from(left) ^ _from(right) ^ EVERY, EVERY)
        in_reach = _meets(begin, G * V, top, bottom, W)
    if HAS_RANKS & KINDS and kind == RANKS:
        flip = tl.load(row + 6)
        ranks = bank + tl.load(row + 4).to(tl.int64) * (H * W) + tl.where((flip & 2) > 0, H - 1 - y, y) * W
        keep = _bits(_pixels(_ranks, (ranks, flip & 1, tl.load(row + 5), valid, W), x, W), phase)
    if HAS_CELLS & KINDS and kind == CELLS:
        columns = tl.load(row + 5)
        before = y * tl.load(row + 4) // H * columns
        keep = _bits(_pixels(_cells, (row + 6, before, columns, valid, W), x, W), phase)
    keep = keep & EVERY
    need_a, need_b = need_a & (keep != 0), need_b | (valid & (keep != EVERY))

    if HAS_BLOCKS & KINDS and kind == BLOCKS:
        entries, rows, columns = blocks + sample.to(tl.int64) * cells * 3, tl.load(row + 4), tl.load(row + 5)
        given = (entries, rows, columns, y, valid, H, W)
        a, b, weight = _shown(
            images, boxes, fill, _pixels(_block, given, x, W), phase, lane, valid, H, W, ERASE, PLANAR
        )
    else:
        element = start + lane
        first = _word(images, sample, start, lane, need_a, H, W, PLANAR, V)
        if KIND == PLAIN or KIND == WINDOW or KIND == RESIZED:
            second = tl.zeros_like(first)
        else:
            needed = need_b & (kind != WINDOW) & (kind != RESIZED)
            second = _word(images, partner, start, lane, needed, H, W, PLANAR, V)
        b = _values(second, lane)
        if HAS_WINDOW & KINDS and kind == WINDOW:
            if in_reach:
                b = _window(images, boxes, fill, row, partner, x, y, phase, lane, need_b, H, W, ERASE, PLANAR)
        elif HAS_RESIZED & KINDS and kind == RESIZED:
            if in_reach:
                b = _stretch(images, boxes, fill, row, partner, x, y, phase, lane, need_b, H, W, ERASE, PLANAR)
        elif ERASE and KIND != PLAIN:
            if _meets(begin, G * V, tl.load(boxes + partner * 5), tl.load(boxes + partner * 5 + 1), W):
                b = erased(b, boxes, fill, partner, element, need_b, W)
        if ERASE or HAS_WINDOW & KINDS or HAS_RESIZED & KINDS or images.dtype.element_ty != tl.uint8:
            a = _values(first, lane)
            if ERASE:
                if _meets(begin, G * V, tl.load(boxes + sample * 5), tl.load(boxes + sample * 5 + 1), W):
                    a = erased(a, boxes, fill, sample, element, need_a, W)
            a = tl.where((keep >> (8 * lane).to(tl.uint64) & 1) > 0, a, b)
        else:
            a = _values(first & keep | second & (keep ^ EVERY), lane)

    value = a
    if BLENDED & KINDS:
        value = b + weight * (a - b)
        if ERASE or images.dtype.element_ty != tl.uint8:  # b + (a - b) is not a where values are no whole numbers
            value = tl.where(weight == 1, a, value)
    mean = of_channel(phase, lane, mean0, mean1, mean2)
    result = (value - mean) * of_channel(phase, lane, scale0, scale1, scale2)
    place = out + sample.to(tl.int64) * (H * W * 3) + _place_of(start + lane, H, W, PLANAR)
    tl.store(place, result.to(out.dtype.element_ty), mask=valid)


# ---- groups: words of bytes, the pixels that they show, and their values ----


@jit
def _meets(begin, count, top, bottom, W: tl.constexpr):
    """Whether a program's `count` values from `begin` on lie in rows top to bottom (half open). A scalar."""
    return (begin < bottom * (W * 3)) & (begin + count > top * (W * 3))


@jit
def _place_of(element, H: tl.constexpr, W: tl.constexpr, PLANAR: tl.constexpr):
    """Where an element of an image lies in its memory."""
    if PLANAR:
        element = element % 3 * (H * W) + element // 3
    return element


@jit
def _word(
    images, image, start, lane, mask, H: tl.constexpr, W: tl.constexpr, PLANAR: tl.constexpr, V: tl.constexpr
):  # fmt: skip
    """The V bytes of an image from `start` on, as one whole number, the first lowest: uint64 [G,1].

    Of images of floats the V values: float32 [G,V].
    """
    first = images + image.to(tl.int64) * (H * W * 3)
    if images.dtype.element_ty != tl.uint8:
        word = tl.load(first + _place_of(start + lane, H, W, PLANAR), mask=mask, other=0).to(tl.float32)
    elif V == 8:
        word = tl.load((first + start).to(tl.pointer_type(tl.uint64)), mask=mask, other=0)
    elif V == 4:
        word = tl.load((first + start).to(tl.pointer_type(tl.uint32)), mask=mask, other=0).to(tl.uint64)
    elif V == 2:
        word = tl.load((first + start).to(tl.pointer_type(tl.uint16)), mask=mask, other=0).to(tl.uint64)
    else:
        word = tl.load(first + start, mask=mask, other=0).to(tl.uint64)
    return word


@jit
def _values(word, lane):
    """Its bytes, or what are values already. float32 [G,V]"""
    if word.dtype == tl.float32:
        values = word
    else:
        half = tl.where(lane < 4, word.to(tl.int32), (word >> 32).to(tl.int32))  # cheaper to shift than all 64 bits
        values = (half >> 8 * (lane % 4) & 255).to(tl.float32)
    return values


@jit
def _pixels(area: tl.constexpr, given, x, W: tl.constexpr):
    """What an area says of the four pixels from x on; beyond the end of the row it is what it says of the last one."""
    return (
        area(given, x),
        area(given, tl.minimum(x + 1, W - 1)),
        area(given, tl.minimum(x + 2, W - 1)),
        area(given, tl.minimum(x + 3, W - 1)),
    )


@jit
def _from(byte):
    """All bits of the bytes of a word from the given one on, which may lie before or after the word. uint64 [G,1]"""
    half = (4 * tl.minimum(tl.maximum(byte, 0), 8)).to(tl.uint64)
    return tl.full([1, 1], 0xFFFFFFFFFFFFFFFF, tl.uint64) << half << half  # a shift of 64 bits at once is not defined


@jit
def _bits(own, phase):
    """All bits of the bytes of a group's own pixels: own, four of [G,1], says which they are. uint64 [G,1]"""
    p0, p1 = tl.where(own[0], PIXEL, 0).to(tl.uint64), tl.where(own[1], PIXEL, 0).to(tl.uint64)
    p2, p3 = tl.where(own[2], PIXEL, 0).to(tl.uint64), tl.where(own[3], PIXEL, 0).to(tl.uint64)
    skip = (8 * phase).to(tl.uint64)  # of the first pixel, which began in the group before
    low, high = p0 | p1 << 24 | p2 << 48, p2 >> 16 | p3 << 8
    return low >> skip | high << 1 << (63 - skip)


@jit
def _spread(p0, p1, p2, p3, phase, lane):
    """For each value of a group what is known of its pixel: four of [G,1] -> [G,V]."""
    pixel = lane // 3
    here = tl.where(pixel == 0, p0, tl.where(pixel == 1, p1, p2))
    after = tl.where(pixel == 0, p1, tl.where(pixel == 1, p2, p3))
    return tl.where(phase + lane % 3 >= 3, after, here)


@jit
def _weights(own, valid, phase, lane):
    """Weights of the image itself [G,V] from those of four pixels, and which image a group needs at all."""
    p0, p1, p2, p3 = own
    most, least = tl.maximum(tl.maximum(p0, p1), tl.maximum(p2, p3)), tl.minimum(tl.minimum(p0, p1), tl.minimum(p2, p3))
    return _spread(p0, p1, p2, p3, phase, lane), valid & (most > 0), valid & (least < 1)


@jit
def of_channel(phase, lane, zero, one, two):
    """A constant of each channel for a group whose first value has channel `phase`, chosen once a group."""
    a = tl.where(phase == 0, zero, tl.where(phase == 1, one, two))
    b = tl.where(phase == 0, one, tl.where(phase == 1, two, zero))
    c = tl.where(phase == 0, two, tl.where(phase == 1, zero, one))
    return tl.where(lane % 3 == 0, a, tl.where(lane % 3 == 1, b, c))


@jit
def _channel(phase, lane):
    """0, 1 or 2 for each value of a group. int32 [G,V]"""
    place = phase + lane % 3
    return tl.where(place >= 3, place - 3, place)


# ---- areas: what a kind says of the pixel at x, [G,1]; the row of pixels is in what they are given ----


@jit
def _ranks(given, x):
    ranks, mirrored, count, valid, W = given
    rank = tl.load(ranks + tl.where(mirrored > 0, W - 1 - x, x), mask=valid, other=0).to(tl.int32)
    if ranks.dtype.element_ty == tl.int16:
        rank = rank & 0xFFFF
    return rank < count


@jit
def _cells(given, x):
    words, before, columns, valid, W = given
    cell = before + x * columns // W
    return (tl.load(words + cell // 32, mask=valid, other=0) >> (cell % 32) & 1) > 0


@jit
def _profile(given, x):
    along_x, down, valid = given
    return 1 - (down * tl.load(along_x + x, mask=valid, other=0).to(tl.int32)).to(tl.float32) * (1 / ONE)


@jit
def _between(pixel, cells, length: tl.constexpr):
    """The first of the two cells of a map around a pixel, and STEPS x the second's share."""
    place = (2 * pixel + 1) * (cells * STEPS) // (2 * length) - STEPS // 2
    place = tl.where(cells == length, pixel * STEPS, tl.minimum(tl.maximum(place, 0), (cells - 1) * STEPS))
    return place // STEPS, place % STEPS


@jit
def _map(given, x):
    upper, columns, down, valid, W = given
    left, across = _between(x, columns, W)
    below, beside = valid & (down > 0), valid & (across > 0)
    cell = upper + left
    over = tl.load(cell, mask=valid, other=0) * (STEPS - across)
    over += tl.load(cell + 1, mask=beside, other=0) * across
    under = tl.load(cell + columns, mask=below, other=0) * (STEPS - across)
    under += tl.load(cell + columns + 1, mask=below & beside, other=0) * across
    weight = (over * (STEPS - down) + under * down + STEPS * STEPS // 2) // (STEPS * STEPS)
    return weight.to(tl.float32) * (1 / ONE)


# ---- pixels from elsewhere, byte by byte ----


@jit
def _pixel(
    images, boxes, fill, image, element, mask, H: tl.constexpr, W: tl.constexpr, ERASE: tl.constexpr,
    PLANAR: tl.constexpr,
):  # fmt: skip
    """The value of an image's element, erased where its box is."""
    place = images + image.to(tl.int64) * (H * W * 3) + _place_of(element, H, W, PLANAR)
    value = tl.load(place, mask=mask, other=0).to(tl.float32)
    if ERASE:
        value = erased(value, boxes, fill, image, element, mask, W)
    return value


@jit
def erased(value, boxes, fill, image, element, mask, W: tl.constexpr):
    """An element's value, or its noise where the box of its image is."""
    y, x = element // (W * 3), element % (W * 3) // 3
    box = boxes + image * 5
    inside = (y >= tl.load(box)) & (y < tl.load(box + 1)) & (x >= tl.load(box + 2)) & (x < tl.load(box + 3)) & mask
    h = element.to(tl.uint32) ^ tl.load(box + 4).to(tl.uint32, bitcast=True)
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    level = ((h ^ (h >> 16)) & (NOISE - 1)).to(tl.int32)
    return tl.where(inside, tl.load(fill + element % 3 * NOISE + level, mask=inside, other=0), value)


@jit
def _window(
    images, boxes, fill, row, partner, x, y, phase, lane, mask, H: tl.constexpr, W: tl.constexpr, ERASE: tl.constexpr,
    PLANAR: tl.constexpr,
):  # fmt: skip
    """What a scaled window of the partner shows, nearest neighbour. float32 [G,V]"""
    scale_y, scale_x = tl.load(row + 10).to(tl.float32, bitcast=True), tl.load(row + 11).to(tl.float32, bitcast=True)
    from_y = tl.load(row + 8) + tl.floor((y - tl.load(row + 4)).to(tl.float32) * scale_y).to(tl.int32)
    given = (tl.minimum(tl.maximum(from_y, 0), H - 1) * W, tl.load(row + 6), tl.load(row + 9), scale_x, W)
    p0, p1, p2, p3 = _pixels(_scaled, given, x, W)
    element = _spread(p0, p1, p2, p3, phase, lane) + _channel(phase, lane)
    return _pixel(images, boxes, fill, partner, element, mask, H, W, ERASE, PLANAR)


@jit
def _scaled(given, x):
    """The first element of the pixel that the window shows at x."""
    before, corner, first, scale, W = given
    from_x = first + tl.floor((x - corner).to(tl.float32) * scale).to(tl.int32)
    return (before + tl.minimum(tl.maximum(from_x, 0), W - 1)) * 3


@jit
def _stretch(
    images, boxes, fill, row, partner, x, y, phase, lane, mask, H: tl.constexpr, W: tl.constexpr, ERASE: tl.constexpr,
    PLANAR: tl.constexpr,
):  # fmt: skip
    """What a stretched window of the partner shows, bilinear. float32 [G,V]"""
    top, bottom, down = _place(y, tl.load(row + 4), tl.load(row + 5), tl.load(row + 8), tl.load(row + 9), H)
    given = (tl.load(row + 6), tl.load(row + 7), tl.load(row + 10), tl.load(row + 11), W)
    p0, p1, p2, p3 = _pixels(_stretched, given, x, W)
    c = _channel(phase, lane)
    left = _spread(p0[0], p1[0], p2[0], p3[0], phase, lane) + c
    right = _spread(p0[1], p1[1], p2[1], p3[1], phase, lane) + c
    across = _spread(p0[2], p1[2], p2[2], p3[2], phase, lane)
    top, bottom = top * (W * 3), bottom * (W * 3)
    over = _pixel(images, boxes, fill, partner, top + left, mask, H, W, ERASE, PLANAR) * (STEPS - across)
    over += _pixel(images, boxes, fill, partner, top + right, mask, H, W, ERASE, PLANAR) * across
    under = _pixel(images, boxes, fill, partner, bottom + left, mask, H, W, ERASE, PLANAR) * (STEPS - across)
    under += _pixel(images, boxes, fill, partner, bottom + right, mask, H, W, ERASE, PLANAR) * across
    return (over * (STEPS - down) + under * down) * (1 / (STEPS * STEPS))


@jit
def _stretched(given, x):
    """The first elements, along a row, of the two pixels between which x lies, and STEPS x the second's share."""
    low, high, first, last, W = given
    left, right, across = _place(x, low, high, first, last, W)
    return left * 3, right * 3, across


@jit
def _place(pixel, low, high, first, last, length):
    """The two source pixels between which a pixel of a stretched box lies, and STEPS x the second's share."""
    step = tl.maximum(pixel - low, 0) * ((last - first - 1) * STEPS) // tl.maximum(high - low - 1, 1)
    source = first + step // STEPS
    second = tl.minimum(tl.maximum(source + 1, 0), length - 1)
    return tl.minimum(tl.maximum(source, 0), length - 1), second, (step % STEPS).to(tl.float32)


@jit
def _shown(
    images, boxes, fill, blocks, phase, lane, valid, H: tl.constexpr, W: tl.constexpr, ERASE: tl.constexpr,
    PLANAR: tl.constexpr,
):  # fmt: skip
    """The values of both sources of each pixel's cell, and the weight of the first: three of float32 [G,V]."""
    p0, p1, p2, p3 = blocks
    c = _channel(phase, lane)
    weight = _spread(p0[0], p1[0], p2[0], p3[0], phase, lane)
    image = _spread(p0[1], p1[1], p2[1], p3[1], phase, lane)
    element = _spread(p0[2], p1[2], p2[2], p3[2], phase, lane) + c
    a = _pixel(images, boxes, fill, image, element, valid & (weight > 0), H, W, ERASE, PLANAR)
    image = _spread(p0[3], p1[3], p2[3], p3[3], phase, lane)
    element = _spread(p0[4], p1[4], p2[4], p3[4], phase, lane) + c
    return a, _pixel(images, boxes, fill, image, element, valid & (weight < 1), H, W, ERASE, PLANAR), weight


@jit
def _block(given, x):
    """Of the cell in which the pixel lies: weight of the first source, then image and first element of both."""
    entries, rows, columns, y, valid, H, W = given
    cy, cx = y * rows // H, x * columns // W
    down, across = y - _begin(cy, rows, H), x - _begin(cx, columns, W)
    entry = entries + (cy * columns + cx) * 3
    weight = tl.load(entry + 2, mask=valid, other=0).to(tl.float32) * (1 / ONE)
    image_a, element_a = _source(tl.load(entry, mask=valid, other=0), rows, columns, down, across, H, W)
    image_b, element_b = _source(tl.load(entry + 1, mask=valid, other=0), rows, columns, down, across, H, W)
    return weight, image_a, element_a, image_b, element_b


@jit
def _source(source, rows, columns, down, across, H, W):
    """Image and first element of the pixel that lies (down, across) from the corner of a source cell, in its image."""
    image = _quotient(source, rows * columns)
    cell = source - image * (rows * columns)
    sy = _quotient(cell, columns)
    from_y = tl.minimum(down + _begin(sy, rows, H), H - 1)
    from_x = tl.minimum(across + _begin(cell - sy * columns, columns, W), W - 1)
    return image, (from_y * W + from_x) * 3


@jit
def _begin(cell, cells, length):
    """The first pixel of a cell."""
    return _quotient(cell * length + cells - 1, cells)


@jit
def _quotient(dividend, divisor):
    """dividend // divisor, both below 2^20: the middle of a whole number's share is further than rounding reaches."""
    return ((dividend.to(tl.float32) + 0.5) * (1.0 / divisor.to(tl.float32))).to(tl.int32)
