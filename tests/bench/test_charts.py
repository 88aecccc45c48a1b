"""The README's charts: the lengths of their bars are the tables' medians, and the files are those of today's tables."""

import csv
import re
import xml.etree.ElementTree as ElementTree

import pytest

from helpers import ROOT

pytest.importorskip("matplotlib")

from fastmix.bench import charts, main  # noqa: E402


@pytest.mark.parametrize("name", charts.CHARTS)
def test_bars_are_the_newest_medians(name):
    chart = charts.CHARTS[name]
    with open(ROOT / "results" / chart.table, newline="") as file:
        rows = [row for row in csv.DictReader(file)]
    newest = sorted(row["date"] for row in rows)[-1]
    axes = {axis.get_title(loc="left"): axis for axis in charts.draw(chart, ROOT / "results").axes}
    assert set(axes) == set(chart.panels)
    for heading, work in chart.panels.items():
        wanted = {
            row["provider"]: pytest.approx(float(row["p50"]))
            for row in rows
            if (row["name"], row["date"]) == (work, newest)
            and chart.conditions.items() <= row.items()
            and row["provider"] not in chart.without
        }
        axis = axes[heading]
        names = [label.get_text() for label in axis.get_yticklabels()]
        assert len(names) > 1 and dict(zip(names, (bar.get_width() for bar in axis.patches), strict=True)) == wanted
        colours = {bar.get_facecolor() for bar, who in zip(axis.patches, names, strict=True) if "fastmix" in who}
        assert len(colours) == 1 and len({bar.get_facecolor() for bar in axis.patches}) == 2


def test_the_committed_files_are_todays(tmp_path, capsys):
    assert main(["charts", "--results", str(ROOT / "results"), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.svg") for name in charts.CHARTS]
    for name in charts.CHARTS:
        assert texts(ROOT / f"docs/charts/{name}.svg") == texts(tmp_path / f"{name}.svg")


def texts(path) -> list[str]:
    found = [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")]
    assert sum(re.fullmatch(r"[\d.]+", text) is not None for text in found) > 5
    return found


def test_mistakes_are_a_line(tmp_path):
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        main(["charts", "--out", str(tmp_path / "nowhere")])
    with pytest.raises(OSError, match="loader_cpu.csv"):
        main(["charts", "--results", str(tmp_path), "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
