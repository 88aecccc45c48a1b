"""`report --figures`: the files that it writes, what it refuses, and the commands of the docs."""

import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from fastmix import cli, optional, report
from fastmix.runs.confusion import as_csv
from helpers import ROOT

pytest.importorskip("matplotlib")

from fastmix.figures import robustness  # noqa: E402

QUARTER, SMALL = ROOT / "results" / "cifar10_quarter", ROOT / "results" / "cifar10_small"
COLUMN = "cifar10/ResNet-18/200ep"


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Five runs of two methods, one with a confusion matrix."""
    monkeypatch.chdir(tmp_path)
    for name in ("vanilla_s0", "vanilla_s1", "cutmix_s0", "cutmix_s1", "cutmix_s2"):
        shutil.copytree(QUARTER / name, tmp_path / "runs" / name)
    (tmp_path / "runs/cutmix_s0/confusion.csv").write_text(as_csv(["a", "b"], [[3, 1], [0, 4]]))
    return tmp_path


ROBUSTNESS = "robustness: not drawn, no robustness.json in the run folders (fastmix.robustness RUN)"
NAMES = ["confusion_cutmix", "cost_hours", "gains", "loss", "top1"]


@pytest.mark.parametrize("kind", ["svg", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("pdf", "png"))])
def test_files_are_what_they_claim_and_have_the_same_bytes_again(runs, capsys, kind):
    words = ["--runs", "runs", "--column", COLUMN, "--figures"]
    assert report.main([*words, "out/here", *["--format", kind] * (kind != "pdf")]) == 0
    out, err = capsys.readouterr()
    assert sorted(out.split()) == [f"out/here/{name}.{kind}" for name in NAMES]
    assert err.splitlines() == ["cost_images: not drawn, all saw the same number of images", ROBUSTNESS]
    files = sorted((runs / "out/here").iterdir())
    assert [path.name for path in files] == [f"{name}.{kind}" for name in NAMES]
    for path in files:
        data = path.read_bytes()
        if kind == "pdf":
            assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF")
            assert b"/FontFile2" in data and b"/Type3" not in data, "fonts are embedded as TrueType"
            assert b"/MediaBox [ 0 0 237.6 " in data
        elif kind == "png":
            with Image.open(path) as image:
                image.load()
                assert image.format == "PNG" and image.width == 990 and round(image.info["dpi"][0]) == 300
        else:
            root = ET.fromstring(data)
            assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width") == "237.6pt"
    assert report.main([*words, "again", "--format", kind]) == 0
    assert [path.read_bytes() for path in sorted((runs / "again").iterdir())] == [p.read_bytes() for p in files]


@pytest.mark.parametrize(
    "words, says",
    [
        (["--format", "csv"], "--format csv is for tables; figures go to --figures FOLDER in --format pdf, png, svg"),
        (["--out", "table.tex"], "--out table.tex is for tables"),
        (["--format", "eps"], "invalid choice: 'eps'"),
        (["--columns", "top1"], "not allowed with argument"),
        (["--table", "cifar10"], "not allowed with argument"),
        (["--column", "cifar10/ResNet-18"], "did you mean 'cifar10/Res"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(runs, capsys, words, says):
    assert cli.run(report.main, "report", ["--runs", "runs", "--figures", "out", *words]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and not (runs / "out").exists()


def test_figures_that_cannot_be_drawn_or_written(runs, capsys, monkeypatch):
    assert cli.run(report.main, "report", ["--runs", "runs", "--format", "pdf"]) == 2
    assert "--format pdf is one of figures: give --figures FOLDER" in capsys.readouterr().err
    (runs / "taken").write_text("")
    assert cli.run(report.main, "report", ["--runs", "runs", "--figures", "taken"]) == 2
    assert "taken: File exists" in capsys.readouterr().err
    assert report.main(["runs/vanilla_s0", "--figures", "out", "--format", "svg"]) == 0
    *told, confusion_told, robustness_told = capsys.readouterr().err.splitlines()
    assert robustness_told == ROBUSTNESS
    assert confusion_told.startswith("confusion: not drawn, no confusion.csv in the run folders (fastmix.validate RUN")
    assert told == [
        "cost_hours: not drawn, all took the same time",
        "cost_images: not drawn, all saw the same number of images",
        "gains: not drawn, no runs of vanilla with the others' seeds and model",
    ]
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    assert cli.run(report.main, "report", ["--runs", "runs", "--figures", "none"]) == 2
    said = "fastmix report: error: --figures needs packages that are not installed: pip install matplotlib\n"
    assert capsys.readouterr().err == said and not (runs / "none").exists()


def test_the_commands_of_the_docs_give_a_table_and_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/runs.md").read_text().split("### For a paper")[1]
    table, figures = re.findall(r"^python -m fastmix.report (.*)$", text, re.M)[:2]
    assert report.main(table.replace("table.tex", f"{tmp_path}/table.tex").split()) == 0
    assert report.main(figures.replace("figures figures", f"figures {tmp_path}").replace("pdf", "svg").split()) == 0
    beyond = {f"corruptions_{family}" for family in robustness.FAMILIES} | {"corruptions", "fgsm"}
    beyond |= {f"occlusion_{kind}" for kind in robustness.KINDS}
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.tex",
        *(f"{name}.svg" for name in NAMES[1:] + [*beyond]),
    }
    latex = (tmp_path / "table.tex").read_text()
    methods = {path.name.rpartition("_s")[0] for path in SMALL.glob("*_s*")}
    assert (
        latex.count(r"\\") == 1 + len(methods)
        and "results" not in latex
        and r"$^\dagger$ published: of cifar10/" in latex
    )
