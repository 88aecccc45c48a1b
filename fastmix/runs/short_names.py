"""Short names of runs, made of what differs between them: `cutmix`, `cutmix alpha=1`, `cutmix lr=0.2`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from fastmix.runs.groups import groups, settings
from fastmix.runs.run_folder import Run

FIRST = ("model.name", "fidelity")
"""Keys that are told wherever runs differ in them, by their values alone."""
LAST = ("data.train_images", "data.val_images", "data.classes", "data.names")
"""Keys that are told only where no others tell runs apart."""

UNSAID = "default"
"""A method's setting that a config leaves out."""


def names(found: Sequence[Run]) -> list[str]:
    """The name of each run, in their order: its method, then settings. Two runs have one name if they differ in nothing
    but seed, paths, device and the like (groups.SAME_RUN).

    Besides model and fidelity only those settings are told that tell groups of one method apart, and few of them: what
    a method has otherwise than another method is not in the names. The usual value goes without saying, which is that
    of more than half of the groups; of a method's own settings its default, where a config leaves it out.
    """
    parts = [(group, settings(group[0])) for group in groups(found)]
    by_method: dict[str, list[dict]] = defaultdict(list)
    for group, values in parts:
        by_method[group[0].cfg.mix].append(values)
    keys = {key for mix, some in by_method.items() for key in _telling(some, mix)}
    keys |= {key for key in FIRST if len({_text(values, key) for _, values in parts}) > 1}
    words = {key: _words(key, by_method[key.split(".")[1]] if _own(key) else [v for _, v in parts]) for key in keys}
    name = {}
    for group, values in parts:
        mix = group[0].cfg.mix
        told = [mix]
        for key in sorted(
            (key for key in keys if _of(key, mix)), key=lambda key: (key not in FIRST, not _own(key), key)
        ):
            if word := words[key][_text(values, key)]:
                told.append(word if key in FIRST else f"{_end(key, values)}={word}")
        name |= dict.fromkeys((id(run) for run in group), " ".join(told))
    return [name[id(run)] for run in found]


def _telling(some: list[dict], mix: str) -> list[str]:
    """Few of a method's keys, of which each two of its settings differ in one at least."""
    left, found = [*combinations(some, 2)], []
    for key in sorted({key for values in some for key in values if _of(key, mix)}, key=_order):
        same = [(a, b) for a, b in left if _text(a, key) == _text(b, key)]
        if len(same) < len(left):
            left = same
            found.append(key)
    return found


def _own(key: str) -> bool:
    """Whether the key is of one method alone."""
    return key.startswith("mixers.")


def _of(key: str, mix: str) -> bool:
    return not _own(key) or f"{key}.".startswith(f"mixers.{mix}.")


def _order(key: str) -> tuple:
    """Model and fidelity, then settings of training, then the method's own, the data last."""
    return key not in FIRST, key in LAST, _own(key), key.count("."), key


def _words(key: str, some: list[dict]) -> dict[str, str]:
    """What is said of each value of the key: nothing of the usual one."""
    texts = Counter(_text(values, key) for values in some)
    usual = UNSAID if UNSAID in texts else next((text for text, n in texts.items() if 2 * n > len(some)), UNSAID)
    words = {text: text.rpartition("/")[2] for text in texts}
    if len(set(words.values())) < len(words):  # of paths the last parts, if they tell them apart
        words = {text: text for text in texts}
    return words | {usual: ""}


def _text(values: dict, key: str) -> str:
    """A value as a word of a command has it."""
    value = values.get(key, UNSAID)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.9g}" if isinstance(value, float) else str(value).replace(" ", "")


def _end(key: str, known: Iterable[str]) -> str:
    """What follows the method in its own keys; of others the shortest end that no further key has."""
    words = key.split(".")
    if _own(key):
        return ".".join(words[2:])
    ends = [".".join(words[k:]) for k in reversed(range(len(words)))]
    return next((end for end in ends if not any(f".{k}".endswith(f".{end}") for k in known if k != key)), key)
