"""The kernels: one file each, with reference, Triton kernel, launcher, CASES for the tests, AOT for the compiler check.

KERNELS is what tests and checks iterate over; adding a kernel is its file and its name here.
"""

from fastmix.kernels import (
    crop,
    farthest,
    finegrained,
    graft_cells,
    mix,
    mix_logits,
    mix_logits_grad,
    randaugment,
    sinkhorn,
    top_cells,
)

KERNELS = [mix, crop, randaugment, top_cells, graft_cells, finegrained, farthest, mix_logits, mix_logits_grad, sinkhorn]
