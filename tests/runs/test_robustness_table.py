"""Rows of robustness.json: the numbers of the files, in percent; the best of a column, which may be the least."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastmix import cli, report
from fastmix.runs import robustness_table, tables
from fastmix.runs.run_folder import Run


def measured(folder: Path, seed: int, **tests) -> Run:
    folder.mkdir()
    found = {"clean": {"top1": 70.0 + seed, "top5": 90.0, "loss": 1.0, "images": 50}, **tests}
    (folder / "robustness.json").write_text(json.dumps(found))
    return SimpleNamespace(folder=folder, cfg=SimpleNamespace(mix="cutmix", seed=seed))


def errors(ece: float) -> dict:
    return {"ece": ece, "nll": 1.5, "brier": 0.25}


def test_rows_and_cells(tmp_path):
    fgsm = {"eps_levels": [*range(9)], "top1": [70.0, 40.0, 30.0, 20.0, 10.0, 5.0, 4.0, 3.0, 2.0], "loss": [1.0] * 9}
    pgd = {"steps": 10, "norm": ["linf", "l2"], "eps": [1.0, 0.5], "top1": [12.0, 34.0]}
    gone = {"dropped": [0.1, 0.5], "top1": {kind: [60.0, 44.0] for kind in ("random", "salient", "non_salient")}}
    moved = {"parts_a_side": [2, 4], "top1": [50.0, 21.0]}
    one = measured(tmp_path / "a", 0, ece={"all": errors(0.05), "after": errors(0.01)}, fgsm=fgsm, pgd=pgd)
    two = measured(
        tmp_path / "b",
        1,
        ece={"all": errors(0.025), "temperature": None},
        corruptions={"mean_top1": 33.0, "mce": 80.5, "mce_14": 79.5},
        occlusion=gone,
        shuffle=moved,
    )
    none = SimpleNamespace(folder=tmp_path / "c", cfg=None)
    found, notes = robustness_table.rows([one, two, none])
    assert len(notes) == 1 and str(tmp_path / "c") in notes[0] and "fastmix.robustness" in notes[0]
    assert [row["ece"] for row in found] == [5.0, 2.5] and found[0]["ece_scaled"] == 1.0
    assert (found[0]["fgsm_1"], found[0]["fgsm_4"], found[0]["PGD-10_linf_1/255"]) == (40.0, 10.0, 12.0)
    assert (found[1]["mce"], found[1]["random_half"], found[1]["shuffle_4"]) == (80.5, 44.0, 21.0)
    header, cells = robustness_table.lines(found)
    a, b = (dict(zip(header, line, strict=True)) for line in cells)
    assert (a["clean"], b["clean"], a["ECE"], b["ECE"]) == ("70.00", "**71.00**", "5.00", "**2.50**")
    assert a["mCE"] == "–" and b["mCE"] == "**80.50**" and a["PGD-10 l2 0.5"] == "**34.00**" and a["NLL"] == "**1.500**"
    assert tables.markdown(header, cells).count("\n") == 4


def test_what_is_no_such_file_is_told(tmp_path, capsys, monkeypatch):
    run = measured(tmp_path / "a", 0)
    for text in ("x", "[]", '{"clean": 3}'):
        (run.folder / "robustness.json").write_text(text)
        with pytest.raises(ValueError, match="not a file of fastmix.robustness"):
            robustness_table.rows([run])
    monkeypatch.chdir(tmp_path)
    assert cli.run(report.main, "report", ["--robustness", "--runs-table", "a"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err
