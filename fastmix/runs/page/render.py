"""The page as text: the template, its style and script, and the parts in it."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template

import fastmix
from fastmix.runs.page import methods, sections, shown
from fastmix.runs.page.differing import differing
from fastmix.runs.page.html import Html, data, join, tag
from fastmix.runs.page.methods import Table
from fastmix.runs.page.pictures import Album
from fastmix.runs.page.reader import Seen

SCRIPTS = ("kept.js", "tables.js", "chart.js", "legend.js", "page.js")


def render(
    found: Sequence[Seen], table: Table, album: Album, place: Path, told: Sequence[str] = (), watch: float | None = None
) -> str:
    """The page about runs, of which there is one at least.

    `table`: of their methods; `album`: has the pictures that were shown before; `place`: the folder of the page, from
    which it links; `told`: notes besides those on the methods and runs; `watch`: seconds after which the page loads
    itself again.
    """
    arranged = shown.arrange(found)
    lines = [line for method in arranged for line in method.lines]
    now = time.time()
    style, script = _asset("page.css"), "\n".join(map(_asset, SCRIPTS))
    parts = [
        sections.tiles(lines, table.rows),
        methods.shown(table, arranged),
        sections.notes([*told, *table.notes, *sections.remarks(lines)]),
        sections.curves(),
        sections.runs(lines, place),
        differing(lines),
        sections.pictures(arranged, album),
    ]
    refresh = tag("noscript", tag("meta", http_equiv="refresh", content=f"{watch:g}")) if watch else ""
    return Template(_asset("page.html")).substitute(
        title=join(title([seen.run.folder for seen in found])),
        subtitle=sections.subtitle(lines, now, watch),
        refresh=refresh,
        main=join(*parts),
        footer=join(f"fastmix {fastmix.__version__}"),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        facts=data({"watch": watch, "written": now, **shown.series(arranged)}),
    )


def title(folders: Sequence[Path]) -> str:
    """The name of the folder that all runs are in; of a run alone its own."""
    common = os.path.commonpath([folder.resolve() for folder in folders])
    return Path(common).name or "Runs"


@cache
def _asset(name: str) -> str:
    return resources.files("fastmix.runs.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> Html:
    """By which the page's own style and script are let in, and no other."""
    return Html("sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
