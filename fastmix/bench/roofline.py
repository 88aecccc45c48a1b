"""What the mix pass should take on a GPU, worked out from its machine code: nothing here is measured.

Three bounds: memory (bytes that must move, at the rate of a copy), instructions (those of all warps, on the busiest
unit of a scheduler) and latency (every program waits for the loads that depend on one another, as many programs at a
time as registers and shared memory allow: Little's law). The prediction is the largest, and the launch on top. Figures
of the GPUs, and which of them are assumed: fastmix/bench/gpus.py. Kernels with loops (crop, randaugment) have no such
count and are left out. All data is taken to come from memory, also what would stay in the second-level cache.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from fastmix.bench import measure
from fastmix.bench.gpus import CACHE_LATENCY, GPUS, LAUNCH, MEMORY_LATENCY, SCHEDULERS, WARP, Gpu, cycles, resident
from fastmix.bench.mix import NAMES, reads
from fastmix.bench.sass import Code, read

if TYPE_CHECKING:
    from fastmix.kernels.aot import Build

SAMPLES = 64  # of a plan whose bytes are counted: those of other batches are in proportion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", nargs="+", choices=GPUS, default=["h200"])
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--size", nargs="+", type=int, default=[32, 64, 160, 224], help="height and width")
    parser.add_argument("--plans", nargs="+", choices=NAMES, default=list(NAMES))


def run(args: argparse.Namespace) -> list[dict]:
    """The rows of all GPUs, plans and shapes, bf16.

    Raises ValueError for a count below 1, a size that is no multiple of 8, and without Triton.
    """
    for size in args.size:
        if size % 8:
            raise ValueError(f"--size is {size}; it must be a multiple of 8, as the builds are whose code is read")
    return [
        row
        for gpu in map(GPUS.get, args.gpu)
        for size in args.size
        for name in args.plans
        for row in _rows(gpu, name, size, args.batch)
    ]


@dataclass(frozen=True)
class Prediction:
    """Bounds in us by name; their maximum and the launch is the prediction."""

    bounds: dict[str, float]

    @property
    def microseconds(self) -> float:
        return max(self.bounds.values()) + LAUNCH


def predict(made: Build, code: Code, gpu: Gpu, programs: int, moved: float) -> Prediction:
    """The bounds of a launch of `programs` programs that must move `moved` bytes."""
    warps = made.target.num_warps
    busiest = max(cycles(code.units(), gpu.architecture).values())
    held = resident(made.registers, made.shared, warps, gpu)
    bounds = {
        "memory": moved / gpu.copy / 1e6,
        "instructions": -(-programs // gpu.processors) * warps * busiest / SCHEDULERS / gpu.clock / 1e3,
        "latency": max(1, programs / (held * gpu.processors)) * waits(code),
    }
    return Prediction(bounds)


def waits(code: Code) -> float:
    """us that a program's loads take one after another: the last from memory, those before it from the cache."""
    return MEMORY_LATENCY + CACHE_LATENCY * (code.chain() - 1)


def _rows(gpu: Gpu, name: str, size: int, batches: list[int]) -> list[dict]:
    import numpy as np

    from fastmix.kernels.mix.cases import PLANS
    from fastmix.kernels.plan import PLAIN

    plan = PLANS[name](np.random.default_rng(0), SAMPLES, (size, size))
    made, code = _code(1 << PLAIN if plan is None else plan.kinds, size, gpu.architecture)
    if code.way is None:
        print(f"left out: {name}: its code has {code.shape}", file=sys.stderr)
        return []
    each = made.target.elements
    moved = reads(plan, SAMPLES, (size, size)) / SAMPLES + 6 * size * size  # of an image, and what is written of it
    rows = []

    def row(n, provider, unit, value, count=None):
        shape = f"{n}x{size}x{size}x3"
        cells = measure.row("roofline", name, f"{provider}, predicted", shape, "bf16", unit, [value], count)
        rows.append(cells | {"hardware": f"{gpu.name}: predicted from its machine code, not measured"})

    for n in batches:
        prediction = predict(made, code, gpu, n * -(-3 * size * size // each), n * moved)
        row(n, "fastmix", "us, predicted", prediction.microseconds, int(n * moved))
        for bound, value in prediction.bounds.items():
            row(n, bound, "us, predicted", value)
    threads, warps = WARP * made.target.num_warps, made.target.num_warps
    held = resident(made.registers, made.shared, warps, gpu)
    row(1, "fastmix", "instructions an element", len(code.way) * threads / each)
    for unit, count in cycles(code.units(), gpu.architecture).items():
        row(1, unit, "cycles an element", count * threads / each)
    row(1, "fastmix", "warps a multiprocessor", held * warps)
    row(1, "fastmix", "KB in flight", held * moved * each / (3 * size * size) / 1e3)
    row(1, "latency x bandwidth", "KB in flight", waits(code) * gpu.copy * 1e3 / gpu.processors)
    return rows


@cache
def _code(kinds: int, size: int, architecture: int) -> tuple[Build, Code]:
    """The build of the pass for plans of these kinds, and its code."""
    from fastmix.kernels.aot import build
    from fastmix.kernels.mix import AOT

    fitting = [
        target
        for target in AOT
        if not kinds & ~target.constants["KINDS"] and not target.constants["ERASE"] and target.types["out"] == "*bf16"
    ]
    target = min(fitting, key=lambda t: (bin(t.constants["KINDS"]).count("1"), -t.constants["V"]))
    made = build(replace(target, constants=target.constants | {"H": size, "W": size}), architecture)
    return made, read(made.sass())
