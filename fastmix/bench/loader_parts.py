"""Where the time of the `beton` loader goes, on one thread: read, decode, resize, and the copy to the device.

Each part is done for all images of an epoch by itself, in turns: reading touches every byte, decoding is that of the
crop's part into the thread's memory, resizing is that of the decoded pixels into the batch.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import numpy as np


def rows(source: str, views: list, args: argparse.Namespace) -> list[dict]:
    """Rows in ms an image for each part, and the share of the longest, over `rounds` rounds."""
    from fastmix.bench.measure import quantiles, row

    out, shape = [], f"{args.size}x{args.size}x3"
    for view in views:
        times = _times(source, view, args)
        name = f"{view.crop} {args.label}".strip()
        for part, values in times.items():
            out.append(row("loader parts", name, part, shape, "uint8", "ms/image", values, device=args.device))
        medians = {part: quantiles(values)[1] for part, values in times.items()}
        longest = max(medians, key=medians.get)
        share = [100 * medians[longest] / sum(medians.values())]
        out.append(row("loader parts", name, f"longest: {longest}", shape, "uint8", "% of the sum", share))
    return out


def decode_nothing() -> None:
    """From now on the compiled code of this process takes images, and neither reads nor decodes them."""
    from numba import njit

    from fastmix.pipelines import in_one_call
    from fastmix.pipelines.jit.intrinsics import take

    @njit(nogil=True)
    def walk(taken, table, *rest):
        while take(taken) < len(table):
            pass
        return 0

    in_one_call._walk = walk


def _times(source: str, view, args: argparse.Namespace) -> dict[str, list[float]]:
    import torch

    from fastmix.pipelines.jpeg.decode import jpeg
    from fastmix.pipelines.packing.format import RAW, Beton
    from fastmix.pipelines.resize import place, sees

    with Beton(source) as file:
        rows = np.arange(min(len(file), 200))
        raw = file.modes[rows] == RAW
        windows, flips = view.windows(file.heights[rows], file.widths[rows], 0, 0, rows)
        out = torch.empty(view.size, view.size, 3, dtype=torch.uint8, pin_memory=args.device == "cuda")
        times: dict[str, list[float]] = {"read": [], "decode": [], "resize": [], "copy to the device": []}
        for _ in range(args.rounds + 1):
            spent = dict.fromkeys(times, 0.0)
            for row, window, flip in zip(rows, windows, flips, strict=True):
                marks = [time.perf_counter()]
                data = file.data(row).copy()
                marks.append(time.perf_counter())
                height, width = int(file.heights[row]), int(file.widths[row])
                if raw[row]:
                    pixels, origin = data.reshape(height, width, 3), (0, 0)
                else:
                    part = sees(window, view.size, view.interpolation, view.whole)
                    pixels, origin = jpeg(data, height, width, 1, part)
                marks.append(time.perf_counter())
                place(pixels, window, flip, out.numpy(), view.interpolation, view.whole, origin)
                marks.append(time.perf_counter())
                if args.device == "cuda":
                    out.to(args.device)
                    torch.cuda.synchronize()
                marks.append(time.perf_counter())
                for part, (start, end) in zip(spent, pairwise(marks), strict=True):
                    spent[part] += end - start
            for part, seconds in spent.items():
                times[part].append(1e3 * seconds / len(rows))
    if args.device == "cpu":
        del times["copy to the device"]
    return {part: values[1:] for part, values in times.items()}
