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
    mix_logits,
    mix_logits_grad,
    randaugment,
    sinkhorn,
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
    borders,
    gradient_pool,
    gridcut,
    transport,
    comixup,
    mix_logits,
    mix_logits_grad,
    sinkhorn,
]
