"""A config file and the files that it names under `base:`, as nested dicts: later files win, key by key."""

from __future__ import annotations

from pathlib import Path

from fastmix.ranges import cast
from fastmix.yaml12 import parse


def read(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """The file's nested dicts over those of its bases; `above`: the files that name it as one. Raises ValueError."""
    if path in above:
        raise ValueError(f"{path}: `base:` leads back to itself")
    if not path.is_file():
        raise ValueError(f"{above[-1]}: base {path} does not exist" if above else f"{path}: no such config file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 (byte {error.start})") from error
    tree = parse(text, str(path)) or {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a config is a mapping of keys to values")
    bases = cast(tree.pop("base", []), str | list[str], str(path), "base")
    tree_below: dict = {}
    for base in [bases] if isinstance(bases, str) else bases:
        tree_below = merged(tree_below, read(path.parent / base, (*above, path)))
    return merged(tree_below, tree)


def merged(low: dict, high: dict) -> dict:
    """Both, key by key; where both have a value, that of `high`."""
    out = dict(low)
    for key, value in high.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out
