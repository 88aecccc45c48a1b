"""Packages that only some things need: asked for before work begins, in a line that says how to get them."""

from __future__ import annotations

from importlib.util import find_spec


def need(what: str, *packages: str) -> None:
    """Raises ValueError where one of them is not installed; `what` needs them."""
    missing = " ".join(package for package in packages if find_spec(package) is None)
    if missing:
        raise ValueError(f"{what} needs packages that are not installed: pip install {missing}")
