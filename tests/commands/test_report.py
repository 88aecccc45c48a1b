"""Scores of made-up runs against numpy and numbers worked by hand, and the published tables in every format."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from fastmix import cli, config, report
from fastmix.pipelines.packing.layouts import wnids
from fastmix.runs import data_seen, published, run_folder
from fastmix.runs.results import compare, summary
from helpers import made_runs

IMAGENET = data_seen.record(1_281_167, 50_000, wnids.synsets())


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes a run folder with the given top-1 of each epoch."""
    monkeypatch.chdir(tmp_path)

    def make(name, top1, epochs=None, words=(), text="", ema=(), finished=True, data=IMAGENET):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        if text:
            (folder / "small.yaml").write_text(text)
        words = [*words, f"epochs={epochs or len(top1)}"]
        cfg = config.load(folder / "small.yaml" if text else "r50_100ep.yaml", words)
        if data is not None:
            (folder / data_seen.FILE).write_text(data)
        return made_runs.write(folder, cfg, top1, ema=ema, finished=finished)

    return make


def curve(seed: int, epochs: int) -> list[float]:
    return np.random.default_rng(seed).uniform(60, 80, epochs).round(3).tolist()


def command(capsys, *words: str) -> str:
    assert report.main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("epochs, n", [(100, 5), (300, 10), (400, 10)])
def test_median_best_and_final_are_those_of_numpy(epochs, n):
    values = curve(epochs, epochs)
    found = run_folder.scores(dict(enumerate(values, 1)), epochs)
    assert found["median"] == np.median(values[-n:])
    assert (found["best"], found["final"]) == (np.max(values), values[-1])


def test_the_windows_of_the_reference_scripts_worked_by_hand():
    # Epochs 1..100 score 1..100, but the last six are 50, 10, 20, 30, 40, 60 (epochs 95..100).
    top1 = dict(enumerate([*range(1, 95), 50, 10, 20, 30, 40, 60], 1))
    found = run_folder.scores(top1, 100)
    assert found["median"] == 30  # stated: epochs 96..100 = 10 20 30 40 60
    assert found["script_median"] == 35  # the script keeps epoch >= 100 - 5: 95..100 = 10 20 30 40 50 60
    # The sorted scores are 1..94 and 10 20 30 40 50 60; the 99th percentile lies at index 0.99 * 99 = 98.01, between
    # 93 and 94: 93.01. The script reports (94 + 93.01) / 2.
    assert found["best"] == 94
    assert found["script_best"] == pytest.approx(93.505)


def test_the_window_of_the_script_for_learned_mixers_worked_by_hand():
    # 300 epochs: the script keeps epoch >= 300 - 10 - 1, the 12 epochs 289..300, and drops the last one if that helps.
    end = [90, 91, 92, 93, 94, 95, 1, 2, 3, 4, 5, 0]
    top1 = dict(enumerate([50.0] * 288 + end, 1))
    # sorted: 0 1 2 3 4 5 90 .. 95: median (5 + 90) / 2 = 47.5; without the last 0, of 11: the sixth of 1 2 3 4 5 90: 90
    assert run_folder.scores(top1, 300, "automix")["script_median"] == 90
    # other methods: 290..300: 91 92 93 94 95 1 2 3 4 5 0, the sixth is 5
    assert run_folder.scores(top1, 300, "cutmix")["script_median"] == 5
    # 100 epochs: 95..100, or 95..99
    top1 = dict(enumerate([50.0] * 94 + [70, 10, 20, 30, 80, 0], 1))
    assert run_folder.scores(top1, 100, "samix")["script_median"] == 30  # 10 20 30 70 80, against (20 + 30) / 2


def test_a_run_validated_every_fifth_epoch_has_the_median_of_those_in_the_window():
    assert run_folder.scores({95: 1.0, 100: 2.0, 90: 9.0}, 100)["median"] == 2.0
    assert run_folder.scores({290: 9.0, 295: 1.0, 300: 2.0}, 300)["median"] == 1.5


def test_seeds_are_grouped_with_their_mean_and_deviation(make, capsys):
    values = [curve(seed, 100) for seed in range(3)]
    for seed, top1 in enumerate(values):
        make(f"cutmix_s{seed}", top1, words=["mix=cutmix", f"seed={seed}", "data.workers=3"])
    make("mixup_s0", curve(9, 100), words=["mix=mixup"])
    make("cutmix_s9", curve(8, 50), epochs=100, words=["mix=cutmix", "seed=9"], finished=False)
    rows = summary([run_folder.read(folder) for folder in run_folder.find("runs")])
    means = [row for row in rows if row["run"] == "mean"]
    assert [(row["mix"], row["n"]) for row in means] == [("cutmix", 3)], "the unfinished run does not count"
    medians = [np.median(top1[-5:]) for top1 in values]
    assert means[0]["median"] == pytest.approx(np.mean(medians))
    assert means[0]["std"]["median"] == pytest.approx(np.std(medians, ddof=1))
    assert means[0]["std"]["best"] == pytest.approx(np.std([max(top1) for top1 in values], ddof=1))
    text = command(capsys, "--runs", "runs", "--runs-table")
    assert f"{np.mean(medians):.2f} ± {np.std(medians, ddof=1):.2f}" in text and "mean of 3" in text
    assert "50/100 unfinished" in text
    assert text.index("| median") < text.index("| script median")
    text = command(capsys, "--runs", "runs", "--runs-table", "--metric-compat", "openmixup")
    assert text.index("| median") > text.index("| script median")


def test_a_report_says_whose_masks_a_run_has(make, capsys):
    make("a", curve(1, 100), words=["mix=cutmix"])
    make("b", curve(2, 100), words=["mix=cutmix", "fidelity=openmixup"])
    rows = summary([run_folder.read(folder) for folder in run_folder.find("runs")])
    assert sorted((row["fidelity"], row["n"]) for row in rows) == [("openmixup", 1), ("paper", 1)], "no mean of both"
    text = command(capsys, "--runs", "runs", "--runs-table")
    assert "| fidelity" in text and "openmixup" in text and "| paper" in text
    rows = json.loads(command(capsys, "runs/b", "--table", "in1k_pytorch_100ep", "--format", "json"))
    (row,) = [row for row in rows if row["n"]]
    assert row["departs"] == ["fidelity"], "the column's file is by the papers"


def test_averages_have_columns_of_their_own_and_stand_for_the_run_in_a_table(make, capsys):
    raw, average = curve(1, 100), [value + 5 for value in curve(2, 100)]
    make("a", raw, words=["mix=cutmix", "ema.decay=0.9"], ema=average)
    (row,) = json.loads(command(capsys, "runs/a", "--runs-table", "--format", "json"))
    assert row["median"] == np.median(raw[-5:]) and row["ema_median"] == pytest.approx(np.median(average[-5:]))
    rows = json.loads(command(capsys, "--table", "in1k_pytorch_100ep", "--format", "json"))
    (row,) = [row for row in rows if row["n"]]
    assert row["ours"] == pytest.approx(np.median(average[-5:])) and row["departs"] == ["ema.decay"]


def test_a_continued_run_counts_its_time_and_its_epochs_once(make, monkeypatch):
    folder = make("a", [50.0, 60.0], words=["mix=cutmix"])
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    again = json.dumps({**json.loads(lines[3]), "time": 10.0, "top1": 61.0}) + "\n"  # epoch 2, validated after a kill
    (folder / "log.jsonl").write_text("".join(lines) + again + '{"kind": "val", "ti')  # and a line being written
    run = run_folder.read(folder)
    assert run.seconds == 72 + 10 and run.finished
    assert {epoch: row["top1"] for epoch, row in run.val.items()} == {1: 50.0, 2: 61.0}
    monkeypatch.setattr(run_folder, "TAIL", len(again) + 100)  # which begins within a line
    assert run_folder.last(folder)["val"]["top1"] == 61.0
    assert run_folder.finished(folder, 2) and not run_folder.finished(folder, 3)


def test_the_end_of_a_long_log_begins_with_a_whole_line(make, monkeypatch):
    path = make("a", [50.0], words=["mix=cutmix"]) / "log.jsonl"
    monkeypatch.setattr(run_folder, "TAIL", len(path.read_text()) - 1)
    assert run_folder.last(path.parent).keys() == {"val"}


def test_the_published_numbers_are_complete():
    cells = published.cells()
    assert len(cells) == 761 and sum(cell.top1 is not None for cell in cells) == 706
    assert len({(c.table, c.backbone, c.setting, c.method) for c in cells}) == 761
    for cell in cells:
        assert published.published(cell.table, cell.backbone, cell.setting, cell.method) == cell.top1
        assert cell.top1 is None or (94 < cell.top1 < 98 if cell.table == "cifar10" else 51 < cell.top1 < 87)
    assert {cell.method for cell in cells} == set(published.METHODS.values())
    per_table = {name: len(published.table(name)) for name in published.tables()}
    assert per_table == {
        "in1k_pytorch_100ep": 17 * 5, "in1k_pytorch_300ep": 12 * 4, "in1k_rsb": 11 * 6, "in1k_deit": 14 * 7,
        "tiny_imagenet": 16 * 2, "cifar10": (14 + 13) * 4, "cifar100": 15 * 4 + 14 * 11,
        "cub200": 10 * 2, "aircraft": 10 * 2, "inat2017": 10 * 3, "inat2018": 10 * 2, "places205": 10 * 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match="no cell in1k_rsb / ResNet-50 / A2 / Vanilla"):
        published.published("in1k_rsb", "ResNet-50", "A2", "Vanilla")


def test_every_column_of_a_config_and_its_rows_have_cells():
    columns = set()
    for path in config.find("quickstart").parent.glob("*.yaml"):
        cfg = config.load(path)
        key = (cfg.column.table, cfg.column.backbone, cfg.column.setting)
        if key[0]:
            columns.add(key)
            for mix in cfg.mixers:
                published.published(*key, published.METHODS[mix])
    assert columns == {(cell.table, cell.backbone, cell.setting) for cell in published.cells()}


def test_a_table_holds_ours_beside_the_published(make, capsys):
    values = {0: curve(0, 100), 1: curve(1, 100)}
    for seed, top1 in values.items():
        make(f"cutmix_s{seed}", top1, words=["mix=cutmix", f"seed={seed}"])
    best = [99.0] * 100
    make("mixup_s0", best, words=["mix=mixup"])
    make("vanilla_s0", curve(3, 40), epochs=100, words=["mix=vanilla"], finished=False)
    make("resizemix_s0", curve(4, 100), words=["mix=resizemix", "optim.lr=0.3"])
    make("elsewhere", curve(4, 9), text="mix: cutmix\nmixers: {cutmix: {}}\n")  # of no column: not in any table
    rows = json.loads(command(capsys, "--table", "in1k_pytorch_100ep", "--format", "json"))
    assert len(rows) == 85
    row = next(row for row in rows if (row["backbone"], row["method"]) == ("ResNet-50", "CutMix"))
    medians = [np.median(top1[-5:]) for top1 in values.values()]
    assert (row["n"], row["published"]) == (2, 77.17)
    assert row["ours"] == pytest.approx(np.mean(medians)) and row["std"] == pytest.approx(np.std(medians, ddof=1))
    assert row["difference"] == pytest.approx(np.mean(medians) - 77.17)
    assert sum(row["n"] for row in rows) == 4

    text = command(capsys, "--table", "in1k_pytorch_100ep")
    grid = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert grid[0][0] == "method" and grid[0][3] == "ResNet-50"
    by = {line[0]: line for line in grid[2:19]}
    assert [line[0] for line in grid[21:]] == [  # below it, all scores of the runs that count
        "runs/cutmix_s0", "runs/cutmix_s1", "mean", "runs/mixup_s0", "runs/resizemix_s0"
    ]  # fmt: skip
    assert list(by) == list(dict.fromkeys(cell.method for cell in published.table("in1k_pytorch_100ep")))
    assert by["MixUp"][3] == "**99.00** / 77.12 +21.88 (1)"
    assert by["CutMix"][3] == f"{np.mean(medians):.2f} ± {np.std(medians, ddof=1):.2f} / 77.17 " + (
        f"{np.mean(medians) - 77.17:+.2f} (2)"
    )
    assert by["Vanilla"][3] == "– / 76.83" and by["DeiT"][1] == "– / –"
    assert by["ResizeMix"][3].split()[0].endswith("†")
    assert re.search(r"runs/vanilla_s0: not finished, 40 of 100 epochs; not counted", text)
    assert re.search(r"† ResizeMix, ResNet-50 100ep: not as the column in optim.lr$", text, re.MULTILINE)
    assert "elsewhere" not in text


@pytest.mark.parametrize(
    "data, says",
    [
        (data_seen.record(260_000, 10_000, [f"n{k:08}" for k in range(200)]), "200 classes, not 1000"),
        (data_seen.record(128_116, 50_000, wnids.synsets()), "128,116 train images, not 1,281,167"),
        (data_seen.record(1_281_167, 5_000, wnids.synsets()), "5,000 val images, not 50,000"),
        (data_seen.record(1_281_167, 50_000, wnids.synsets()[::-1]), "other classes, or in another order"),
        (data_seen.record(1_281_167, 50_000, [f"x{k}" for k in range(1000)]), "other classes, or in another order"),
        (None, "not written down"),
        ("[]", "not written down"),
        (data_seen.record(1_281_100, 49_990, [str(k) for k in range(1000)]), ""),  # some damaged, classes as numbers
    ],
)
def test_a_published_number_stands_unmarked_beside_the_same_data_only(make, capsys, data, says):
    """Another data set under the same name is marked, whatever the paths say."""
    make("a", [70.0] * 100, words=["mix=cutmix"], data=data)
    found = json.loads(command(capsys, "--table", "in1k_pytorch_100ep", "--format", "json"))
    (row,) = [row for row in found if row["n"]]
    assert row["departs"] == ([f"data ({says})"] if says else [])
    text = command(capsys, "--table", "in1k_pytorch_100ep")
    assert ("70.00**†" in text) == bool(says)
    assert (f"† CutMix, ResNet-50 100ep: not as the column in data ({says})" in text) == bool(says)


def test_the_ending_decides_the_format(make, capsys, tmp_path):
    make("a", [70.0] * 100, words=["mix=cutmix"])
    told = {ending: command(capsys, "runs/a", "--format", name) for ending, name in report.ENDINGS.items()}
    assert len(set(told.values())) == len(told) == 4
    for ending, text in told.items():
        assert command(capsys, "runs/a", "--out", f"found{ending}") == ""
        assert (tmp_path / f"found{ending}").read_text() == text
    for words, says in {
        (
            "--out",
            "table.png",
        ): "table.png: a report is written to .md (markdown), .csv (csv), .tex (latex), .json (json)",
        ("--out", "b.csv", "--format", "latex"): "--format is latex",
    }.items():
        assert cli.run(report.main, "report", ["runs/a", *words]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "table.png").exists() and not (tmp_path / "b.csv").exists()


def test_runs_as_the_file_says_come_before_others_and_a_seed_counts_once(make):
    make("a", [70.0] * 100, words=["mix=cutmix"])
    for seed in (1, 2, 3):
        make(f"b{seed}", [80.0] * 100, words=["mix=cutmix", "optim.lr=0.3", f"seed={seed}"])
    make("c", [90.0] * 100, words=["mix=cutmix"])
    make("d", [60.0] * 100, words=["mix=gridmix_cells", "mixers.gridmix_cells={}"])
    cells = published.table("in1k_pytorch_100ep")
    rows, notes = compare(cells, [run_folder.read(folder) for folder in run_folder.find("runs")], "median")
    (row,) = [row for row in rows if row["n"]]
    assert row["ours"] == 90 and row["departs"] == []
    assert sorted(note.split(":")[0] for note in notes) == [f"runs/{name}" for name in ("a", "b1", "b2", "b3", "d")]


def test_the_formats_parse_back_and_agree(make, capsys, tmp_path):
    for seed in range(2):
        make(f"cutmix_s{seed}", curve(seed, 100), words=["mix=cutmix", f"seed={seed}"])
    tables = [(["--table", "in1k_rsb"], 66), (["--table", "in1k_pytorch_100ep"], 85)]
    for words, count in [*tables, (["--runs", "runs", "--runs-table"], 3), (["--runs", "runs"], 1)]:
        rows = json.loads(command(capsys, *words, "--format", "json"))
        table = list(csv.DictReader(io.StringIO(command(capsys, *words, "--format", "csv"))))
        assert len(rows) == len(table) == count
        for a, b in zip(rows, table, strict=True):
            for key, value in a.items():
                if isinstance(value, float):
                    assert float(b[key]) == value
                elif value is None:
                    assert b[key] == ""
        latex = command(capsys, *words, "--format", "latex")
        body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
        shown = len(dict.fromkeys(row["method"] for row in rows)) if "--table" in words else count
        assert body.count(r"\\") == shown
        columns = re.search(r"\\begin{tabular}{([lr]+)}", latex)[1]
        assert {line.count(" & ") for line in body.splitlines()[1:]} == {len(columns) - 1}
        assert not re.search(r"(?<!\\)[_%#]", latex) and latex.isascii()
        assert report.main([*words, "--format", "latex", "--out", "table.tex"]) == 0
        assert Path("table.tex").read_text() == latex
    assert {p.name for p in tmp_path.iterdir()} == {"runs", "table.tex"}


def test_list_names_every_table(capsys):
    text = command(capsys, "--list")
    assert [line.split(":")[0] for line in text.splitlines()] == published.tables()
    assert "16 methods, 2 columns" in text and "30 numbers" in text
    assert "cub200: 10 methods, 2 columns (ResNet-18 200ep, ResNeXt-50-32x4d 200ep), 20 numbers" in text


@pytest.mark.parametrize(
    "words, says",
    [
        (["--table", "in1k_rbs"], "unknown table 'in1k_rbs'; did you mean 'in1k_rsb'"),
        (["nowhere"], "nowhere: no run folder"),
        (["runs"], "runs: no run folder"),
        (["--runs", "nowhere"], "nowhere: no such folder"),
        (["--runs", "runs", "runs/a"], "not both"),
        ([], "give run folders"),
        (["runs/a"], "runs/a/log.jsonl, line 1: '[1]' is not a log line"),
        (["runs/b"], "unknown key 'mixx'; did you mean 'mix'"),
        (["runs/c", "--out", "no/such/file"], "no/such/file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(make, capsys, words, says):
    (make("a", [50.0] * 3, words=["mix=cutmix"]) / "log.jsonl").write_text("[1]\n{}\n")
    (make("b", [50.0], words=["mix=cutmix"]) / "config.yaml").write_text("mixx: a\n")
    make("c", [50.0], words=["mix=cutmix"])
    assert cli.run(report.main, "report", words) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastmix report: error: ") and says in err and err.count("\n") == 1


def test_half_a_line_of_a_log_is_passed_over_and_told(make, capsys):
    """A kill leaves half a line, to which the next one of the resumed run is joined: the other lines count."""
    log = make("a", [50.0, 60.0, 70.0], words=["mix=cutmix"]) / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    whole, (k, val) = run_folder.read("runs/a"), next((k, s) for k, s in enumerate(lines) if '"val"' in s)
    log.write_text("".join([*lines[:k], val[:20], *lines[k:]]))
    read = run_folder.read("runs/a")
    assert read.val == {epoch: row for epoch, row in whole.val.items() if epoch != 1} and read.train == whole.train
    assert cli.run(report.main, "report", ["runs/a"]) == 0
    assert f"runs/a/log.jsonl, line {k + 1}: " in capsys.readouterr().err
