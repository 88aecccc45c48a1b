"""The benchmark commands on small work: what a row says, and that the README's tables come from the csv files."""

import csv
import json
import sys

import pytest

from fastmix.bench import main, measure, readme
from helpers import ROOT

FIELDS = ["bench", "name", "provider", "shape", "dtype", "unit", "p20", "p50", "p80", "bytes", "gbps", "share_of_copy"]
FIELDS += ["hardware", "versions", "date"]


def test_step_measures_every_mixer_and_timm(tmp_path, capsys):
    words = ["step", "--model", "test_resnet", "--batch", "4", "--size", "32", "--repeats", "2"]
    words += ["--mix", "cutmix", "fmix"]
    main([*words, "--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")])
    rows = json.loads((tmp_path / "a.json").read_text())
    names = [("fastmix", name) for name in ("vanilla", "cutmix", "fmix")]
    names += [("timm", "vanilla"), ("timm", "cutmix")]
    assert [(row["provider"], row["name"].split()[1]) for row in rows] == names
    assert all(list(row) == FIELDS and 0 < row["p20"] <= row["p50"] <= row["p80"] for row in rows)
    table = capsys.readouterr().out
    assert all(row["provider"] in table for row in rows)
    main([*words, "--csv", str(tmp_path / "a.csv")])
    with open(tmp_path / "a.csv") as f:
        assert len(list(csv.DictReader(f))) == 2 * len(rows)


@pytest.mark.long
def test_plan_measures_methods_and_leaves_out_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gco", None)  # as if not installed
    words = ["plan", "--batch", "6", "--size", "32", "--repeats", "2", "--json", str(tmp_path / "a.json"), "--only"]
    main([*words, "puzzlemix", "cutmix", "snapmix", "attentivemix"])
    rows = json.loads((tmp_path / "a.json").read_text())
    puzzle = [f"puzzlemix {b}x{b}" for b in (2, 4, 8, 16)]
    ours = ["fastmix", "fastmix, masks alone", "fastmix, whole plan"]
    wanted = [(name, provider) for name in puzzle for provider in ours] + [
        ("cutmix", "fastmix"),
        ("snapmix", "fastmix"),
    ]
    assert [(row["name"], row["provider"]) for row in rows] == wanted
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("left out: gco-wrapper is not installed") == 4
    assert any(line.startswith("left out: mixers.attentivemix: AttentiveMix: weights is not given") for line in lines)
    with pytest.raises(ValueError, match="--only: no method 'cutmx'; did you mean 'cutmix'"):
        main([*words, "cutmx"])


def test_quantiles_are_numpys():
    import numpy as np

    values = np.random.default_rng(0).random(11).tolist()
    assert measure.quantiles(values) == pytest.approx(np.quantile(values, [0.2, 0.5, 0.8]).tolist())


PAGES = [
    path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if readme.BLOCK.search(path.read_text())
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_tables_of_the_pages_are_those_of_the_csv_files_and_configs(path):
    text = path.read_text()
    assert readme.fill(text, path.parent) == text


def test_agreement_is_of_the_rows_asked_for(tmp_path):
    head = "corruption,severity,draws,images,top1,top1_generator,images_that_differ"
    rows = ["snow,2,same,10,60,50,2", "snow,1,same,10,80,80,0", "snow,1,own,10,0,0,10", "fog,3,same,10,30,40,3"]
    (tmp_path / "a.csv").write_text("\n".join([head, *rows]))
    page = readme.fill("<!-- agreement: a.csv; draws=same -->\n<!-- end -->\n", tmp_path)
    grid = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert grid[2:] == [
        ["snow", "1, 2", "80.0 60.0", "80.0 50.0", "+5.00", "2 of 20"],
        ["fog", "3", "30.0", "40.0", "-10.00", "3 of 10"],
        ["mean", "", "50.00", "52.50", "-2.50", ""],
    ]


@pytest.mark.parametrize("words", [["mixx"], ["step", "--batch", "x"], ["step", "--device", "tpu"]])
def test_wrong_arguments(words):
    with pytest.raises(ValueError):
        main(words)


SMALL = ["loader", "shapes:train?n=40&size=64", "--size", "32", "--batch", "10", "--rows", "40", "--rounds", "2"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))


def test_loader_measures_time_memory_and_the_first_batch(cache, tmp_path):
    main(
        [*SMALL, "--modes", "rrc", "--only", "fastmix beton, exact", "--label", "drawn", "--json", f"{tmp_path}/a.json"]
    )
    rows = json.loads((tmp_path / "a.json").read_text())
    units = {row["unit"]: row for row in rows if row["bench"] == "loader"}
    assert list(units) == ["CPU ms/image", "images/s", "s to the first batch", "MB"]
    assert {row["name"] for row in rows} == {"rrc drawn"}
    assert 0 < units["s to the first batch"]["p50"] < 60 and 50 < units["MB"]["p50"] < 4000
    parts = {row["provider"]: row["p50"] for row in rows if row["bench"] == "loader parts"}
    longest = max(("read", "decode", "resize"), key=parts.get)
    total = sum(parts[part] for part in ("read", "decode", "resize"))
    assert parts[f"longest: {longest}"] == pytest.approx(100 * parts[longest] / total)


@pytest.mark.long
def test_loader_counts_images_that_nothing_decodes(cache, tmp_path):
    only = ["--only", "fastmix beton, exact", "--modes", "rrc", "--workers", "2"]
    main([*SMALL, *only, "--no-decode", "--json", f"{tmp_path}/a.json"])
    rows = json.loads((tmp_path / "a.json").read_text())
    assert {(row["bench"], row["name"]) for row in rows} == {("loader", "rrc nothing decoded, 2 threads")}
    assert all(row["p50"] > 0 for row in rows)


def test_loader_parity_is_zero_for_the_same_way_and_not_for_another(cache, tmp_path):
    ours = ["fastmix beton, exact", "fastmix resident", "fastmix beton, fast"]
    main([*SMALL, "--size", "16", "--modes", "rrc", "--parity", "--only", *ours, "--json", f"{tmp_path}/a.json"])
    rows = json.loads((tmp_path / "a.json").read_text())
    found = {(row["provider"], row["unit"]): row["p50"] for row in rows}
    exact = "fastmix beton, exact"
    assert found[f"fastmix resident - {exact}", "levels, largest"] == 0
    assert 0 < found[f"fastmix beton, fast - {exact}", "levels, mean"] < 4
