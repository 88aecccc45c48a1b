"""Rows of robustness.json: the numbers of the files, in percent; the best of a column, which may be the least."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fastmix import cli, report
from fastmix.runs import robustness_table, tables
from fastmix.runs.run_folder import Run
from helpers import ROOT


def measured(folder: Path, seed: int, **tests) -> Run:
    folder.mkdir()
    found = {"clean": {"top1": 70.0 + seed, "top5": 90.0, "loss": 1.0, "images": 50}, **tests}
    (folder / "robustness.json").write_text(json.dumps(found))
    return SimpleNamespace(folder=folder, cfg=SimpleNamespace(mix="cutmix", seed=seed))


def errors(ece: float) -> dict:
    return {"ece": ece, "nll": 1.5, "brier": 0.25}


def test_rows_and_cells(tmp_path):
    fgsm = {"eps_levels": [*range(9)], "top1": [70.0, 40.0, 30.0, 20.0, 10.0, 5.0, 4.0, 3.0, 2.0], "loss": [1.0] * 9}
    pgd = {"steps": 10, "norm": ["linf", "l2"], "eps": [1.0, 0.5], "top1": [12.0, 34.0], "restarts": 1}
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
    assert (found[0]["fgsm_1"], found[0]["fgsm_4"], found[0]["pgd10_linf_1"]) == (40.0, 10.0, 12.0)
    assert (found[1]["mce"], found[1]["random_half"], found[1]["shuffle_4"]) == (80.5, 44.0, 21.0)
    header, cells = robustness_table.lines(found)
    a, b = (dict(zip(header, line, strict=True)) for line in cells)
    assert (a["clean"], b["clean"], a["ECE"], b["ECE"]) == ("70.00", "**71.00**", "5.00", "**2.50**")
    assert a["mCE"] == "–" and b["mCE"] == "**80.50**" and a["PGD-10 l2 0.5"] == "**34.00**" and a["NLL"] == "**1.500**"
    assert tables.markdown(header, cells).count("\n") == 4


def told(k: int, images: int = 50) -> dict:
    """Of a run, numbers that no other has."""
    pgd = {"steps": 50, "restarts": 5, "norm": ["linf", "l2"], "eps": [0.5, 0.25], "top1": [11.0 + k * k, 40.0 - k]}
    clean = {"top1": 60.0 + k, "images": images}
    return {"clean": clean, "ece": {"all": errors(0.01 * 2**k), "after": errors(0.001)}, "pgd": pgd}


def test_columns_of_methods_are_means_over_seeds(tmp_path, capsys):
    folders = [f"{mix}_s{seed}" for mix in ("vanilla", "cutmix") for seed in range(3)]
    for k, name in enumerate(folders):
        shutil.copytree(ROOT / "results" / "cifar10_quarter" / name, tmp_path / name)
        (tmp_path / name / "robustness.json").write_text(json.dumps(told(k)))
    names = ["ece", "nll", "images", "pgd50x5_linf_0.5", "pgd50x5_l2_0.25", "mce"]
    words = ["--runs", str(tmp_path), "--columns", ",".join(["method", "top1", *names])]
    assert report.main([*words, "--format", "json"]) == 0
    vanilla, cutmix = json.loads(capsys.readouterr().out)
    for row, of in ((vanilla, range(3)), (cutmix, range(3, 6))):
        wanted = {
            "ece": [2.0**k for k in of],
            "pgd50x5_linf_0.5": [11.0 + k * k for k in of],
            "pgd50x5_l2_0.25": [40.0 - k for k in of],
        }
        for name, values in wanted.items():
            assert row[name] == pytest.approx(np.mean(values))
            assert row[f"{name}_std"] == pytest.approx(np.std(values, ddof=1))
        assert (row["images"], row["mce"], row["nll_std"]) == (50, None, 0.0)
    assert report.main(words) == 0
    header, _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in header.split("|")[3:6]] == ["ECE", "NLL", "images"]
    assert "PGD-50x5 linf 0.5/255 | PGD-50x5 l2 0.25 | mCE" in header
    ours, others = [1.0, 2.0, 4.0], [20.0, 27.0, 36.0]  # of vanilla's errors the least, of cutmix's top-1 the largest
    assert f"| **{np.mean(ours):.2f}** ± {np.std(ours, ddof=1):.2f} " in first and "| **" not in second.split("|")[3]
    assert f"| **{np.mean(others):.2f}** ± {np.std(others, ddof=1):.2f} " in second
    (tmp_path / "cutmix_s1" / "robustness.json").unlink()
    (tmp_path / "vanilla_s2" / "robustness.json").write_text(json.dumps(told(2, 40)))
    assert report.main([*words, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert [(row["ece"], row["ece_std"]) for row in json.loads(out)] == [(None, None)] * 2
    assert "cutmix_s1: no robustness.json; `python -m fastmix.robustness" in err
    assert "vanilla_s2: measured on 40 images, not on 50 as" in err and err.count("\n") == 2
    for name in ("fgsm_9", "pgd10_linf", "ecf"):
        assert cli.run(report.main, "report", ["--runs", str(tmp_path), "--columns", f"method,{name}"]) == 2
        err = capsys.readouterr().err
        assert f"--columns: no column '{name}'; did you mean" in err and err.count("\n") == 1
        assert "ece_scaled, nll, brier, corrupted, mce" in err and "pgdSTEPS_linf_EPS" in err


def test_what_is_no_such_file_is_told(tmp_path, capsys, monkeypatch):
    run = measured(tmp_path / "a", 0)
    for text in ("x", "[]", '{"clean": 3}'):
        (run.folder / "robustness.json").write_text(text)
        with pytest.raises(ValueError, match="not a file of fastmix.robustness"):
            robustness_table.rows([run])
    monkeypatch.chdir(tmp_path)
    assert cli.run(report.main, "report", ["--robustness", "--runs-table", "a"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err
