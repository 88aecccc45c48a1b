"""ImageNet's classes: 1,000 wnids, and their order in everybody's weights, which is the sorted one."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fastmix.pipelines.packing.layouts.rows import text


def order(classes: list[str]) -> list[str]:
    """A warning where the classes are ImageNet's, in another order than that of everybody's weights."""
    known = synsets()
    if len(classes) == len(known) and classes != known and set(classes) == set(known):
        k = next(k for k, name in enumerate(classes) if name != known[k])
        return [
            f"has ImageNet's 1,000 classes in another order than that of wnids (class {k} is {classes[k]}, not "
            f"{known[k]}): other programs' trained weights do not fit it"
        ]
    return []


def wnids_of(names: list[str]) -> list[str] | None:
    """The wnids of classes that have ImageNet's 1,000 names in their order ("tench, Tinca tinca", ...); else None."""
    if len(names) != len(synsets()):
        return None
    lemmas = dict(line.split("\t", 1) for line in text(_timm("imagenet_synset_to_lemma.txt")).splitlines() if line)
    return synsets() if [lemmas[wnid] for wnid in synsets()] == list(names) else None


@lru_cache
def synsets() -> list[str]:
    """ImageNet's 1,000 wnids, sorted; they are timm's list."""
    return text(_timm("imagenet_synsets.txt")).split()


def _timm(name: str) -> Path:
    return Path(find_spec("timm").origin).parent / "data" / "_info" / name  # importing timm imports torch
