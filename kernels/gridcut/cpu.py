"""The grid cut on the CPU: numba, one block of samples at a time.

In memory the cells of one colour in a row lie together, the samples of the block innermost, so that a whole row is one
vector loop. Cell (y, x) is number x // 2 of its row and colour. Every operation is that of
`kernels.gridcut.reference`, in the same order, but for the sums of whole energies.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastmix.kernels.compiled import compiled, inner
from fastmix.kernels.threads import share

LANES = 32  # samples of a block
ZERO, QUARTER, HALF, ONE, TWO = (np.float32(v) for v in (0, 0.25, 0.5, 1, 2))


@inner(error_model="numpy")
def _pull(pull, up, down, left, right, above, below, before, after):
    """What the neighbours' levels do to each cell."""
    for s in range(len(pull)):
        vertical = up[s] * above[s] + down[s] * below[s]
        pull[s] = TWO * (vertical + (left[s] * before[s] + right[s] * after[s]))


@inner(error_model="numpy")
def _mean(m, own, pull, coldness, t):
    """The mean levels; the loops over the levels, a tuple, are unrolled."""
    for s in range(len(m)):
        low = own[0, s] - t[0] * pull[s]
        for k in range(1, len(t)):
            f = own[k, s] - t[k] * pull[s]
            low = f if f < low else low
        mass, moment = ZERO, ZERO
        for k in range(len(t)):
            p = ONE + (low - (own[k, s] - t[k] * pull[s])) * coldness[s]
            p = p if p > ZERO else ZERO
            p = p * p
            p = p * p
            mass += p
            moment += t[k] * p
        m[s] = moment / mass


@inner(error_model="numpy")
def _least(m, own, pull, t):
    """The levels of least f."""
    for s in range(len(m)):
        low, at = own[0, s] - t[0] * pull[s], t[0]
        for k in range(1, len(t)):
            f = own[k, s] - t[k] * pull[s]
            at = t[k] if f < low else at
            low = f if f < low else low
        m[s] = at


@inner(error_model="numpy")
def _add(total, m, own, pull, t):
    """Adds the energy of levels m; half of the pull on a cell is its neighbours' share."""
    for s in range(len(m)):
        c = own[0, s]
        for k in range(1, len(t)):
            c = own[k, s] if m[s] == t[k] else c
        total[s] += HALF * (c + (c - m[s] * pull[s]))


@inner(error_model="numpy")
def _neighbours(pull, m, weights, colour, y):
    w, near, n = weights[colour, y], m[1 - colour], len(pull)
    left = LANES * ((y + colour) % 2)
    right = left + LANES
    row, above, below = near[y + 1], near[y, LANES : LANES + n], near[y + 2, LANES : LANES + n]
    _pull(pull, w[0], w[1], w[2], w[3], above, below, row[left : left + n], row[right : right + n])
    return m[colour, y + 1, LANES : LANES + n]


@inner(error_model="numpy")
def _descend(m, own, weights, pull, t, sweeps):
    for sweep in range(2 * sweeps):
        for y in range(own.shape[1]):
            cells = _neighbours(pull, m, weights, sweep % 2, y)
            _least(cells, own[sweep % 2, y], pull, t)


@inner(error_model="numpy")
def _energies(m, own, weights, pull, t):
    total = np.zeros_like(pull)
    for colour in range(2):
        for y in range(own.shape[1]):
            cells = _neighbours(pull, m, weights, colour, y)
            _add(total, cells, own[colour, y], pull, t)
    return total.reshape(-1, LANES).sum(0)


@inner(error_model="numpy")
def _fill(own, weights, unary, down, right, t):
    """Own costs and weights of one block, from its samples."""
    rows, columns = unary.shape[2:]
    for s in range(len(unary)):
        for y in range(rows):
            for x in range(columns):
                e = x // 2 * LANES + s
                w = weights[(y + x) % 2, y]
                w[0, e] = QUARTER * down[s, y - 1, x] if y else ZERO
                w[1, e] = QUARTER * down[s, y, x] if y + 1 < rows else ZERO
                w[2, e] = QUARTER * right[s, y, x - 1] if x else ZERO
                w[3, e] = QUARTER * right[s, y, x] if x + 1 < columns else ZERO
                total = (w[0, e] + w[1, e]) + (w[2, e] + w[3, e])
                for k in range(len(t)):
                    own[(y + x) % 2, y, k, e] = unary[s, k, y, x] + t[k] * t[k] * total


@inner(error_model="numpy")
def _coldness(own, narrowest):
    """1 / (4 T) at the start, the same for all cells of a sample."""
    widest = np.full(LANES, narrowest)
    for colour in range(2):
        for y in range(own.shape[1]):
            for e in range(own.shape[3]):
                low, high = own[colour, y, 0, e], own[colour, y, 0, e]
                for k in range(1, own.shape[2]):
                    low, high = min(low, own[colour, y, k, e]), max(high, own[colour, y, k, e])
                widest[e % LANES] = max(widest[e % LANES], high - low)
    return np.repeat(QUARTER / widest, own.shape[3] // LANES).reshape(LANES, -1).T.copy().reshape(-1)


@inner(error_model="numpy")
def _cheapest(m, unary, t):
    """The levels of the least unary of each cell."""
    for s in range(len(unary)):
        for y in range(unary.shape[2]):
            for x in range(unary.shape[3]):
                low, at = unary[s, 0, y, x], t[0]
                for k in range(1, len(t)):
                    u = unary[s, k, y, x]
                    at = t[k] if u < low else at
                    low = u if u < low else low
                m[(y + x) % 2, y + 1, (x // 2 + 1) * LANES + s] = at


@compiled(error_model="numpy")
def _anneal(unary, down, right, t, sweeps, heating, descents, narrowest, out):
    rows, columns = unary.shape[2:]
    n = (columns + 1) // 2 * LANES
    own, weights = np.zeros((2, rows, len(t), n), np.float32), np.zeros((2, rows, 4, n), np.float32)
    m = np.zeros((2, rows + 2, n + 2 * LANES), np.float32)
    result, pull, best = np.zeros_like(m), np.empty(n, np.float32), np.empty(LANES, np.float32)
    for first in range(0, len(unary), LANES):
        block = slice(first, first + LANES)
        _fill(own, weights, unary[block], down[block], right[block], t)
        coldness = _coldness(own, narrowest)
        m[:] = 0
        for sweep in range(2 * sweeps):
            for y in range(rows):
                cells = _neighbours(pull, m, weights, sweep % 2, y)
                _mean(cells, own[sweep % 2, y], pull, coldness, t)
            if sweep % 2 == 1:
                coldness *= heating
        best[:], result[:] = np.inf, 0
        for start in range(len(t) + 2):
            if start == len(t) + 1:
                _cheapest(m, unary[block], t)
            elif start > 0:
                m[:] = t[start - 1]
            _descend(m, own, weights, pull, t, descents)
            found = _energies(m, own, weights, pull, t)
            for s in range(LANES):
                if found[s] < best[s]:
                    best[s] = found[s]
                    result[:, :, s::LANES] = m[:, :, s::LANES]
        for s in range(len(unary[block])):
            for y in range(rows):
                for x in range(columns):
                    level = result[(y + x) % 2, y + 1, (x // 2 + 1) * LANES + s]
                    out[first + s, y, x] = (level + ONE) * (HALF * np.float32(len(t) - 1)) + HALF


@inner(error_model="numpy")
def _step(after, before, down, unary, right, rise, jump):
    """Costs with one more cell: the least over the labels, unrolled, of the cell above, which leaves the state."""
    for r in range(len(after)):
        for s in range(after.shape[1]):
            least = before[r, 0, s] + down[s] * rise[0]
            for k in range(1, len(rise)):
                other = before[r, k, s] + down[s] * rise[k]
                least = other if other < least else least
            after[r, s] = (least + unary[s]) + right[s] * jump


@compiled(error_model="numpy")
def _solve(unary, down, right, apart, out):
    """Costs of all states after each cell, then the way back of the cheapest.

    The lowest digit of a state is its oldest label, the highest its newest.
    """
    labels, rows, columns = unary.shape[1:]
    rest = labels ** (columns - 1)
    costs = np.empty((rows * columns + 1, rest * labels, LANES), np.float32)
    own = np.zeros((rows * columns, labels, LANES), np.float32)
    above, left = np.zeros((rows * columns, LANES), np.float32), np.zeros((rows * columns, LANES), np.float32)
    costs[0] = 0
    for first in range(0, len(unary), LANES):
        count = min(LANES, len(unary) - first)
        for s in range(count):
            for y in range(rows):
                for x in range(columns):
                    cell = y * columns + x
                    own[cell, :, s] = unary[first + s, :, y, x]
                    above[cell, s] = down[first + s, y - 1, x] if y else ZERO
                    left[cell, s] = right[first + s, y, x - 1] if x else ZERO
        for cell in range(rows * columns):
            before = costs[cell].reshape(labels, -1, labels, LANES)
            after = costs[cell + 1].reshape(labels, labels, -1, LANES)
            for new in range(labels):
                for last in range(labels):
                    rise, jump = apart[new], apart[new][last]
                    _step(after[new, last], before[last], above[cell], own[cell, new], left[cell], rise, jump)
        for s in range(count):
            state = costs[-1, :, s].argmin()
            for cell in range(rows * columns - 1, -1, -1):
                label, r = divmod(state, rest)
                out[first + s, cell // columns, cell % columns] = label
                state, least = r * labels, costs[cell, r * labels, s] + above[cell, s] * apart[label][0]
                for k in range(1, labels):
                    other = costs[cell, r * labels + k, s] + above[cell, s] * apart[label][k]
                    if other < least:
                        state, least = r * labels + k, other


def exact_cpu(unary: Tensor, down: Tensor, right: Tensor, apart: tuple, out: Tensor) -> None:
    """Fills out int32 [B,gh,gw] by dynamic programming; apart[a][b]: (a - b)^2 / (L-1)^2, floats."""
    _spread(_solve, unary, down, right, (tuple(tuple(map(np.float32, row)) for row in apart),), out, 256)


def annealed_cpu(unary: Tensor, down: Tensor, right: Tensor, t: tuple, schedule: tuple, out: Tensor) -> None:
    """Fills out int32 [B,gh,gw] by annealing; t: the levels, floats; schedule: sweeps, heating, descents, narrowest."""
    sweeps, heating, descents, narrowest = schedule
    constants = tuple(map(np.float32, t)), sweeps, np.float32(heating), descents, np.float32(narrowest)
    _spread(_anneal, unary, down, right, constants, out, sweeps)


def _spread(solve, unary, down, right, constants, out, steps) -> None:
    arrays = [v.contiguous().numpy() for v in (unary, down, right)]

    def work(first: int, last: int) -> None:
        block = slice(LANES * first, LANES * last)
        solve(*(array[block] for array in arrays), *constants, out[block].numpy())

    share(work, -(-len(unary) // LANES), steps * unary.numel())
