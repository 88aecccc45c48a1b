"""The parts of the page, each an element."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from fastmix.runs import run_folder
from fastmix.runs.page.cells import Column, number, state, table, text
from fastmix.runs.page.html import Html, join, tag
from fastmix.runs.page.pictures import Album
from fastmix.runs.page.shown import Line, Method

FILES = ("log.jsonl", "config.yaml", "train.log")
"""Of a run folder, to which the page links."""


def section(name: str, head: str, *inside: object) -> Html:
    return tag("section", tag("h2", head, id=f"{name}-head"), *inside, aria_labelledby=f"{name}-head")


def runs(lines: Sequence[Line], place: Path) -> Html:
    """A row a run. `place`: the folder of the page, from which it links to the runs' files."""
    columns = [
        Column("run"),
        Column("state"),
        Column("epochs", True),
        Column("top-1", True, "percent, after the last validated epoch; of the weights' average, where there is one"),
        Column("best", True, "the highest of all epochs"),
        Column("hours", True),
        Column("images/s", True, "median over the log"),
        Column("left", True, "hours and minutes, of a run that is trained"),
        Column("files"),
    ]
    rows = []
    for line in lines:
        run, values = line.seen.run, line.seen.top1.values
        top1 = values[-1] if values else None
        done = tag("progress", value=run.epochs, max=run.cfg.epochs, aria_hidden="true")
        minutes = run_folder.minutes_left(run.cfg, run.train[-1]) if run.train and line.seen.state == "running" else None
        cells = [
            tag("th", line.name, scope="row", title=str(run.folder)),
            text(state(line.seen.state)),
            tag("td", done, f"{run.epochs}/{run.cfg.epochs}", class_="number", data_value=run.epochs / run.cfg.epochs),
            number(top1, f"{top1:.2f}") if values else number(None),
            number(max(values), f"{max(values):.2f}") if values else number(None),
            number(run.seconds, f"{run.seconds / 3600:.2f}"),
            number(run.images_per_s, f"{run.images_per_s or 0:.0f}"),
            number(minutes, "" if minutes is None else f"{minutes // 60}:{minutes % 60:02}"),
            text(files(run.folder, place)),
        ]
        rows.append(tag("tr", *cells, data_run=line.id, data_words=str(run.folder)))
    return section("runs", "Runs", table("runs", "Runs", columns, rows))


def files(folder: Path, place: Path) -> Html:
    """Links to a run's files that are there, relative to where the page lies."""
    links = [tag("a", name, href=address(folder / name, place)) for name in FILES if (folder / name).is_file()]
    return join(*(part for link in links for part in (link, " ")))


def address(path: Path, place: Path) -> str:
    """A file's address, as seen from the page's folder; a whole one where no way leads there (another drive)."""
    try:
        return quote(Path(os.path.relpath(path.resolve(), place.resolve())).as_posix())
    except ValueError:
        return path.resolve().as_uri()


CURVES = {"top1": "Validation top-1, %", "loss": "Training loss"}


def curves() -> Html:
    """What the script draws into: a chart for each curve, and their legend."""
    hint = "Point at a chart, or move with the arrow keys in it, for values; a name hides its curve, twice leaves it alone."
    return section(
        "curves",
        "Curves",
        tag(
            "div",
            choice("by", "Curves of", {"run": "runs", "mean": "means over seeds"}),
            choice("from", "Epochs", {"0": "all", "0.5": "last half", "0.9": "last tenth"}),
            tag("span", tag("button", "Show all", type="button", id="every"), " ", tag("button", "Hide all", type="button", id="none")),
            class_="controls",
        ),
        tag("div", *(chart(key, name) for key, name in CURVES.items()), class_="charts"),
        tag("p", "Values at ", tag("strong", "last epoch", id="epoch"), ": top-1, training loss. ", hint, class_="hint"),
        tag("ul", id="legend", aria_label="Curves, their values, and whether they show"),
    )


def chart(key: str, name: str) -> Html:
    drawing = tag("svg", role="img", tabindex=0, aria_label=f"{name}, over epochs. Arrow keys move the cross-hair.")
    tip = tag("div", class_="tip", hidden=True)
    return tag("figure", tag("figcaption", name), drawing, tip, data_curve=key)


def choice(name: str, told: str, options: dict[str, str]) -> Html:
    """One of several, as radio buttons. The script checks one."""
    buttons = (
        tag("label", tag("input", type="radio", name=name, value=value), f" {word}") for value, word in options.items()
    )
    return tag("fieldset", tag("legend", told), *buttons)


def pictures(methods: Sequence[Method], album: Album) -> Html | None:
    """The first batch of the first run of each method, where there is one."""
    taken = zip(methods, album.take([method.lines[0].seen.run.folder for method in methods]), strict=True)
    figures = [
        tag(
            "figure",
            tag("img", src=picture, alt=f"The first training images as {method.name} mixes them"),
            tag("figcaption", method.name),
            data_runs=method.ids,
        )
        for method, picture in taken
        if picture
    ]
    return section("pictures", "First batches", tag("div", *figures, class_="pictures")) if figures else None


def notes(lines: Sequence[str]) -> Html | None:
    """What is to be known about the numbers."""
    if not lines:
        return None
    return section("notes", "Notes", tag("ul", *(tag("li", line) for line in lines), class_="notes"))


def remarks(lines: Sequence[Line]) -> list[str]:
    """Runs that are not finished, and why, where that is known."""
    told = []
    for line in lines:
        run, where = line.seen.run, f"{line.name}: {line.seen.run.epochs} of {line.seen.run.cfg.epochs} epochs"
        if line.seen.state == "failed":
            told.append(f"{where}; failed: {line.seen.why}")
        elif line.seen.state != "finished" and not line.seen.whole:
            told.append(f"{where}; {line.seen.state}, no mean counts it")
        told += [f"{passed} is no log line; passed over" for passed in run.passed]
    return told


def subtitle(lines: Sequence[Line], now: float, watch: float | None) -> Html:
    """How many runs in which state, when this was written, and how often it is written again."""
    count = Counter(line.seen.state for line in lines)
    written = datetime.fromtimestamp(now).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    again = join(" · ", tag("span", f"again every {watch:g} s", id="watched")) if watch else None
    states = ", ".join(f"{number} {state}" for state, number in count.items())
    return join(f"{len(lines)} runs: {states} · written {written}", again)


def tiles(methods: Sequence[Method]) -> Html:
    """The few figures that one looks for first."""
    lines = [line for method in methods for line in method.lines]
    best = max((line for line in lines if line.seen.top1.values), key=lambda line: line.seen.top1.values[-1])
    told = {
        "runs with their last epoch": join(sum(line.seen.whole for line in lines), tag("small", f" of {len(lines)}")),
        "highest top-1": join(f"{best.seen.top1.values[-1]:.2f}", tag("small", f" % {best.name}")),
        "hours of training": f"{sum(line.seen.run.seconds for line in lines) / 3600:.1f}",
    }
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in told.items()), class_="tiles")
