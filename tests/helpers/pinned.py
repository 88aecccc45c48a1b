"""Whether the installed packages are those of constraints.txt."""

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from helpers import ROOT


@cache
def others() -> tuple[str, ...]:
    """The installed packages that have another version than constraints.txt says, as "name version"."""
    return differing((ROOT / "constraints.txt").read_text(), version)


def differing(constraints: str, version: Callable[[str], str]) -> tuple[str, ...]:
    """Likewise, where version(name) tells what is installed. 2.13.0+cpu is 2.13.0; what is missing does not count."""
    found = []
    for name, wanted in re.findall(r"^([\w-]+)==([\w.]+)", constraints, re.M):
        try:
            here = version(name)
        except PackageNotFoundError:
            continue
        if here.partition("+")[0] != wanted:
            found.append(f"{name} {here}")
    return tuple(found)
