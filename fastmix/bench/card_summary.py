"""A card's summary: what the rows of its parts say, as Markdown that fits a screen, floors beside the figures."""

from __future__ import annotations

import csv
from pathlib import Path

from fastmix.bench.gpus import GPUS, LAUNCH

LINES = 50
PASS = {  # providers of `bench mix`, and their columns
    "fastmix": "fastmix",
    "copy of the same bytes": "copy of the same bytes",
    "timm": "timm",
    "torchvision v2": "torchvision",
    "torch eager": "torch eager",
    "torch.compile": "torch.compile",
}


def read(path: Path) -> list[dict]:
    """The whole rows of a csv file as `bench --csv` writes it, numbers as such; none where it is not there yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("date")]  # a line that was cut off has none
    for row in rows:
        for key in ("p20", "p50", "p80", "bytes", "gbps", "share_of_copy"):
            row[key] = float(row[key]) if row[key] else None
    return rows


def text(path: Path, outcomes: dict[str, tuple[str, float]], used: float, minutes: float) -> str:
    """The summary of a table of rows; outcomes: of each part that ran, in words and in seconds."""
    rows = read(path)
    measured = [row for row in rows if "counted" not in row["hardware"]]
    hardware = measured[0]["hardware"] if measured else "nothing was measured"
    lines = [f"# Card: {hardware}", ""]
    if measured:
        lines += [f"{measured[0]['versions']}; {measured[0]['date']}; {used:.1f} of {minutes:g} minutes", ""]
    lines += [*_outcomes(outcomes), *_rates(rows)]
    for section in (_mix(rows, hardware), _step(rows, hardware), _others(rows)):
        lines += ["", *section] if section else []
    return "\n".join(lines[:LINES]) + "\n"


def _of(rows: list[dict], bench: str, **wanted: str) -> list[dict]:
    return [row for row in rows if row["bench"] == bench and all(row[key] == value for key, value in wanted.items())]


def _outcomes(outcomes: dict[str, tuple[str, float]]) -> list[str]:
    good = [f"{name} {seconds:.0f} s" for name, (words, seconds) in outcomes.items() if words == "ok"]
    other = [f"- {name}: {words} ({seconds:.0f} s)" for name, (words, seconds) in outcomes.items() if words != "ok"]
    return [*other, *([f"- ok: {', '.join(good)}"] if good else [])]


def _rates(rows: list[dict]) -> list[str]:
    found = [f"copy {row['p50']:.0f} GB/s, read and written" for row in _of(rows, "rates", name="copy")]
    found += [f"matmul {row['dtype']} {row['p50']:.3g} TFLOP/s" for row in _of(rows, "rates", name="matmul")]
    return [f"- at best: {'; '.join(found)}"] if found else []


def _mix(rows: list[dict], hardware: str) -> list[str]:
    found = _of(rows, "mix", unit="ms")
    if not found:
        return []
    shape, dtype = found[0]["shape"], found[0]["dtype"]
    found = [row for row in found if (row["shape"], row["dtype"]) == (shape, dtype)]
    gpu = _gpu(hardware)
    lines = _head([f"mix pass, us, {shape} {dtype}", *PASS.values(), "predicted from bytes"])
    for name in dict.fromkeys(row["name"] for row in found):
        of = {row["provider"]: row for row in found if row["name"] == name}
        cells = [f"{1e3 * of[provider]['p50']:.3g}" if provider in of else "" for provider in PASS]
        predicted = f"{of['fastmix']['bytes'] / gpu.copy / 1e6 + LAUNCH:.3g}" if gpu and "fastmix" in of else ""
        lines.append(_line([name, *cells, predicted]))
    return lines


def _step(rows: list[dict], hardware: str) -> list[str]:
    found, taken = _of(rows, "step"), {}
    for row in found:  # timm's eager step is measured beside each way of ours; its first will do
        way = row["provider"] if row["provider"] != "fastmix" else f"fastmix, {row['dtype']}"
        taken.setdefault(way, {}).setdefault((row["name"].split()[-1], row["unit"]), row["p50"])
    if not taken:
        return []
    methods = list(dict.fromkeys(row["name"].split()[-1] for row in found))
    model, shape = found[0]["name"].split()[0], found[0]["shape"]
    lines = _head([f"step, images/s, {model} {shape}", *methods, "GB at most"])
    images = int(shape.split("x")[0])
    for way, values in taken.items():
        cells = [f"{1e3 * images / values[name, 'ms']:.0f}" if (name, "ms") in values else "" for name in methods]
        most = max((value for (_, unit), value in values.items() if unit == "GB"), default=None)
        lines.append(_line([way, *cells, "" if most is None else f"{most:.3g}"]))
    gpu = _gpu(hardware)
    floors = [
        row for row in _of(rows, "floor", unit="images/s, predicted") if gpu and row["hardware"].startswith(gpu.name)
    ]
    said = [f"{row['provider'].split(',')[0]} {row['p50']:.0f}" for row in floors]
    return lines + ([f"Predicted at best, images/s: {', '.join(said)}."] if said else [])


def _others(rows: list[dict]) -> list[str]:
    lines = []
    loaded = _of(rows, "loader", unit="images/s")
    if loaded:
        said = [f"{row['name'].partition(' ')[2]} {row['p50']:.0f}" for row in loaded]
        lines.append(f"- loader, images/s: {', '.join(said)}")
    for bench in ("crop", "augment", "plan"):
        found = [row for row in _of(rows, bench, unit="ms") if row["provider"].startswith("fastmix")]
        said = [f"{row['name']} {row['p50']:.3g}" for row in found if row["provider"] == "fastmix"]
        lines += [f"- {bench}, ms, {found[0]['shape']}: {', '.join(said)}"] if said else []
    for row in _of(rows, "quickstart", unit="% top-1"):
        lines.append(f"- quickstart: {row['p50']:.2f} % top-1, {row['name']}, {row['shape']}, {row['dtype']}")
    return lines


def _gpu(hardware: str):
    """The GPU of gpus.py whose name the hardware bears, or None."""
    return next((gpu for key, gpu in GPUS.items() if key in hardware.lower()), None)


def _head(cells: list[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
