"""What the kernel is launched with, and built for, by each rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

from torch import Tensor

from fastmix.kernels import plan as P
from fastmix.kernels._triton import Target
from fastmix.kernels.plan_rows import gpu
from fastmix.kernels.plan_rows.percent import matrices
from fastmix.kernels.plan_rows.rules import (
    Around,
    Attended,
    Blocks,
    Grafted,
    Ratio,
    Squares,
    Stretched,
    Tokens,
    Top,
    Weights,
)

MOST_CELLS, MOST_SIDE = 4096, 32  # of a grid that a program holds, and of a map of Stretched
PIXELS = 2048  # of a map, that a program holds at a time


@dataclass
class Asked:
    """Arguments of the kernel, as its docstring has them; kind: that of the rows."""

    rule: int
    kind: int
    values: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None
    matrices: tuple = (None,) * 4
    step: int = 0
    number: int = 0
    least: int = 0
    factor: float = 0.0
    grid: tuple[int, int] | None = None

    def __post_init__(self):
        if self.grid is None:
            self.grid = (1, 1) if self.values is None else tuple(self.values.shape[1:])

    @property
    def fits(self) -> bool:
        """Whether a program holds it."""
        if self.rule == gpu.STRETCHED:
            return max(self.grid) <= MOST_SIDE
        return self.kind == P.MAP or self.grid[0] * self.grid[1] <= MOST_CELLS


@singledispatch
def asked(rule, size: tuple[int, int]) -> Asked:
    raise TypeError(f"{type(rule).__name__} is no rule of a plan")


@asked.register
def _(rule: Around, size: tuple) -> Asked:
    count = rule.sides.shape[1]
    return Asked(gpu.AROUND, P.BOX, None, rule.peak, rule.sides.contiguous(), step=int(count > 1), number=count)


@asked.register
def _(rule: Squares, size: tuple) -> Asked:
    return Asked(gpu.SQUARES, P.WINDOW, rule.attention, number=rule.side)


@asked.register
def _(rule: Stretched, size: tuple) -> Asked:
    boxes, given = rule.boxes.contiguous(), matrices(tuple(rule.activation.shape[1:]), size, rule.boxes.device)
    step, rows, columns = int(boxes.shape[2] > 1), len(given[0]), len(given[1])
    return Asked(gpu.STRETCHED, P.RESIZED, rule.activation, boxes, rule.alike, tuple(given), step, rows, columns)


@asked.register
def _(rule: Top, size: tuple) -> Asked:
    step = int(len(rule.share) > 1)
    return Asked(gpu.TOP, P.CELLS, rule.attention, rule.share, step=step, number=rule.of, least=rule.least)


@asked.register
def _(rule: Grafted, size: tuple) -> Asked:
    return Asked(gpu.GRAFTED, P.CELLS, rule.saliency, rule.p, rule.uniform, factor=1 / rule.temperature)


@asked.register
def _(rule: Tokens, size: tuple) -> Asked:
    return Asked(gpu.TOKENS, P.CELLS, rule.activation, rule.pasted.contiguous(), step=int(len(rule.pasted) > 1))


@asked.register
def _(rule: Blocks, size: tuple) -> Asked:
    step = rule.weight.shape[1] if rule.first.ndim == 2 else 0
    return Asked(gpu.BLOCKS, P.BLOCKS, rule.weight, rule.first, rule.second, step=step, grid=rule.grid)


@asked.register
def _(rule: Attended, size: tuple) -> Asked:
    return Asked(gpu.ATTENDED, P.BOX, rule.attention, rule.plan.table, factor=rule.ratio)


@asked.register
def _(rule: Weights, size: tuple) -> Asked:
    return Asked(gpu.WEIGHTS, P.MAP, rule.own, rule.label)


@asked.register
def _(rule: Ratio, size: tuple) -> Asked:
    return Asked(gpu.RATIO, P.MAP, rule.maps, rule.scale)


def program_shape(wanted: Asked, apart: int) -> dict[str, int | bool]:
    """The kernel's constants, and its warps: one for up to 256 cells, so that nothing in a program waits for others.

    apart: from one sample to the next in `values`.
    """
    (h, w), lanes = wanted.grid, dict(H=1, W=1, C=1)
    n = max(32, 1 << (h * w - 1).bit_length())
    if wanted.rule == gpu.STRETCHED:
        columns = wanted.least
        lanes = {axis: 1 << (length - 1).bit_length() for axis, length in zip("HWC", (h, w, columns), strict=True)}
        n = 2 * lanes["C"] * lanes["W"]  # of float64
    elif wanted.kind == P.MAP:
        lanes["C"], n = math.gcd(h * w, apart, 4), PIXELS
    fine = wanted.kind == P.CELLS and h * w > P.MOST_CELLS
    return dict(RULE=wanted.rule, N=n, FINE=fine, **lanes, num_warps=min(max(n // 256, 1), 16))


# ---- ahead-of-time targets ----

_NUMBERS = dict.fromkeys(("pairs", "apart", "height", "width", "h", "w", "step", "number", "least"), "i32") | {
    "factor": "fp32"
}
_MATRICES = dict.fromkeys(("rows", "columns", "row_sums", "column_sums"), "*fp64")
_OPTIONAL = ("more", "values", "first", "second", *_MATRICES)
_GIVEN = {
    gpu.AROUND: dict(first="*i32", second="*i64"),
    gpu.SQUARES: dict(values="*fp32"),
    gpu.STRETCHED: dict(values="*fp32", first="*i64", **_MATRICES),
    gpu.TOP: dict(values="*fp32", first="*fp64"),
    gpu.GRAFTED: dict(values="*fp32", first="*fp32", second="*fp32"),
    gpu.TOKENS: dict(values="*fp32", first="*i1"),
    gpu.BLOCKS: dict(values="*fp32", first="*i32", second="*i32"),
    gpu.ATTENDED: dict(values="*fp32", first="*i32"),
    gpu.WEIGHTS: dict(values="*fp32", first="*fp32"),
    gpu.RATIO: dict(values="*fp32", first="*fp32"),
}


def _target(name: str, rule: int, kind: int, grid: tuple[int, int] = (1, 1), columns: int = 0, load: int = 4) -> Target:
    shape = program_shape(Asked(rule, kind, grid=grid, least=columns), grid[0] * grid[1])
    warps = shape.pop("num_warps")
    more = {"more": "*i32"} if shape["FINE"] or kind in (P.BLOCKS, P.MAP) else {}
    types = dict(table="*i32", partner="*i32") | more | _GIVEN[rule] | _NUMBERS
    constants = dict.fromkeys(name for name in _OPTIONAL if name not in types) | shape
    return Target(f"plan_rows {name}", gpu.plan_rows_kernel, types, constants, 128, load, load, False, warps)


AOT = [
    _target("top 7x7", gpu.TOP, P.CELLS, (7, 7)),
    _target("top 14x14", gpu.TOP, P.CELLS, (14, 14)),
    _target("grafted 7x7", gpu.GRAFTED, P.CELLS, (7, 7)),
    _target("tokens 14x14", gpu.TOKENS, P.CELLS, (14, 14)),
    _target("around", gpu.AROUND, P.BOX),
    _target("squares 14x14", gpu.SQUARES, P.WINDOW, (14, 14)),
    _target("stretched 7x7", gpu.STRETCHED, P.RESIZED, (7, 7), 14),
    _target("stretched 32x32", gpu.STRETCHED, P.RESIZED, (32, 32), 64),
    _target("blocks 16x16", gpu.BLOCKS, P.BLOCKS, (16, 16)),
    _target("attended 14x14", gpu.ATTENDED, P.BOX, (14, 14)),
    _target("weights 224x224", gpu.WEIGHTS, P.MAP, (224, 224), load=16),
    _target("ratio 224x224", gpu.RATIO, P.MAP, (224, 224), load=16),
]
