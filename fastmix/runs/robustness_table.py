"""What fastmix.robustness left in run folders, as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterable

from fastmix.runs.run_folder import Run

FILE = "robustness.json"
LESS_IS_BETTER = ("ece", "ece_scaled", "nll", "brier", "mce", "mce_14")
HEADINGS = {
    "top1": "clean",
    "ece": "ECE",
    "ece_scaled": "ECE, scaled",
    "nll": "NLL",
    "brier": "Brier",
    "corrupted": "corrupted",
    "mce": "mCE",
    "mce_14": "mCE of 14",
    "fgsm_1": "FGSM 1/255",
    "fgsm_4": "FGSM 4/255",
    "random_half": "half the patches, random",
    "salient_half": "half, salient",
    "shuffle_4": "shuffled 4x4",
}
"""Columns, and how they are headed; those of PGD are named by their norm and radius."""


def rows(found: Iterable[Run]) -> tuple[list[dict], list[str]]:
    """A row a run that has been measured, and a note on each that has not.

    run, mix, seed, images, and those of HEADINGS that were measured: top-1 of each kind, ECE and mCE in percent, nll in
    nats, brier. ece is of all images, ece_scaled of a half at the temperature that the other half tells.
    Raises ValueError for a file that is none of fastmix.robustness.
    """
    table, notes = [], []
    for run in found:
        path = run.folder / FILE
        if not path.is_file():
            notes.append(f"{run.folder}: no {FILE}; `python -m fastmix.robustness {run.folder}` writes it")
            continue
        try:
            told = _numbers(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}: not a file of fastmix.robustness; remove it or measure the run again") from None
        table.append({"run": str(run.folder), "mix": run.cfg.mix, "seed": run.cfg.seed, **told})
    return table, notes


def lines(table: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and cells for tables.markdown and tables.latex; the best of a column is bold."""
    keys = list(dict.fromkeys(key for row in table for key in row))[4:]
    shown = [key for key in HEADINGS if key in keys] + [key for key in keys if key not in HEADINGS]
    best = {key: (min if key in LESS_IS_BETTER else max)(row[key] for row in table if key in row) for key in shown}

    def cell(row: dict, key: str) -> str:
        if key not in row:
            return "–"
        text = f"{row[key]:.3f}" if key in ("nll", "brier") else f"{row[key]:.2f}"
        return f"**{text}**" if row[key] == best[key] and len(table) > 1 else text

    header = ["run", "mix", "seed", "images", *(HEADINGS.get(key, key.replace("_", " ")) for key in shown)]
    fixed = ([row["run"], row["mix"], str(row["seed"]), str(row["images"])] for row in table)
    return header, [[*begin, *(cell(row, key) for key in shown)] for begin, row in zip(fixed, table, strict=True)]


def _numbers(found: dict) -> dict:
    """The columns of one file."""
    row = {"images": found["clean"]["images"], "top1": found["clean"]["top1"]}
    if ece := found.get("ece"):
        row |= {"ece": 100 * ece["all"]["ece"], "nll": ece["all"]["nll"], "brier": ece["all"]["brier"]}
        if "after" in ece:
            row["ece_scaled"] = 100 * ece["after"]["ece"]
    if bad := found.get("corruptions"):
        row |= {"corrupted": bad["mean_top1"]} | {key: bad[key] for key in ("mce", "mce_14") if key in bad}
    if fgsm := found.get("fgsm"):
        row |= {f"fgsm_{eps}": fgsm["top1"][fgsm["eps_levels"].index(eps)] for eps in (1, 4)}
    if pgd := found.get("pgd"):
        balls = zip(pgd["norm"], pgd["eps"], pgd["top1"], strict=True)
        row |= {f"PGD-{pgd['steps']}_{norm}_{eps:g}{'/255' * (norm == 'linf')}": top1 for norm, eps, top1 in balls}
    if gone := found.get("occlusion"):
        half = gone["dropped"].index(0.5)
        row |= {f"{kind}_half": gone["top1"][kind][half] for kind in ("random", "salient")}
    if (moved := found.get("shuffle")) and 4 in moved["parts_a_side"]:
        row["shuffle_4"] = moved["top1"][moved["parts_a_side"].index(4)]
    return row
