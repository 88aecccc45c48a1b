"""python -m fastmix.bench track: runs with a tracker against the same runs without, in turns.

Wall time of a step, between the first and the last line of the log; processor time of the training process for a step,
its start included, which other work on the machine changes less; that of the trackers' own processes for a run. And
what a line of the log takes: nothing else of a tracker is in the training process.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fastmix.bench import measure
from fastmix.runs.trackers import TRACKERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--track", default="tensorboard", choices=TRACKERS, help="the tracker")
    parser.add_argument("--pairs", type=int, default=7, help="runs with and without; which one is first alternates")
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], help="settings over the config")


def run(args: argparse.Namespace) -> Iterator[dict]:
    """Rows of `lines`; of what `measured` has, and of its % of that without, over pairs. Raises ValueError."""
    from fastmix import config

    found: dict[str, list[dict]] = {"without": [], args.track: []}
    yield from lines(args.track, 30)
    for k in range(args.pairs):
        for name in [*found][:: 1 if k % 2 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                track = [] if name == "without" else [name]
                cfg = config.load(
                    "quickstart", [*args.set, f"device={args.device}", f"out={folder}/run", f"track={track}"]
                )
                found[name].append(measured(cfg))
    shape = f"{cfg.batch_total}x{cfg.data.size}x{cfg.data.size}"
    for unit in found["without"][0]:
        without, tracked = ([one[unit] for one in runs] for runs in found.values())
        what = f"{cfg.model.name} {cfg.mix}, log_every {cfg.log_every}"
        rows = {"without": (unit, without), args.track: (unit, tracked)}
        if min(without) > 0:
            ratios = [100 * b / a for a, b in zip(without, tracked, strict=True)]
            rows[f"{args.track}, {unit}"] = "% of without", ratios
        for provider, (of, values) in rows.items():
            yield measure.row("track", what, provider, shape, cfg.precision, of, values, device=args.device)


def lines(track: str, turns: int, count: int = 200) -> Iterator[dict]:
    """Rows: processor time of a line of the log, which is all that a tracker adds to in the training process."""
    from fastmix import config, files
    from fastmix.engine.log import Log

    row = {"step": 1, "epoch": 1.0, "loss": 2.5, "lr": 0.1, "images_per_s": 1000.0, "data_wait": 0.01}
    with tempfile.TemporaryDirectory() as parent:
        logs = {}
        for name in ("without", track):
            folder = Path(parent, name)
            folder.mkdir()
            files.write_text(folder / "config.yaml", config.dump(config.Config()))
            files.write_text(folder / "versions.json", "{}")
            logs[name] = Log(folder / "log.jsonl", 1, 0, True, True, [name] if name == track else [])
        times: dict[str, list[float]] = {name: [] for name in logs}
        for _ in range(turns):
            for name, log in logs.items():
                began = time.thread_time()
                for _ in range(count):
                    log("train", **row)
                times[name].append(1e6 * (time.thread_time() - began) / count)
        for log in logs.values():
            log.close()
    for name, values in times.items():
        yield measure.row("track", "a line of the log", name, "", "", "us of processor", values)


def measured(cfg) -> dict[str, float]:
    """A run's times, by unit."""
    from fastmix.engine.training import train

    before = os.times()
    train(cfg, "track", quiet=True)
    spent = [b - a for a, b in zip(before, os.times(), strict=True)]
    log = Path(cfg.out, "log.jsonl").read_text(encoding="utf-8").splitlines()
    first, *_, last = [row for row in map(json.loads, log) if row["kind"] == "train"]
    return {
        "ms": 1e3 * (last["time"] - first["time"]) / (last["step"] - first["step"]),
        "ms of processor": 1e3 * sum(spent[:2]) / last["step"],
        "s of processor, others": sum(spent[2:4]),
    }
