"""Settings in which the runs differ, a row a run, and those that all share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from fastmix.runs import run_folder
from fastmix.runs.page.cells import NONE, Column, table
from fastmix.runs.page.html import Html, join, tag
from fastmix.runs.page.sections import section
from fastmix.runs.page.shown import Line

OWN = "of its method"
"""Column of the settings that belong to the run's method alone."""

WORDS = 60
"""Letters of a value from which on it takes several lines."""


def differing(lines: Sequence[Line]) -> Html:
    """A table of the keys that differ, and a foldable list of the others."""
    told = [_settings(line) for line in lines]
    keys = list(dict.fromkeys(key for settings in told for key in settings))
    differ = [key for key in keys if len({settings.get(key, NONE) for settings in told}) > 1]
    rows = [
        tag(
            "tr",
            tag("th", line.name, scope="row"),
            *(_cell(settings.get(key, NONE)) for key in differ),
            data_run=line.id,
        )
        for line, settings in zip(lines, told, strict=True)
    ]
    made = table("settings", "Settings that differ", [Column("run"), *map(Column, differ)], rows) if differ else None
    shared = [tag("div", tag("dt", key), tag("dd", told[0][key])) for key in keys if key not in differ]
    folded = tag(
        "details",
        tag("summary", f"The {len(shared)} settings that all runs share"),
        tag("dl", *shared, class_="shared"),
        id="shared",
    )
    return section("settings", "What differs", join(made, folded))


def _cell(value: str) -> Html:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return tag("td", value, data_value=repr(number))
    return tag("td", value, class_="words" if len(value) > WORDS else None)


def _settings(line: Line) -> dict[str, str]:
    """Values as text by dotted keys, without the folder and other methods' rows; the method's own as one text."""
    run = line.seen.run
    mine = f"mixers.{run.cfg.mix}."
    found = {key: _text(value) for key, value in run_folder.trained(run.cfg, {"out"}).items()}
    own = [f"{key.removeprefix(mine)} {found.pop(key)}" for key in [*found] if key.startswith(mine)]
    data = {f"data.{key}": _text(value) for key, value in (run.data or {}).items()}
    return {"mix": found.pop("mix"), OWN: ", ".join(own) or NONE, **found, **data}


def _text(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
