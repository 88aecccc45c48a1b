"""The passes over a map that batch-norm with ReLU is made of, as operations of torch: a launch each.

As operations they are seen by what counts a model's traffic and memory on tensors without any (`fastmix.bench floor`).
Maps are [N,C,H,W] in channels-last, of one type; a table is float32 [6,C]:

    0 count of values, infinite where statistics are fixed      3 1 / sqrt(var + eps)
    1 mean                                                      4 that times the weight
    2 sum of squared deviations from the mean                   5 bias
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fastmix.kernels.norm_act import gpu

LIBRARY = torch.library.Library("fastmix", "DEF")


def _operation(schema: str) -> Callable:
    """Makes an operation of a function, which also serves tensors without memory: there is no launch for these."""

    def made(function: Callable) -> Callable:
        name = function.__name__
        LIBRARY.define(name + schema)
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastmix::{name}", function, lib=LIBRARY)
        return getattr(torch.ops.fastmix, name).default

    return made


@_operation("(Tensor x) -> Tensor")
def moments(x: Tensor) -> Tensor:
    """Of each part of the rows: count, mean and sum of squared deviations. float32 [parts,3,C]"""
    rows, channels = _matrix(x)
    chunk, count = gpu.split(rows, channels)
    parts = x.new_empty((count, 3, channels), dtype=torch.float32)
    tile = gpu.shape(channels, gpu.SUMMED)
    grid = -(-channels // tile["CHANNELS"]), count
    _launch(gpu.moments_kernel, grid, x, parts, rows, chunk, channels // tile["V"], **tile)
    return parts


@_operation(
    "(Tensor? parts, Tensor weight, Tensor bias, Tensor(a!)? mean, Tensor(b!)? var, float momentum, float eps)"
    " -> Tensor"
)
def settle(
    parts: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """The table, from parts, which move the running mean and variance if there are any; without parts, from these."""
    channels = len(weight)
    table = weight.new_empty((6, channels), dtype=torch.float32)
    count = 0 if parts is None else len(parts)
    given = (table if value is None else value for value in (parts, weight, bias, mean, var))
    _launch(
        gpu.settle_kernel,
        (-(-channels // gpu.COLUMNS),),
        *given,
        table,
        count,
        channels,
        momentum,
        eps,
        TRAINING=count > 0,
        TRACKED=mean is not None,
        PARTS=gpu.PARTS,
        COLUMNS=gpu.COLUMNS,
        num_warps=gpu.SETTLE_WARPS,
    )
    return table


@_operation("(Tensor x, Tensor table, Tensor? shortcut, Tensor? second, float cap) -> Tensor")
def apply(x: Tensor, table: Tensor, shortcut: Tensor | None, second: Tensor | None, cap: float) -> Tensor:
    """ReLU up to `cap` of x normed by its table, and of the shortcut, normed by a second table where there is one."""
    out = torch.empty_like(x)
    kind = 0 if shortcut is None else 1 if second is None else 2
    added, by = x if shortcut is None else shortcut, table if second is None else second
    _launch_tiles(gpu.apply_kernel, x, x, table, added, by, out, cap=cap, SHORTCUT=kind)
    return out


@_operation("(Tensor grad, Tensor x, Tensor table, Tensor? out, bool relu, float cap) -> (Tensor, Tensor)")
def sums(grad: Tensor, x: Tensor, table: Tensor, out: Tensor | None, relu: bool, cap: float) -> tuple[Tensor, Tensor]:
    """Of each part of the rows the sums of g and of g (x - mean), float32 [parts,2,C]; and g, where `out` is given.

    g: the gradient behind the ReLU that gave `out`; without `out`, behind that of x normed, if there is a `relu`.
    """
    rows, channels = _matrix(x)
    chunk, count = gpu.split(rows, channels)
    parts = x.new_empty((count, 2, channels), dtype=torch.float32)
    passed = x.new_empty(0) if out is None else torch.empty_like(x)
    tile = gpu.shape(channels, gpu.SUMMED)
    grid = -(-channels // tile["CHANNELS"]), count
    given = grad, x, table, x if out is None else out, passed, parts, rows, chunk, channels // tile["V"], cap
    _launch(gpu.sums_kernel, grid, *given, ACT=int(relu) if out is None else 2, **tile)
    return parts, passed


@_operation("(Tensor grad, Tensor x, Tensor table, Tensor sums, bool relu, float cap) -> Tensor")
def gradient(grad: Tensor, x: Tensor, table: Tensor, sums: Tensor, relu: bool, cap: float) -> Tensor:
    """That of x, from g, or with `relu` from the gradient behind the ReLU of x normed; sums float32 [2,C] over all."""
    out = torch.empty_like(x)
    _launch_tiles(gpu.gradient_kernel, x, grad, x, table, sums, out, cap=cap, ACT=int(relu))
    return out


def without_memory(x: Tensor) -> bool:
    """Whether a tensor has a shape and no numbers."""
    return isinstance(x, FakeTensor)


def _matrix(x: Tensor) -> tuple[int, int]:
    """Rows and channels of a map."""
    return x.numel() // x.shape[1], x.shape[1]


def _launch_tiles(kernel, x: Tensor, *given: Tensor, cap: float, **constants) -> None:
    rows, channels = _matrix(x)
    tile = gpu.shape(channels, gpu.MAPPED)
    grid = -(-rows // tile["ROWS"]) * -(-channels // tile["CHANNELS"])
    _launch(kernel, (grid,), *given, rows, channels // tile["V"], cap, **tile, **constants)


def _launch(kernel, grid: tuple[int, ...], first: Tensor, *rest, **constants) -> None:
    if first.is_cuda or not without_memory(first):
        with torch.cuda.device_of(first):
            kernel[grid](first, *rest, **constants)
