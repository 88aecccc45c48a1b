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
        Column("files", sorts=False),
    ]
    rows = []
    for line in lines:
        run, values = line.seen.run, line.seen.top1.values
        top1 = values[-1] if values else None
        done = tag("progress", value=run.epochs, max=run.cfg.epochs, aria_hidden="true")
        going = line.seen.state == "running" and run.train
        minutes = run_folder.minutes_left(run.cfg, run.train[-1]) if going else None
        cells = [
            tag("th", line.name, scope="row", title=str(run.folder)),
            text(state(line.seen.state)),
            number(run.epochs / run.cfg.epochs, join(done, tag("span", f"{run.epochs}/{run.cfg.epochs}"))),
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
        return quote(Path(os.path.relpath(path.resolve(), place.resolve())).as_posix(), errors="surrogateescape")
    except ValueError:
        return path.resolve().as_uri()


CURVES = {"top1": "Validation top-1, %", "loss": "Training loss"}


def curves() -> Html:
    """What the script draws into: a chart for each curve, and their legend."""
    hint = "Point at a chart for others, or use its arrow keys. A click on a name hides its curve, two leave it alone."
    values = (
        "Values at the ",
        tag("strong", "last epoch", id="epoch", aria_live="polite"),
        ": top-1 and training loss. ",
        hint,
    )
    buttons = (
        tag("button", word, type="button", id=name) for name, word in (("every", "Show all"), ("none", "Hide all"))
    )
    return section(
        "curves",
        "Curves",
        tag(
            "div",
            choice("by", "Curves of", {"run": "runs", "mean": "means over seeds"}),
            choice("from", "Epochs", {"0": "all", "0.5": "last half", "0.9": "last tenth"}),
            tag("div", *buttons, class_="controls"),
            class_="controls",
        ),
        tag("div", *(chart(key, name) for key, name in CURVES.items()), class_="charts"),
        tag("p", *values, class_="hint"),
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
    """Why runs failed or were stopped early, and what of their logs was passed over."""
    ended = [f"{line.name} {line.seen.state}: {line.seen.why}" for line in lines if line.seen.why]
    return ended + [f"{passed} is no log line; passed over" for line in lines for passed in line.seen.run.passed]


def subtitle(lines: Sequence[Line], now: float, watch: float | None) -> Html:
    """How many runs in which state, when this was written, and how often it is written again."""
    count = Counter(line.seen.state for line in lines)
    written = datetime.fromtimestamp(now).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    again = join(" · ", tag("span", f"again every {watch:g} s", id="watched")) if watch else None
    states = ", ".join(f"{number} {state}" for state, number in count.items())
    return join(f"{len(lines)} runs: {states} · written {written}", again)


def tiles(lines: Sequence[Line], rows: Sequence[dict]) -> Html:
    """The few figures that one looks for first. `rows`: of gain_over_vanilla.gains."""
    told = [(f"of {len(lines)} runs have their last epoch", str(sum(line.seen.run.whole for line in lines)))]
    if rows:
        best = max(rows, key=lambda row: row["top1"])
        told.append((f"highest top-1: {best['name']}", f"{best['top1']:.2f} %"))
    gained = [row for row in rows if row["gain"] is not None]
    if gained:
        best = max(gained, key=lambda row: row["gain"])
        told.append((f"largest gain over vanilla: {best['name']}", f"{best['gain']:+.2f}"))
    told.append(("hours of training", f"{sum(line.seen.run.seconds for line in lines) / 3600:.1f}"))
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in told), class_="tiles")
