"""The kernels: one file each, with reference, Triton kernel, launcher, CASES for the tests, AOT for the compiler check.

KERNELS is what tests and checks iterate over; adding a kernel is its file and its name here.
"""

from fastmix.kernels import (
    borders,
    comixup,
    crop,
    farthest,
    finegrained,
    gradient_pool,
    graft_cells,
    gridcut,
    mix,
    randaugment,
    top_cells,
    transport,
)

KERNELS = [
    mix,
    crop,
    randaugment,
    top_cells,
    graft_cells,
    finegrained,
    farthest,
    comixup,
    gridcut,
    gradient_pool,
    borders,
    transport,
]
