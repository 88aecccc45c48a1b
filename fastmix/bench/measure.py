"""What the benchmarks share: interleaved timing with quantiles, the copy bandwidth of the machine, rows and tables.

A row is a dict: bench, name (what was done), provider (who did it), shape, dtype, unit, p20, p50, p80, bytes (that the
work must move), gbps (bytes over the median), share_of_copy (gbps over the copy bandwidth of the same run), hardware,
versions, date. Peers of one comparison share name, shape, dtype and unit.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastmix import files, system

PEERS = ("name", "shape", "dtype", "unit")
PACKAGES = ("torch", "triton", "numba", "timm", "torchvision", "ffcv", "simplejpeg", "numpy")


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for --device cuda without a GPU."""
    if args.device == "cuda":
        needs_gpu()


def place(device: str):
    """The torch.device of that name."""
    import torch

    return torch.device(device)


def needs_gpu() -> None:
    """Raises ValueError without a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no GPU that torch can use")


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's own operations on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def milliseconds(
    work: dict[str, Callable], repeats: int, device: str = "cpu", warmup: int = 2
) -> dict[str, list[float]]:
    """Times of each callable, in ms, `repeats` of them; the callables take turns, so drift of the machine hits all.

    On "cuda" the times are those of events around each call, read after a single wait at the end. Before each call the
    device is given other work, which also empties its cache.
    """
    for call in work.values():
        for _ in range(warmup):
            call()
    clock = _events if device == "cuda" else _wall
    return clock(work, repeats)


def cpu_milliseconds(work: dict[str, Callable], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """CPU times of each callable in ms, of all threads of this process; torch has one. They take turns likewise."""
    with one_thread():
        for call in work.values():
            for _ in range(warmup):
                call()
        return _wall(work, repeats, time.process_time)


def _wall(work, repeats, clock=time.perf_counter):
    times = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            start = clock()
            call()
            times[name].append((clock() - start) * 1e3)
    return times


def host_milliseconds(work: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Wall times of each callable on the host, in ms: the GPU is idle when it begins and is not waited for."""
    import torch

    times = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def finished_milliseconds(work: dict[str, Callable], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """Wall times of each callable in ms until the GPU has done what it was given: host and device together."""
    import torch

    def finished(call: Callable) -> None:
        call()
        torch.cuda.synchronize()

    for call in work.values():
        for _ in range(warmup):
            finished(call)
    return _wall({name: partial(finished, call) for name, call in work.items()}, repeats)


def _events(work, repeats):
    import torch

    pairs = {name: [] for name in work}
    spacer = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    for _ in range(repeats):
        for name, call in work.items():
            for _ in range(8):  # about 0.5 ms, in which the host runs ahead: its launches are not in the times
                spacer.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            pairs[name].append((start, end))
    torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) for start, end in timed] for name, timed in pairs.items()}


def copy_bandwidth(device: str = "cpu", megabytes: int = 256, repeats: int = 9) -> float:
    """GB/s of a large copy within the device's memory, bytes read plus bytes written, median."""
    import torch

    source = torch.full((megabytes * 1_000_000,), 7, dtype=torch.uint8, device=device)  # zeros may be unmapped pages
    target = torch.ones_like(source)
    times = milliseconds({"copy": lambda: target.copy_(source)}, repeats, device)["copy"]
    return 2 * len(source) / quantiles(times)[1] / 1e6


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """20th, 50th and 80th percentile, linearly interpolated."""
    ordered = sorted(values)

    def at(q: float) -> float:
        position = q * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])

    return at(0.2), at(0.5), at(0.8)


def row(
    bench: str,
    name: str,
    provider: str,
    shape: str,
    dtype: str,
    unit: str,
    values: list[float],
    bytes: int | None = None,
    copy: float | None = None,
    device: str = "cpu",
) -> dict:
    """One row from repeated measurements `values` in `unit`; bytes and gbps are given for times in ms only."""
    p20, p50, p80 = quantiles(values)
    gbps = bytes / p50 / 1e6 if bytes and unit == "ms" else None
    return {
        "bench": bench,
        "name": name,
        "provider": provider,
        "shape": shape,
        "dtype": dtype,
        "unit": unit,
        "p20": p20,
        "p50": p50,
        "p80": p80,
        "bytes": bytes,
        "gbps": gbps,
        "share_of_copy": gbps / copy if gbps and copy else None,
        "hardware": hardware(device),
        "versions": versions(),
        "date": date.today().isoformat(),
    }


def is_wrong(row: dict) -> bool:
    """Whether a row says that a proof failed."""
    return row["unit"] == "wrong" and float(row["p50"]) > 0


def hardware(device: str = "cpu") -> str:
    """The device that was measured, in words."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    cores = system.cores()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{cores} cores of {model}"


def versions() -> str:
    """Versions of what was measured, e.g. "torch 2.13.0 numba 0.68.1"."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return " ".join(found)


def table(rows: list[dict], ours: str = "fastmix") -> str:
    """The rows as aligned text, hardware and versions once below; the last column is the median over that of ours."""
    heads = ("name", "provider", "shape", "dtype", "p20", "p50", "p80", "unit", "gbps", "share_of_copy")
    medians = {tuple(row[key] for key in PEERS): row["p50"] for row in rows if row["provider"] == ours}
    lines = [(*heads, f"of {ours}")]
    for row in rows:
        median = medians.get(tuple(row[key] for key in PEERS))
        lines.append((*(_text(row[head]) for head in heads), _text(median and row["p50"] / median)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(text + [f"{rows[0]['hardware']}; {rows[0]['versions']}; {rows[0]['date']}"] if rows else text)


def _text(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def append_csv(rows: list[dict], path: str) -> None:
    """Adds the rows to a csv file, with a header if it is new."""
    new = not Path(path).exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def write_json(rows: list[dict], path: str) -> None:
    """Writes the rows as a JSON list, atomically."""
    files.write_text(Path(path), json.dumps(rows, indent=1) + "\n")
