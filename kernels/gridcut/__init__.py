"""Labels of the cells of a grid that minimise a quadratic energy, one grid a sample (the cut of PuzzleMix).

    E(l) = sum_i unary(l_i, i) + sum_edges W_ij (l_i - l_j)^2 / (L-1)^2,    l in 0..L-1, 2 <= L <= 4

Small grids are solved exactly, by dynamic programming cell by cell: a state is the labels of the last gw cells.

Larger ones are annealed. With the levels t_l = (2 l - (L-1)) / (L-1), w = W/4 and the mean level m_j of each neighbour,

    m_i = sum_l t_l p_l / sum_l p_l,    p_l = exp((min f - f_l) / T),
    f_l = unary(l, i) + t_l^2 sum_j w_ij - 2 t_l sum_j w_ij m_j

one colour of the checkerboard after the other (with a quadratic cost no other moment of a neighbour matters), while T
falls from the widest range of f's part without neighbours. Then every cell takes the level of its least f, sweep by
sweep. Such sweeps from each constant labelling, and from the least unary of each cell, compete with that: the result is
never worse than those. exp(-x) is (1 - x/4)^4, 0 from x = 4 on: any falling function serves, and this one has the same
bits everywhere.

Bytes: the arguments once, 4 written a cell. Flops a cell: exact 4 L^(gw+1); annealed about 1,800 for 3 labels, on a GPU
twice that, where a program computes both colours in every sweep and keeps one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.gridcut.cases import CASES
from fastmix.kernels.gridcut.gpu import AOT, annealed_kernel, build, exact_kernel
from fastmix.kernels.gridcut.reference import (
    DESCENTS,
    DTYPES,
    HEATING,
    LABELS,
    NARROWEST,
    SIDES,
    SWEEPS,
    energy,
    is_small,
    label_costs,
    levels,
    reference,
)

__all__ = ["AOT", "CASES", "DTYPES", "energy", "gridcut", "is_small", "reference"]


def gridcut(unary: Tensor, down: Tensor, right: Tensor, exact: bool | None = None) -> Tensor:
    """The labels of least energy (see the top), int32 [B,gh,gw] in 0..L-1.

    unary float32 [B,L,gh,gw]: 2 to 4 labels, grids from 2x2 to 16x16; down float32 [B,gh-1,gw], right float32
    [B,gh,gw-1]: the weights W of the edges to the cell below and on the right, meant to be at least 0 (with others,
    annealing may end far from the minimum). exact: by dynamic programming or annealed; None: by dynamic programming
    where a grid is small (`is_small`: 4 columns, or with 2 labels 8). Nothing waits for the device. Raises ValueError
    for arguments that do not fit.
    """
    exact = _check(unary, down, right, exact)
    unary, down, right = (v.contiguous() for v in (unary, down, right))
    n, labels, rows, columns = unary.shape
    out = torch.empty(n, rows, columns, dtype=torch.int32, device=unary.device)
    if n and (unary.is_cuda or INTERPRETED):
        kernel = exact_kernel if exact else annealed_kernel
        constants, warps = build(exact, labels, rows, columns)
        with torch.cuda.device_of(unary):
            kernel[(n,)](unary, down, right, out, rows, columns, **constants, num_warps=warps, enable_fp_fusion=False)
    elif exact:
        from fastmix.kernels.gridcut.cpu import exact_cpu

        exact_cpu(unary, down, right, label_costs(labels), out)
    else:
        from fastmix.kernels.gridcut.cpu import annealed_cpu

        annealed_cpu(unary, down, right, levels(labels), (SWEEPS, HEATING, DESCENTS, NARROWEST), out)
    return out


def _check(unary: Tensor, down: Tensor, right: Tensor, exact: bool | None) -> bool:
    """Whether to solve exactly."""
    fits = unary.ndim == 4 and unary.dtype == torch.float32 and LABELS[0] <= unary.shape[1] <= LABELS[1]
    if not fits or not all(SIDES[0] <= side <= SIDES[1] for side in unary.shape[2:]):
        found = f"{unary.dtype} {list(unary.shape)}"
        raise ValueError(f"gridcut: unary must be float32 [B,2..4,2..16,2..16], not {found}")
    n, labels, rows, columns = unary.shape
    for name, edges, shape in (("down", down, (n, rows - 1, columns)), ("right", right, (n, rows, columns - 1))):
        if (edges.dtype, edges.shape, edges.device) != (torch.float32, shape, unary.device):
            found = f"{edges.dtype} {list(edges.shape)} on {edges.device}"
            raise ValueError(f"gridcut: {name} must be float32 {list(shape)} on {unary.device}, not {found}")
    small = is_small(labels, rows, columns)
    if exact and not small:
        raise ValueError(
            f"gridcut: {labels} labels on {rows}x{columns} cells cannot be solved exactly; leave exact out"
        )
    return small if exact is None else exact
