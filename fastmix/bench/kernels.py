"""python -m fastmix.bench kernels: every case of every kernel against its reference on the CPU, right or wrong.

On a GPU the Triton kernels, on a CPU their twins. All must be equal bit for bit, or to the kernel's ULPS units in the
last place where it adds up in another order. Where a kernel takes fp32 as well as fp16 and bf16, every second case is
tried in these two.
"""

from __future__ import annotations

import argparse
import sys

from fastmix.bench import measure

SHARE = 16  # cases that a process takes at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--only", nargs="+", metavar="KERNEL", help="kernels; default: all")
    parser.add_argument("--first", action="store_true", help="the first case of each kernel alone")
    parser.add_argument("--processes", type=int, help="at a time; default: the cores, at most 8")


def run(args: argparse.Namespace):
    """A row for each share of a kernel's cases: how many of them are wrong. Raises ValueError for an unknown kernel."""
    from fastmix.bench.apart import apart
    from fastmix.kernels import KERNELS
    from fastmix.mixers import nearest

    for name in args.only or ():
        if name not in KERNELS:
            raise ValueError(f"--only: no kernel {name!r}{nearest(name, KERNELS)}")
    counts = {name: 1 if args.first else len(cases(name)) for name in args.only or KERNELS}
    tasks = [(name, k, min(k + SHARE, n), args.device) for name, n in counts.items() for k in range(0, n, SHARE)]
    for (name, first, last, _), found, error in apart(compare, tasks, args.processes):
        for line in [error] if error else found:
            print(f"wrong: {name}: {line}", file=sys.stderr)
        wrong = last - first if error else len(found)
        what = name, "fastmix", f"cases {first} to {last - 1}", "all"
        yield measure.row("kernels", *what, "wrong", [float(wrong)], device=args.device)


def cases(name: str) -> list[tuple]:
    """(case, dtype) of all that is tried of a kernel."""
    import torch

    from fastmix.kernels import kernel

    module = kernel(name)
    both = torch.float32 in module.DTYPES
    return [
        (case, dtype)
        for k, case in enumerate(module.CASES)
        for dtype in module.DTYPES
        if dtype.itemsize != 2 or not both or k % 2
    ]


def compare(name: str, first: int, last: int, device: str) -> list[str]:
    """A line for each of these cases in which the kernel on the device is not its reference on the CPU."""
    import torch

    from fastmix.bench.apart import lost
    from fastmix.kernels import kernel

    module, lines = kernel(name), []
    launch, allowed = getattr(module, name), getattr(module, "ULPS", 0)
    for case, dtype in cases(name)[first:last]:
        try:
            got = launch(**there(case.arguments(dtype), device))
            wanted = module.reference(**case.arguments(dtype))
            pairs = [(got, wanted)] if isinstance(got, torch.Tensor) else zip(got, wanted, strict=True)
            distance = max(ulps(one.cpu(), other) for one, other in pairs)
            if distance > allowed:
                lines.append(f"{case} {dtype}: {distance} ulp")
        except Exception as error:  # a proof reports whatever goes wrong
            if lost(error):
                raise  # the context is lost
            lines.append(f"{case} {dtype}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return lines


def there(arguments: dict, device: str) -> dict:
    """Arguments of a kernel, on the device. A table of images that lie apart holds where they are, and is told anew."""
    import torch

    from fastmix.kernels.crop.table import offsets

    moved = {key: value.to(device) if hasattr(value, "to") else value for key, value in arguments.items()}
    if isinstance(arguments.get("pixels"), list):
        moved["pixels"] = [image.to(device) for image in arguments["pixels"]]
        further = offsets(moved["pixels"]) - offsets(arguments["pixels"])
        table = arguments["table"].clone()
        table.view(torch.int64)[:, 0] += torch.from_numpy(further)
        moved["table"] = table.to(device)
    return moved


def ulps(got, wanted) -> int:
    """The largest distance of two tensors in units in the last place; NaNs of one meaning are equal."""
    import torch

    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return torch.iinfo(torch.int64).max
    if not got.numel():
        return 0
    if not got.is_floating_point():
        return int((got.long() - wanted.long()).abs().max())
    integer = {4: torch.int32, 2: torch.int16}[got.element_size()]
    lowest = torch.iinfo(integer).min

    def ordered(values):
        bits = values.contiguous().view(integer).long()
        return torch.where(bits < 0, lowest - bits, bits)

    return int((ordered(got) - ordered(wanted)).abs().max())
