"""The rows of a plan on a GPU: one Triton kernel, built for a rule. It equals `kernels.plan_rows.reference`."""

from __future__ import annotations

from fastmix.kernels import plan as P
from fastmix.kernels._triton import constant, jit, tl

RULES = range(10)
AROUND, SQUARES, STRETCHED, TOP, GRAFTED, TOKENS, BLOCKS, ATTENDED, WEIGHTS, RATIO = RULES
_AROUND, _SQUARES, _STRETCHED, _TOP, _GRAFTED, _TOKENS, _BLOCKS, _ATTENDED, _WEIGHTS, _RATIO = map(constant, RULES)
BOX, WINDOW, PIECES, BITS, RESIZED, MAP = map(constant, (P.BOX, P.WINDOW, P.BLOCKS, P.CELLS, P.RESIZED, P.MAP))
ONE, COLUMNS = constant(P.ONE), constant(P.COLUMNS)
FLOAT_ONE = constant(0x3F800000)
EVEN = constant(12582912.0)  # 1.5 * 2**23: adding it rounds an fp32 number below 2**22 to a whole one, ties to even


@jit
def write(table, sample, kind, partner, own, other, c4, c5, c6, c7, c8, c9, c10, c11):
    """A row: own and other are floats, the rest whole numbers."""
    column = tl.arange(0, 16)
    row = tl.where(column == 1, partner, kind)
    row = tl.where(column == 2, own.to(tl.float32).to(tl.int32, bitcast=True), row)
    row = tl.where(column == 3, other.to(tl.float32).to(tl.int32, bitcast=True), row)
    row = tl.where(column == 4, c4, row)
    row = tl.where(column == 5, c5, row)
    row = tl.where(column == 6, c6, row)
    row = tl.where(column == 7, c7, row)
    row = tl.where(column == 8, c8, row)
    row = tl.where(column == 9, c9, row)
    row = tl.where(column == 10, c10, row)
    row = tl.where(column == 11, c11, row)
    tl.store(table + sample * COLUMNS + column, row.to(tl.int32), mask=column < COLUMNS)


@jit
def _outside(y0, y1, x0, x1, height, width):
    """The share of an image outside a box, float64."""
    return 1 - ((y1 - y0) * (x1 - x0)).to(tl.float64) / (height * width).to(tl.float64)


@jit
def _edges(middle, side, length):
    """Along a side, those of kernels.plan.box_around."""
    low = tl.minimum(tl.maximum(middle - side // 2, 0), length)
    return low.to(tl.int32), tl.minimum(tl.maximum(middle + side // 2, 0), length).to(tl.int32)


@jit
def _sums(values, place, down, across, w, side):
    """The mean over the square of each place that is first in one, added row by row, float64."""
    total = tl.zeros_like(place).to(tl.float64)
    inside = (place // w < down) & (place % w < across)
    for k in range(side * side):
        total += tl.load(values + place + k // side * w + k % side, mask=inside, other=0.0).to(tl.float64)
    return total / (side * side).to(tl.float64), inside


@jit
def _percent(values, y0, y1, x0, x1, rows, columns, row_sums, column_sums, row_count, column_count, height, width,
             h, w, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """kernels.plan_rows.percent.share of one sample, float64. H >= h, W >= w, C >= column_count lanes."""
    i, k, c = tl.arange(0, H)[:, None], tl.arange(0, W)[None, :], tl.arange(0, C)[:, None]
    inside = (i < h) & (k < w)
    a = tl.load(values + i * w + k, mask=inside, other=0.0).to(tl.float64)
    a = tl.where(inside, a - tl.min(tl.where(inside, a, float("inf"))), 0.0)
    across = tl.load(columns + c * w + k, mask=(c < column_count) & (k < w), other=0.0)
    lowest = tl.full([], float("inf"), tl.float64)
    for r in range(row_count):
        line = tl.sum(tl.load(rows + r * h + i, mask=i < h, other=0.0) * a, 0)
        at = tl.sum(across * line[None, :], 1)[:, None]
        lowest = tl.minimum(lowest, tl.min(tl.where(c < column_count, at, float("inf"))))
    y = tl.load(row_sums + y1 * h + i, mask=i < h, other=0.0) - tl.load(row_sums + y0 * h + i, mask=i < h, other=0.0)
    x = tl.load(column_sums + x1 * w + k, mask=k < w, other=0.0)
    x -= tl.load(column_sums + x0 * w + k, mask=k < w, other=0.0)
    all_y = tl.load(row_sums + height * h + i, mask=i < h, other=0.0)
    all_x = tl.load(column_sums + width * w + k, mask=k < w, other=0.0)
    area, pixels = ((y1 - y0) * (x1 - x0)).to(tl.float64), (height * width).to(tl.float64)
    whole = tl.sum(tl.sum(all_y * a, 0)[None, :] * all_x) - pixels * lowest
    part = (tl.sum(tl.sum(y * a, 0)[None, :] * x) - area * lowest) / tl.where(whole > 0, whole, 1.0)
    part = tl.where(whole > 0, part, area / pixels)
    return tl.minimum(tl.maximum(part, 0.0), 1.0)


@jit
def _top(values, n, k, cell):
    """Which cells are among the k largest: no sort, each looks at all."""
    mine = tl.load(values + cell, mask=cell < n, other=0.0)
    rank = tl.zeros_like(cell)
    for d in range(n):
        other = tl.load(values + d)
        rank += ((other > mine) | ((other == mine) & (d < cell))).to(tl.int32)
    return (rank < k) & (cell < n)


@jit
def _graft(s, u, p, sharpness, n, valid):
    """Which cells stand out and are kept."""
    top = tl.max(s, 0)
    s = tl.div_rn(s, tl.zeros_like(s) + tl.where(top > 0, top, 1.0))
    e = tl.where(valid, tl.exp((s - tl.max(s, 0)) * sharpness), 0.0)
    candidate = valid & (e * n >= tl.sum(e, 0))
    least = tl.min(tl.where(candidate, u, 1.0), 0)
    return candidate & ((u < p) | (u <= least))


@jit
def _importance(s, shown, valid):
    """|S M| / |S|"""
    top = tl.max(s, 0)
    power = tl.div_rn(s, tl.zeros_like(s) + tl.where(top > 0, top, 1.0))
    power = tl.where(valid, tl.where(top > 0, power * power, 1.0), 0.0)
    return tl.sqrt_rn(tl.div_rn(tl.sum(tl.where(shown, power, 0.0), 0), tl.sum(power, 0)))


@jit
def pixels_of(cell, h, w, height, width):
    """How many pixels each cell of a grid has: pixel p lies in cell p * cells // length."""
    y, x = cell // w, cell % w
    tall = ((y + 1) * height + h - 1) // h - (y * height + h - 1) // h
    return tall * (((x + 1) * width + w - 1) // w - (x * width + w - 1) // w)


@jit
def _bits(own, cell, word: tl.constexpr):
    """32 cells as the bits of a whole number."""
    return tl.sum(tl.where((cell // 32 == word) & own, 1 << (cell % 32), 0), 0)


@jit
def piece(blocks, cell, n, first, second, weight):
    """Rows of `blocks`, int32 [n,3]."""
    there = cell < n
    tl.store(blocks + 3 * cell, first, mask=there)
    tl.store(blocks + 3 * cell + 1, second, mask=there)
    tl.store(blocks + 3 * cell + 2, weight, mask=there)


@jit(numbers=("pairs", "apart", "height", "width", "h", "w", "step", "number", "least"))
def plan_rows_kernel(
    table, more, partner, values, first, second, rows, columns, row_sums, column_sums,
    pairs, apart, height, width, h, w, step, number, least, factor,
    RULE: tl.constexpr, N: tl.constexpr, FINE: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One program: one sample, whose row it writes to `table`; images of height x width pixels.

    values: float32, h x w a sample, `apart` from one to the next, as partners are `pairs`. step: 0 where what was drawn
    is of all samples.
    more: int32 [B,n,3], of Blocks, and of cells that are too many for bits (FINE); int32 [B,H,W], of maps.

    | rule      | values     | first  | second  | number, least, factor                 | lanes              |
    | Around    |            | peak   | sides   | n                                     |                    |
    | Squares   | attention  |        |         | side                                  | N >= h w           |
    | Stretched | activation | boxes  | alike   | rows of `rows` and, least, `columns`  | H, W >= h, w; C    |
    | Top       | attention  | share  |         | of, least                             | N >= h w           |
    | Grafted   | saliency   | p      | uniform | factor: 1 / temperature               | N >= h w           |
    | Tokens    | activation | pasted |         |                                       | N >= h w           |
    | Blocks    | weight     | first  | second  | step: how far apart those are         | N >= h w           |
    | Attended  | attention  | table  |         | factor: ratio                         | N >= h w           |
    | Weights   | own        | label  |         |                                       | N at a time, C in  |
    | Ratio     | maps       | scale  |         |                                       | one access         |
    """
    sample = tl.program_id(0).to(tl.int64)
    pair = tl.load(partner + sample * pairs)
    if RULE == _AROUND:
        sides = second + sample * step
        y, x = tl.load(first + 2 * pair), tl.load(first + 2 * pair + 1)
        y0, y1 = _edges(y, tl.load(sides), height)
        x0, x1 = _edges(x, tl.load(sides + number), width)
        own = _outside(y0, y1, x0, x1, height, width)
        write(table, sample, BOX, pair, own, 1 - own, y0, y1, x0, x1, 0, 0, 0, 0)
    elif RULE == _SQUARES:
        place = tl.arange(0, N)
        down, across = h - number + 1, w - number + 1
        mean, inside = _sums(values + sample * apart, place, down, across, w, number)
        to = tl.argmin(tl.where(inside, mean, float("inf")), 0)
        mean, inside = _sums(values + pair.to(tl.int64) * apart, place, down, across, w, number)
        at = tl.argmax(tl.where(inside, mean, float("-inf")), 0)
        tall, wide = height // h, width // w
        y0, x0 = to // w * tall, to % w * wide
        y1, x1 = y0 + number * tall, x0 + number * wide
        own = _outside(y0, y1, x0, x1, height, width)
        write(table, sample, WINDOW, pair, own, 1 - own, y0, y1, x0, x1,
               at // w * tall, at % w * wide, FLOAT_ONE, FLOAT_ONE)  # fmt: skip
    elif RULE == _STRETCHED:
        edge, count = first + sample * step, tl.where(step > 0, tl.num_programs(0), 1)
        y0, y1 = tl.load(edge).to(tl.int32), tl.load(edge + count).to(tl.int32)
        x0, x1 = tl.load(edge + 2 * count).to(tl.int32), tl.load(edge + 3 * count).to(tl.int32)
        v0, v1 = tl.load(edge + 4 * count).to(tl.int32), tl.load(edge + 5 * count).to(tl.int32)
        u0, u1 = tl.load(edge + 6 * count).to(tl.int32), tl.load(edge + 7 * count).to(tl.int32)
        own = 1 - _percent(values + sample * apart, y0, y1, x0, x1, rows, columns, row_sums, column_sums, number, least,
                           height, width, h, w, H, W, C)  # fmt: skip
        other = _percent(values + pair.to(tl.int64) * apart, v0, v1, u0, u1, rows, columns, row_sums, column_sums,
                         number, least, height, width, h, w, H, W, C)  # fmt: skip
        if second is not None:
            both = tl.load(second + sample) != 0
            own, other = tl.where(both, own + other, own), tl.where(both, other + own, other)
        write(table, sample, RESIZED, pair, own, other, y0, y1, x0, x1, v0, v1, u0, u1)
    elif RULE == _BLOCKS:
        n, cell = h * w, tl.arange(0, N)
        valid = cell < n
        weight = tl.load(values + sample * apart + cell, mask=valid, other=0.0) * ONE
        weight = ((weight + EVEN) - EVEN).to(tl.int32)
        one = tl.load(first + sample * step + cell, mask=valid, other=0)
        two = tl.load(second + sample * step + cell, mask=valid, other=0)
        piece(more + sample * (3 * n), cell, n, sample * n + one, pair * n + two, weight)
        area = tl.sum(weight.to(tl.int64) * pixels_of(cell, h, w, height, width), 0)
        own = area.to(tl.float64) / (height * width).to(tl.float64) / ONE
        write(table, sample, PIECES, pair, own, 1 - own, h, w, 0, 0, 0, 0, 0, 0)
    elif RULE == _ATTENDED:
        n, cell, row = h * w, tl.arange(0, N), first + sample * COLUMNS
        y0, y1, x0, x1 = tl.load(row + 4), tl.load(row + 5), tl.load(row + 6), tl.load(row + 7)
        area = tl.load(row + 2).to(tl.float32, bitcast=True)
        seen = tl.load(values + sample * apart + cell, mask=cell < n, other=0.0)
        y, x = cell // w * height // h, cell % w * width // w
        kept = (y < y0) | (y >= y1) | (x < x0) | (x >= x1)
        whole = tl.sum(seen, 0)
        part = tl.div_rn(tl.sum(tl.where(kept, seen, 0.0), 0), tl.where(whole > 0, whole, 1.0))
        own = factor * area + (1 - factor) * tl.where(whole > 0, part, area)
        write(table, sample, BOX, pair, own, 1 - own, y0, y1, x0, x1, 0, 0, 0, 0)
    elif RULE == _WEIGHTS or RULE == _RATIO:
        n, total = height * width // C * C, tl.zeros([], tl.int64)
        apart = apart // C * C
        for start in range(0, n, N):
            pixel = start + tl.arange(0, N)
            own = tl.load(values + sample * apart + pixel, mask=pixel < n, other=0.0)
            if RULE == _RATIO:
                other = tl.load(values + pair.to(tl.int64) * apart + pixel, mask=pixel < n, other=0.0)
                own *= tl.load(first + sample)
                both = own + other * tl.load(first + pair)
                own = tl.where(both > 0, tl.div_rn(own, tl.where(both > 0, both, 1.0)), 0.5)
            weight = ((own * ONE + EVEN) - EVEN).to(tl.int32)
            tl.store(more + sample * n + pixel, weight, mask=pixel < n)
            total += tl.sum(tl.where(pixel < n, weight, 0), 0)
        if RULE == _RATIO:
            own = total.to(tl.float64) / (n.to(tl.float64) * ONE)
            other = 1 - own
        else:
            own = tl.load(first + sample)
            other = 1 - own
        write(table, sample, MAP, pair, own, other, sample, 0, 0, 0, 0, 0, 0, 0)
    else:
        n, cell = h * w, tl.arange(0, N)
        valid = cell < n
        area = pixels_of(cell, h, w, height, width)
        whole = (height * width).to(tl.float64)
        if RULE == _TOP:
            wanted = tl.load(first + sample * step) * number
            k = tl.minimum(tl.maximum(wanted, least), n).to(tl.int32)
            kept = _top(values + sample * apart, n, k, cell)
            own = tl.sum(tl.where(kept, area, 0), 0).to(tl.float64) / whole
            other = 1 - own
        else:
            mine = tl.load(values + sample * apart + cell, mask=valid, other=0.0)
            partners = tl.load(values + pair.to(tl.int64) * apart + cell, mask=valid, other=0.0)
            if RULE == _GRAFTED:
                u = tl.load(second + sample * n + cell, mask=valid, other=1.0)
                kept = _graft(mine, u, tl.load(first + sample), factor, n, valid)
                shown = _importance(mine, kept, valid)
                own = tl.div_rn(shown, shown + _importance(partners, valid & (kept == 0), valid))
                other = 1 - own
            else:
                kept = valid & (tl.load(first + sample * step * n + cell, mask=valid, other=1) == 0)
                mine = tl.div_rn(mine, tl.zeros_like(mine) + (tl.sum(mine, 0) + 1e-8))
                partners = tl.div_rn(partners, tl.zeros_like(mine) + (tl.sum(partners, 0) + 1e-8))
                own = tl.sum(tl.where(kept, mine, 0.0), 0)
                other = tl.sum(tl.where(kept, 0.0, partners), 0)
        if FINE:
            at = sample * n + cell
            piece(more + sample * (3 * n), cell, n, at, pair * n + cell, tl.where(kept, ONE, 0))
            write(table, sample, PIECES, pair, own, other, h, w, 0, 0, 0, 0, 0, 0)
        else:
            write(table, sample, BITS, pair, own, other, h, w, _bits(kept, cell, 0), _bits(kept, cell, 1),
                   _bits(kept, cell, 2), _bits(kept, cell, 3), _bits(kept, cell, 4), _bits(kept, cell, 5))  # fmt: skip
