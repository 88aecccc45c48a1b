"""robustness.json of a run folder: what fastmix.robustness measured, test by test, and what it was measured on."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "robustness.json"
ON = ("weights", "data", "size", "resize", "interpolation", "precision", "seed")
"""What all tests of a file have in common. weights and data are hashes: of the network, and of rows and labels."""
HASHES = ("weights", "data")


def read(path: Path) -> dict | None:
    """The file's content; None where there is none. Raises ValueError for another file of that name."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        numbers(found)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ValueError(f"{path}: not a file of fastmix.robustness; remove it or measure the run again") from None
    return found


def others(found: dict, on: dict) -> list[str]:
    """In what a file was measured on something else than this, in words: new tests have no place beside its own."""
    if not found.keys() >= {*HASHES}:
        return ["weights and images that it does not name"]
    unlike = [key for key in ON if found.get(key) != on[key]]
    return [f"other {key}" if key in HASHES else f"{key} {found.get(key)}, not {on[key]}" for key in unlike]


def numbers(found: dict) -> dict[str, float]:
    """What tables have columns for, by the names of these (runs.columns): top-1 of each kind, ECE and mCE in percent,
    nll in nats, brier; and `images`, of how many. ece is of all images, ece_scaled of a half at the temperature that
    the other half tells."""
    row = {"images": found["clean"]["images"], "clean": found["clean"]["top1"]}
    if ece := found.get("ece"):
        row |= {"ece": 100 * ece["all"]["ece"], "nll": ece["all"]["nll"], "brier": ece["all"]["brier"]}
        if "after" in ece:
            row["ece_scaled"] = 100 * ece["after"]["ece"]
    if bad := found.get("corruptions"):
        row |= {"corrupted": bad["mean_top1"]} | {key: bad[key] for key in ("mce", "mce_14") if key in bad}
    if fgsm := found.get("fgsm"):
        row |= {f"fgsm_{eps}": top1 for eps, top1 in zip(fgsm["eps_levels"], fgsm["top1"], strict=True) if eps}
    if pgd := found.get("pgd"):
        balls = zip(pgd["norm"], pgd["eps"], pgd["top1"], strict=True)
        row |= {f"{pgd_name(pgd)}_{norm}_{eps:g}": top1 for norm, eps, top1 in balls}
    if gone := found.get("occlusion"):
        half = gone["dropped"].index(0.5)
        row |= {f"{kind}_half": gone["top1"][kind][half] for kind in ("random", "salient")}
    if moved := found.get("shuffle"):
        row |= {f"shuffle_{g}": top1 for g, top1 in zip(moved["parts_a_side"], moved["top1"], strict=True)}
    return row


def pgd_name(pgd: dict) -> str:
    """How PGD of so many steps and restarts is called: pgd10, pgd50x5."""
    return f"pgd{pgd['steps']}" + f"x{pgd['restarts']}" * (pgd["restarts"] > 1)
