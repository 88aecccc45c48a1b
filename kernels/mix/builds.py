"""How the mixing pass is built and launched on a GPU: constants, shapes of programs, builds to try ahead of time."""

from __future__ import annotations

import math

from fastmix.kernels import plan as P
from fastmix.kernels._triton import Target
from fastmix.kernels.mix.gpu import mix_kernel

WARPS = 4
HEAVY = 1 << P.BLOCKS | 1 << P.RESIZED  # kinds with half the values a thread, because of their registers


def build(kinds: int) -> dict[str, int]:
    """The kernel's constants for a set of kinds: KIND is the only one, or -1."""
    return {"KINDS": kinds, "KIND": kinds.bit_length() - 1 if kinds.bit_count() == 1 else -1}


def program_shape(width: int, itemsize: int, kinds: int, erase: bool, address: int = 0) -> tuple[int, int]:
    """Values of a group (16 bytes to write, where rows and the images' address allow it), and groups of a program."""
    group = math.gcd(3 * width, 16 // itemsize, address)
    each = 8 if kinds & HEAVY or erase or group == 1 else 16  # values a thread
    return group, WARPS * 32 * each // group


def _target(
    name: str,
    dtype: str,
    size: tuple[int, int],
    registers: int,
    kinds: int,
    erase: bool = False,
    source: str = "u8",
    planar: bool = False,
) -> Target:
    group, groups = program_shape(size[1], BYTES[dtype], kinds, erase)
    types = dict(
        images=f"*{source}", table="*i32", profiles="*i16", bank="*i16", blocks="*i32", maps="*i32", boxes="*i32"
    )
    types |= dict.fromkeys(("mean0", "mean1", "mean2", "scale0", "scale1", "scale2"), "fp32")
    types |= {"fill": "*fp32", "out": f"*{dtype}"} | dict.fromkeys(("cells", "map_rows", "map_columns"), "i32")
    constants = dict(H=size[0], W=size[1], V=group, G=groups, ERASE=erase, PLANAR=planar) | build(kinds)
    load, store = min(group, 4) if kinds == 1 << P.BLOCKS else group * BYTES[source], group * BYTES[dtype]
    if planar:
        load, store = BYTES[source], BYTES[dtype]
    more = dict(fused=not erase and source == "u8", num_warps=WARPS, elements=groups * group)
    return Target(name, mix_kernel, types, constants, registers, load, store, **more)


BYTES = {"u8": 1, "bf16": 2, "fp16": 2, "fp32": 4}
KINDS = ("plain", "blend", "box", "window", "profile", "ranks", "blocks", "cells", "resized", "map")  # as in P
AOT = [
    _target(f"mix bf16, {name}", "bf16", (224, 224), 64 if HEAVY >> kind & 1 else 48, 1 << kind)
    for kind, name in zip(range(P.KINDS), KINDS, strict=True)
]
AOT += [
    _target("mix bf16, blend or box", "bf16", (224, 224), 48, 1 << P.BLEND | 1 << P.BOX),
    _target("mix bf16, all kinds", "bf16", (224, 224), 80, (1 << P.KINDS) - 1),
    _target("mix fp32, box", "fp32", (224, 224), 48, 1 << P.BOX),
    _target("mix fp16, box", "fp16", (288, 288), 48, 1 << P.BOX),
    _target("mix bf16, box, odd size", "bf16", (225, 225), 64, 1 << P.BOX),
    _target("mix bf16, blend or box, erase", "bf16", (224, 224), 80, 1 << P.BLEND | 1 << P.BOX, erase=True),
    _target("mix bf16, all kinds, erase", "bf16", (224, 224), 128, (1 << P.KINDS) - 1, erase=True),
    _target("mix bf16 to bf16, blend or box", "bf16", (224, 224), 48, 1 << P.BLEND | 1 << P.BOX, source="bf16"),
    _target("mix fp32 to fp32, all kinds", "fp32", (224, 224), 128, (1 << P.KINDS) - 1, source="fp32"),
    _target("mix bf16 to bf16, planar, all kinds", "bf16", (224, 224), 160, (1 << P.KINDS) - 1, False, "bf16", True),
]
