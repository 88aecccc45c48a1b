"""Runs every case of every kernel through Triton's interpreter and compares with its reference.

TRITON_INTERPRET=1 python tests/kernels/interpreter_check.py [--first] [KERNEL ...]: whole numbers and fp32 must be
equal bit for bit (fp32 to the kernel's ULPS, or the case's `ulps`, units in the last place where it adds up in another
order), fp16 and bf16 within one unit (the interpreter truncates to bf16, a GPU rounds). Where a kernel takes fp32 as
well, every second case is tried in the two others. --first: the first case of each kernel. Exit code 1, and a line a
difference, otherwise.
"""

from __future__ import annotations

import sys

import torch

from fastmix.kernels import KERNELS, kernel
from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.plan import Plan


def ulps(got: torch.Tensor, wanted: torch.Tensor) -> int:
    """The largest distance in units in the last place."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return torch.iinfo(torch.int64).max
    if not got.is_floating_point():
        return int((got.long() - wanted.long()).abs().max())
    integer = {4: torch.int32, 2: torch.int16}[got.element_size()]
    lowest = torch.iinfo(integer).min

    def ordered(values):
        bits = values.contiguous().view(integer).long()
        return torch.where(bits < 0, lowest - bits, bits)

    return int((ordered(got) - ordered(wanted)).abs().max())


def parts(result: torch.Tensor | tuple | Plan) -> list[torch.Tensor]:
    """What is compared of a result; of a plan the labels, which are floats, apart from the rest of its table."""
    if isinstance(result, Plan):
        tensors = [v for name, v in vars(result).items() if isinstance(v, torch.Tensor) and name != "table"]
        whole = [result.table[:, :2], result.table[:, 4:], torch.tensor(result.kinds)]
        return [*whole, result.own, result.other, *tensors]
    return [result] if isinstance(result, torch.Tensor) else list(result)


def main() -> int:
    assert INTERPRETED, "set TRITON_INTERPRET=1"
    first, wrong, count = "--first" in sys.argv, 0, 0
    for name in [word for word in sys.argv[1:] if not word.startswith("--")] or KERNELS:
        module = kernel(name)
        launcher = getattr(module, name)
        for number, case in enumerate(module.CASES[:1] if first else module.CASES):
            for dtype in module.DTYPES:
                if dtype.itemsize == 2 and torch.float32 in module.DTYPES and number % 2 == 0:
                    continue
                arguments = case.arguments(dtype)
                got, wanted = launcher(**arguments), module.reference(**arguments)
                most = max(getattr(module, "ULPS", 0), getattr(case, "ulps", 0), dtype.itemsize == 2)
                distance, count, far = 0, count + 1, False
                for one, other in zip(parts(got), parts(wanted), strict=True):
                    distance = max(distance, apart := ulps(one, other))
                    far |= apart > (most if one.is_floating_point() else 0)
                if far:
                    wrong += 1
                    print(f"{name} {case} {dtype}: {distance} ulp")
    print(f"{count} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
