"""timm's strings for augmentation, which both its train.py and OpenMixup's pipelines of its transforms have."""

from __future__ import annotations

import math
import re

from fastmix.migration.draft import Draft

UNIFORM = 100  # a deviation above it: uniform magnitudes


def put_auto_augment(draft: Draft, text: object, jitter: object, where: str) -> None:
    """augment.* of a string such as rand-m9-mstd0.5-inc1, and of the colour jitter, which RandAugment switches off."""
    if text:
        kind, *sections = str(text).split("-")
        if kind == "rand":
            _randaugment(draft, sections, f"{where}={text}")
        elif kind == "3a":
            draft.put("augment.kind", "three")
        else:
            draft.note(f"{where}={text}: no equivalent; there are RandAugment (rand-...) and 3-Augment (3a)")
    if jitter and (not text or str(text).startswith("3a")):
        values = list(jitter) if isinstance(jitter, list | tuple) else [jitter] * 3
        draft.put("augment.jitter", values[:3], "color_jitter")
        if len(values) > 3 and values[3]:
            draft.note(f"color_jitter={values}: there is no jitter of the hue")


def put_erasing(draft: Draft, prob: object, mode: object, count: object, where: str) -> None:
    """erase.* of timm's random erasing."""
    if not prob:
        return
    draft.put("erase.prob", prob, where)
    if mode == "const":
        draft.put("erase.mode", "constant")
    elif mode != "pixel":
        draft.note(f"{where}: mode {mode} has no equivalent; noise of each pixel stands here")
    if count != 1:
        draft.note(f"{where}: {count} boxes an image; here it is one")


def _randaugment(draft: Draft, sections: list[str], where: str) -> None:
    known = {"m": 10.0, "n": 2, "mstd": 0.0, "p": 0.5, "inc": 0}
    for section in sections:
        key, value = re.fullmatch(r"([a-z]*)(.*)", section).groups()
        if key not in known or not re.fullmatch(r"\d+(\.\d+)?", value):
            draft.note(f"{where}: the part {section} has no equivalent")
            continue
        known[key] = float(value)
    draft.put("augment.kind", "randaugment")
    draft.put("augment.n", int(known["n"]), where)
    draft.put("augment.magnitude", known["m"], where)
    draft.put("augment.std", math.inf if known["mstd"] > UNIFORM else known["mstd"], where)
    draft.put("augment.prob", known["p"], where)
    if not known["inc"]:
        draft.note(f"{where}: without inc1 timm has another set of operations; here it is that of inc1")
