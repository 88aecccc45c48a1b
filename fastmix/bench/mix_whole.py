"""The mixing pass with what comes before it in a step: the plan, drawn by the real method, and its way to the GPU.

Two ways: plan, copy and launch; and the same with the pass captured in a CUDA graph, which reads a plan that is
overwritten in place. Graphs are captured of the first inputs alone: a capture takes the host longer than many passes,
and what is measured begins with an empty cache anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

CHOICE = {"of": {"mixup": {"prob": 0.5}, "cutmix": {"prob": 0.5}}, "granularity": "sample"}
GRAPHS = 2  # of a plan, each reading an input of its own
METHODS = {  # rows of a config for the plans of mix_cases that a method makes from the generator alone
    "mixup": ("mixup", {}),
    "cutmix": ("cutmix", {}),
    "mixup+cutmix": ("choice", CHOICE),
    "gridmix": ("gridmix", {}),
    "smoothmix": ("smoothmix", {}),
    "fmix": ("fmix", {"bank": 16}),
    "resizemix": ("resizemix", {}),
}
PLANNED, REPLAYED = "fastmix, plan and pass", "fastmix, plan and pass, CUDA graph"


def whole(name: str, inputs: list, labels, dtype) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """The ways of plan `name` as functions of an input's index, and as functions of nothing, to time the host.

    Neither where no method makes such a plan.
    """
    if name not in METHODS:
        return {}, {}
    step = stepper(name, labels, dtype)
    ways = {PLANNED: lambda k: step(inputs[k])[1]}
    replay = replayed(name, inputs, labels, dtype)
    ways[REPLAYED] = replay
    turn = count()
    host = {provider: (lambda way=way: way(next(turn) % len(inputs))) for provider, way in ways.items()}
    return ways, host


def drawer(name: str, labels) -> Callable:
    """A function of images, uint8 [B,H,W,3], that draws the next step's plan as the method does, on the host."""
    import numpy as np

    from fastmix.batch import Batch
    from fastmix.mixers import build

    row, options = METHODS[name]
    mixer, steps = build(row, {row: options}), count()
    return lambda images: mixer.plan(Batch(images, labels, np.random.default_rng([0, next(steps)])))


def stepper(name: str, labels, dtype) -> Callable:
    """A function of images that draws a plan, sends it and mixes by it: the plan on the device, and [B,3,H,W]."""
    from fastmix.kernels.mix import mix
    from fastmix.kernels.mix.cases import MEAN, STD

    draw = drawer(name, labels)

    def step(images):
        plan = draw(images).to(images.device)
        return plan, mix(images, plan, MEAN, STD, dtype)

    return step


def overwrite(held, plan) -> None:
    """Writes a plan over one of the same kinds and shapes that is held on the device, without waiting for it.

    Raises ValueError for a plan of other kinds, which is another build of the pass.
    """
    from torch import Tensor

    from fastmix.kernels.host_to_device import refill

    if held.kinds != plan.kinds:
        raise ValueError(f"a plan of kinds {plan.kinds:b} cannot overwrite one of kinds {held.kinds:b}")
    for name, value in vars(plan).items():
        if isinstance(value, Tensor) and getattr(held, name) is not value:  # a method's bank stays what it is
            refill(getattr(held, name), value)


def replayed(name: str, inputs: list, labels, dtype) -> Callable:
    """A function of an input's index that draws a plan, overwrites the one on the GPU and replays a graph: of the first
    GRAPHS inputs their own, of others that of one of those."""
    from functools import partial

    from fastmix.engine.captured_step import SideStream
    from fastmix.kernels.mix import mix
    from fastmix.kernels.mix.cases import MEAN, STD

    draw, side = drawer(name, labels), SideStream(inputs[0].device)
    held = draw(inputs[0]).to(inputs[0].device)
    works = [partial(lambda images: [mix(images, held, MEAN, STD, dtype)], images) for images in inputs[:GRAPHS]]
    side.run(works[0])  # compiled before the capture
    replays = [side.capture(work) for work in works]

    def step(k: int):
        overwrite(held, draw(inputs[k]))
        return replays[k % GRAPHS]()[0]

    return step
