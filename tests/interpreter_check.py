"""Runs every case of every kernel through Triton's interpreter and compares with its reference.

TRITON_INTERPRET=1 python tests/interpreter_check.py: fp32 and uint8 must be equal bit for bit, fp16 and bf16 within
one unit in the last place (the interpreter truncates to bf16, a GPU rounds). Exit code 1, and a line a difference,
otherwise.
"""

from __future__ import annotations

import sys

import torch

from fastmix.kernels import KERNELS
from fastmix.kernels._triton import INTERPRETED


def ulps(got: torch.Tensor, wanted: torch.Tensor) -> int:
    """The largest distance in units in the last place."""
    integer = {4: torch.int32, 2: torch.int16, 1: torch.uint8}[got.element_size()]
    lowest = torch.iinfo(integer).min

    def ordered(values):
        bits = values.contiguous().view(integer).long()
        return torch.where(bits < 0, lowest - bits, bits)

    return int((ordered(got) - ordered(wanted)).abs().max())


def main() -> int:
    assert INTERPRETED, "set TRITON_INTERPRET=1"
    wrong = count = 0
    for kernel in KERNELS:
        launcher = getattr(kernel, kernel.__name__.rsplit(".", 1)[1])  # it has the name of its file
        for case in kernel.CASES:
            for dtype in kernel.DTYPES:
                arguments = case.arguments(dtype)
                distance = ulps(launcher(**arguments), kernel.reference(**arguments))
                count += 1
                if distance > (dtype.itemsize == 2):
                    wrong += 1
                    print(f"{kernel.__name__} {case} {dtype}: {distance} ulp")
    print(f"{count} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
