"""The joint solver of Co-Mixup: which inputs the blocks of each output show, groups side by side.

A group has m inputs and as many outputs of n blocks; z_j,t is one input's unit vector, or half of two. It minimises

    sum_j,t <c_t, z_j,t> + beta/n sum_j #{label changes along the grid} + gamma/n sum_j!=j' <o_j, A o_j'>,
    o_j = sum_t z_j,t    (Kim et al., "Co-Mixup", ICLR 2021, eq. 4, 5 and appendix; arXiv:2102.03065)

output after output (Gauss-Seidel), `iterations` times over all. With the others fixed, showing input k in a block costs
c_k,t + 2 gamma/n (A q)_k, q_k the blocks of k in the other outputs, and nothing of the second where (A q)_k <= tau n.
From the second time on an output may also show halves of the three inputs that it shows most (pairs of them, ties to
the lower index), at the mean of both costs - 5e-4; next to a block of one of its two inputs a half counts 1/4 of a
label change. Before the last time, of two outputs that show one set of several inputs, the earlier pays gamma/n for
the first of the set, the later for the second (`resolve`).

An output's grid is settled row by row and column by column, ROUNDS times: even rows, odd rows, even columns, odd ones,
each line at its best labels with all others fixed (a shortest path), from three starts: as it is, each block's cheapest
label, and the one that is cheapest all over; the lowest energy wins, the first of equals. So no step raises an output's
energy. Alpha-beta swap by graph cuts, which the authors use, ends as low. Blocks settled one by one do not, and
outputs then show fewer inputs.

Costs are rounded once, to 2**-SCALE (`fixed_point`); all that follows is in whole numbers, so the reference, the Triton
kernel and the numba twin find the same labels on every device.

One program solves a group. Counts and an output's costs are in registers; costs and paths of its lines go through a
few kB of scratch, from which a line's blocks are read one after the other (cached). Bytes: 4 m n + 4 m m read and 4 m n
written. It is bound by latency: 2 rounds x 4 kinds of lines x 2 b blocks x m x iterations dependent steps, in which all
three starts, all lines of a kind and all groups go side by side. These are 3 b/2 (m + 3) values at a time, no more than
a program has threads; and an output's costs follow from the one before, so a second program for a group would have to
wait for the first after each output, which Triton has no way to do, or be 4 m launches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.comixup import gpu, posing
from fastmix.kernels.comixup.cases import CASES
from fastmix.kernels.comixup.gpu import blocks, comixup_kernel
from fastmix.kernels.comixup.posing import posed
from fastmix.kernels.comixup.problem import BASE, CELLS, MOST, ROUNDS, fixed_point
from fastmix.kernels.comixup.reference import DTYPES, reference

__all__ = ["AOT", "CASES", "DTYPES", "comixup", "reference"]

AOT = gpu.AOT + posing.AOT


def comixup(
    cost: Tensor,
    compatibility: Tensor,
    start: Tensor,
    sizes: Tensor,
    grid: tuple[int, int],
    beta: float = 0.32,
    gamma: float = 1.0,
    tau: float = 0.83,
    iterations: int = 4,
    resolve: bool = True,
    largest: float = 2.0,
) -> Tensor:
    """The two inputs that each block of each output shows half of; the same twice: it shows that one. int32 [G,m,n,2]

    cost           float32 [G,m,n]  of showing input k of the group in block t; the lower the better
    compatibility  float32 [G,m,m]  A, in [0,1]: 1 on the diagonal, off it what pairs of inputs in two outputs cost
    start          integers [G,m,n] the input that block t of output j shows at first
    sizes          int32 [G]        a group has the inputs 0..size-1; what lies behind is not read, and its outputs
                                    show input 0
    grid           (rows, columns) of the n blocks
    largest        what no cost exceeds, above or below 0; those that do are cut
    Without a wait for the device. Raises ValueError for arguments that do not fit each other.
    """
    _check(cost, compatibility, start, sizes, grid, (beta, gamma, tau, largest), iterations)
    if cost.is_cuda or INTERPRETED:
        sizes = sizes.int()
        problem, labels = posed(cost, compatibility, start, sizes, beta, gamma, tau, largest)
        _launch(problem, sizes, labels, grid, iterations, resolve)
    else:
        from fastmix.kernels.comixup.cpu import comixup_cpu

        problem = fixed_point(cost, compatibility, beta, gamma, tau, largest)
        inside = torch.arange(cost.shape[1])[:, None] < sizes[:, None, None]
        labels = torch.where(inside, start.clamp(0, cost.shape[1] - 1), 0).int() * (BASE + 1)
        comixup_cpu(problem, sizes, labels, grid, iterations, resolve)
    return torch.stack([labels // BASE, labels % BASE], 3)


def _launch(problem, sizes, labels, grid, iterations, resolve) -> None:
    groups, m, n = labels.shape
    chosen = blocks(m, n, grid[1])
    scratch = torch.empty(groups, n, 4 * chosen["L"] + 4, dtype=torch.int32, device=labels.device)
    with torch.cuda.device_of(labels):
        comixup_kernel[(groups,)](
            problem.costs,
            problem.penalty,
            sizes.contiguous(),
            labels,
            scratch,
            problem.limit,
            problem.quarter,
            problem.twin,
            problem.bonus,
            iterations,
            iterations - 2 if resolve else -1,
            3,
            4 * ROUNDS,
            m,
            n,
            grid[1],
            **chosen,
        )


def _check(cost, compatibility, start, sizes, grid, numbers, iterations) -> None:
    groups, m, n = cost.shape if cost.ndim == 3 else (0, 0, 0)
    if not (groups and 0 < m <= MOST and 0 < n <= CELLS) or cost.dtype != torch.float32:
        wanted = f"float32 [G,m,n], m at most {MOST}, n at most {CELLS}"
        raise ValueError(f"comixup: cost must be {wanted}, not {cost.dtype} {list(cost.shape)}")
    if grid[0] * grid[1] != n:
        raise ValueError(f"comixup: the grid {grid[0]} x {grid[1]} has not the {n} blocks of cost")
    wanted = {"compatibility": (groups, m, m), "start": (groups, m, n), "sizes": (groups,)}
    for (name, shape), tensor in zip(wanted.items(), (compatibility, start, sizes), strict=True):
        floating = name == "compatibility"
        if tensor.shape != shape or tensor.device != cost.device or tensor.is_floating_point() != floating:
            kind = "floats" if floating else "integers"
            found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            raise ValueError(f"comixup: {name} must be {kind} {list(shape)} on {cost.device}, not {found}")
    if min(numbers) < 0 or numbers[-1] == 0 or iterations < 1:
        found = f"{', '.join(map(str, numbers))} and {iterations}"
        raise ValueError(f"comixup: beta, gamma and tau must be at least 0, largest and iterations above, not {found}")
