"""The published numbers: top-1 of every cell of OpenMixup's benchmarks.

configs/published.csv holds what that project (https://github.com/Westlake-AI/openmixup) prints in Mixup_imagenet.md,
Mixup_cifar.md and Mixup_downstream.md of docs/en/mixup_benchmarks. Two decimals as printed; an empty number is a cell
without one. `alpha` is the method's parameter as printed. `source` is "original" for numbers of the authors' own code,
else "openmixup". configs/published_cost.csv holds what Mixup_cifar.md prints of memory and hours.
"""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

METHODS = {  # a config's `mix`: the method's name in the tables
    "vanilla": "Vanilla",
    "mixup": "MixUp",
    "cutmix": "CutMix",
    "deit": "DeiT",
    "rsb": "RSB",
    "smoothmix": "SmoothMix",
    "gridmix": "GridMix",
    "resizemix": "ResizeMix",
    "manifoldmix": "ManifoldMix",
    "fmix": "FMix",
    "attentivemix": "AttentiveMix+",
    "saliencymix": "SaliencyMix",
    "puzzlemix": "PuzzleMix",
    "comixup": "Co-Mixup",
    "supermix": "SuperMix",
    "alignmix": "AlignMix",
    "grafting": "Grafting",
    "transmix": "TransMix",
    "tokenmix": "TokenMix",
    "automix": "AutoMix",
    "samix": "SAMix",
}


@dataclass(frozen=True)
class Cell:
    """One cell of a table; top1 in percent, None where nothing is printed."""

    table: str
    backbone: str
    setting: str
    method: str
    alpha: str
    top1: float | None
    source: str


@dataclass(frozen=True)
class Cost:
    """What a method is printed to cost: GB on a GPU with 100 images, and hours of 600 epochs of CIFAR-100."""

    table: str
    backbone: str
    method: str
    gigabytes: float
    hours: float


@lru_cache
def cells() -> tuple[Cell, ...]:
    """Every cell, in the published order."""
    return tuple(Cell(*row[:5], float(row[5]) if row[5] else None, row[6]) for row in _rows("published.csv"))


@lru_cache
def costs() -> tuple[Cost, ...]:
    """Every method whose cost is printed, in that order."""
    return tuple(Cost(*row[:3], float(row[3]), float(row[4])) for row in _rows("published_cost.csv"))


def _rows(name: str) -> list[list[str]]:
    """Of a file of the configs, without its header."""
    return [*csv.reader((files("fastmix.configs") / name).read_text(encoding="utf-8").splitlines()[1:])]


def tables() -> list[str]:
    return list(dict.fromkeys(cell.table for cell in cells()))


def table(name: str) -> list[Cell]:
    """The cells of a table. Raises ValueError with the nearest name."""
    found = [cell for cell in cells() if cell.table == name]
    if not found:
        near = difflib.get_close_matches(name, tables(), 1, 0)[0]
        raise ValueError(f"unknown table {name!r}; did you mean {near!r}? (--list shows all)")
    return found


def column(name: str) -> dict[str, float | None]:
    """The numbers of a column by method. Its name is TABLE/BACKBONE/SETTING; raises ValueError with the nearest one."""
    found = {cell.method: cell.top1 for cell in cells() if f"{cell.table}/{cell.backbone}/{cell.setting}" == name}
    if not found:
        names = dict.fromkeys(f"{cell.table}/{cell.backbone}/{cell.setting}" for cell in cells())
        near = difflib.get_close_matches(name, names, 1, 0)[0]
        raise ValueError(f"the published tables have no column {name!r}; did you mean {near!r}?")
    return found


def published(table: str, backbone: str, setting: str, method: str) -> float | None:
    """The printed top-1 in percent, or None where the cell has none. Raises ValueError where there is no such cell."""
    key = (table, backbone, setting, method)
    for cell in cells():
        if (cell.table, cell.backbone, cell.setting, cell.method) == key:
            return cell.top1
    raise ValueError(f"the published tables have no cell {' / '.join(key)}")
