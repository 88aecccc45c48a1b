"""e**x for rows of numbers on the CPU: numba's own goes through the C library, one number at a time."""

from __future__ import annotations

import math

import numpy as np

from fastmix.kernels.compiled import compiled

LOG2_E, LN_2 = np.float32(1 / math.log(2)), math.log(2)
LN_2_HIGH = np.float32(round(LN_2 * 2**12) / 2**12)  # few bits: its whole multiples are exact
LN_2_LOW = np.float32(LN_2 - float(LN_2_HIGH))
C3, C4, C5, C6, C7 = (np.float32(1 / math.factorial(k)) for k in range(3, 8))
ONE, HALF, LEAST, MOST = np.float32(1), np.float32(0.5), np.float32(-87), np.float32(88)


@compiled()
def exp_(x, power):
    """x = e**x in place, float32 to 2 units in the last place, x taken as within -87..88; power: int32 scratch.

    e**x = 2**k e**r with k = round(x / ln 2): a Taylor series for |r| <= ln 2 / 2, k as the exponent's bits.
    """
    for e in range(len(x)):
        value = min(max(x[e], LEAST), MOST)
        k = np.floor(value * LOG2_E + HALF)
        r = value - k * LN_2_HIGH - k * LN_2_LOW
        power[e] = (np.int32(k) + np.int32(127)) << np.int32(23)
        x[e] = ONE + r * (ONE + r * (HALF + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7))))))
    scale = power.view(np.float32)
    for e in range(len(x)):
        x[e] *= scale[e]
