"""Gains over vanilla of made-up runs, recomputed from their numbers and the printed ones; blocks of runs in a page."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fastmix import cli, config, report
from fastmix.bench import readme
from fastmix.pipelines.packing.layouts import wnids
from fastmix.runs import data_seen, run_folder
from fastmix.runs.columns import COLUMNS
from fastmix.runs.gain_over_vanilla import gains, rank_correlation
from helpers import ROOT

TOP1 = {  # by method and seed
    "vanilla": {0: 64.37, 1: 65.02, 2: 63.11},
    "mixup": {0: 60.5},
    "cutmix": {0: 66.25, 1: 65.9, 2: 65.5},
    "fmix": {1: 66.0, 5: 61.75},
    "samix": {7: 70.0, 8: 71.0},
    "alignmix": {0: 64.0},
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes the folder of a run without its weights; the last epoch reaches the given top-1."""
    monkeypatch.chdir(tmp_path)

    def make(
        name: str,
        top1: float,
        *words: str,
        base: str = "cifar10_quarter",
        epochs: int = 0,
        ema: float = 0,
        data: str = "",
    ) -> Path:
        folder = tmp_path / "results" / "here" / name
        folder.mkdir(parents=True)
        cfg = config.load(base, words)
        (folder / "config.yaml").write_text(config.dump(cfg))
        (folder / "versions.json").write_text(json.dumps({"torch": "2.0", "fastmix": "", "commit": "abc"}))
        if data:
            (folder / data_seen.FILE).write_text(data)
        values = {epoch: 10.0 + epoch for epoch in range(cfg.val_every, epochs or cfg.epochs, cfg.val_every)}
        lines = []
        for epoch, value in {**values, epochs or cfg.epochs: top1}.items():
            average = {"ema_top1": ema} if ema else {}
            lines.append({"kind": "val", "time": 9.0 * epoch, "step": epoch, "epoch": epoch, "top1": value, **average})
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return make


@pytest.fixture
def sweep(make):
    for mix, seeds in TOP1.items():
        for seed, top1 in seeds.items():
            make(f"{mix}_s{seed}", top1, f"mix={mix}", f"seed={seed}")
    return make


def rows(*column: str) -> list[dict]:
    return gains([run_folder.read(folder) for folder in run_folder.find("results")], *column)[0]


def printed(*column: str) -> dict[str, float]:
    """Numbers of the file itself."""
    with open(ROOT / "configs" / "published.csv", newline="") as file:
        return {row[3]: float(row[5]) for row in csv.reader(file) if tuple(row[:3]) == column and row[5]}


def test_the_table_of_a_page_is_the_numbers_recomputed(sweep, tmp_path):
    block = "runs: results/here; column=cifar10/ResNet-18/200ep; columns=method,top1,runs,gain,published"
    page = f"# Ours\n<!-- {block} -->\nold\n<!-- end -->\nbelow\n"
    text = readme.fill(page, tmp_path)
    assert text.startswith(page.split("old")[0]) and text.endswith("<!-- end -->\nbelow\n") and "old" not in text
    assert readme.fill(text, tmp_path) == text
    assert "\ntorch 2.0 commit abc\n<!-- end -->" in text
    grid = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    theirs = printed("cifar10", "ResNet-18", "200ep")
    names = {"mixup": "MixUp", "cutmix": "CutMix", "fmix": "FMix", "samix": "SAMix"}
    wanted, best = [], max(TOP1, key=lambda mix: np.mean(list(TOP1[mix].values())))
    for mix, seeds in TOP1.items():
        values = np.array(list(seeds.values()))
        shared = [seed for seed in seeds if seed in TOP1["vanilla"] and mix != "vanilla"]
        change = np.array([seeds[seed] - TOP1["vanilla"][seed] for seed in shared])
        mean = f"{values.mean():.2f}"
        top1 = (f"**{mean}**" if mix == best else mean) + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")
        gain = f"{change.mean():+.2f}" if len(change) else "–"
        gain += f" ± {change.std(ddof=1) / len(change) ** 0.5:.2f}" if len(change) > 1 else ""
        gain += f" ({len(change)})" if 0 < len(change) < len(values) else ""
        own = {"samix": "†"}.get(mix, "")  # its momentum is not the column's
        beside = f"{theirs[names[mix]] - theirs['Vanilla']:+.2f}{own}" if mix in names else "–"
        wanted.append([mix, top1, str(len(values)), gain, beside])
    order = list(config.load("cifar10_quarter").mixers)
    assert grid[0] == ["method", "top-1", "runs", "over vanilla", "published†"]
    assert grid[2:] == sorted(wanted, key=lambda row: order.index(row[0]))
    column, own = "cifar10/ResNet-18/200ep", "mixers.samix.momentum"
    assert (
        f"\n- † published: of {column}, from which these runs differ in epochs, model.name, data (not written" in text
    )
    assert f"\n- † samix: published with other {own}\n" in text


def test_the_deviation_is_that_of_the_pairs(make):
    """Seeds that all methods share cancel out: vanilla's spread is large, that of the differences none."""
    for seed, top1 in enumerate((50.0, 60.0, 70.0)):
        make(f"v{seed}", top1, "mix=vanilla", f"seed={seed}")
        make(f"c{seed}", top1 + 1.5, "mix=cutmix", f"seed={seed}")
    vanilla, cutmix = rows()
    assert vanilla["std"] == cutmix["std"] == 10 and (cutmix["gain"], cutmix["gain_std"]) == (1.5, 0)
    assert vanilla["gain"] is cutmix["published_gain"] is None


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys(ties):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (3, 7, 13):
        ours, theirs = (rng.integers(0, 4, n) if ties else rng.normal(size=n) for _ in range(2))
        some = [{"gain": float(a), "published_gain": float(b)} for a, b in zip(ours, theirs, strict=True)]
        some += [{"gain": None, "published_gain": 1.0}, {"gain": 1.0, "published_gain": None}]
        found, of = rank_correlation(some)
        assert of == n and found == pytest.approx(stats.spearmanr(ours, theirs).statistic, abs=1e-12)
    assert rank_correlation(some[:2]) is None
    assert rank_correlation([{"gain": float(k), "published_gain": 1.0} for k in range(5)]) is None


def test_the_runs_own_column_their_average_and_what_departs(make, capsys):
    imagenet = data_seen.record(1_281_167, 50_000, wnids.synsets())
    make("v", 70.0, "mix=vanilla", base="r50_100ep", data=imagenet)
    make("c", 50.0, "mix=cutmix", "ema.decay=0.9", base="r50_100ep", ema=72.25, data=imagenet)
    assert report.main(["--runs", "results", "--format", "json"]) == 0
    _, row = json.loads(capsys.readouterr().out)
    theirs = printed("in1k_pytorch_100ep", "ResNet-50", "100ep")
    assert row["gain"] == 2.25 and row["published_gain"] == pytest.approx(theirs["CutMix"] - theirs["Vanilla"])
    assert report.main(["--runs", "results"]) == 0
    text = capsys.readouterr().out
    assert "| cutmix† | **72.25** |" in text and "- † cutmix: not trained as vanilla in ema.decay\n" in text
    assert "after the last epoch, of the moving average of the weights where there is one, mean" in text
    assert "- † cutmix: published with other ema.decay\n" not in text, "all that have a published gain differ so:"
    assert "- † published: of in1k_pytorch_100ep/ResNet-50/100ep, from which these runs differ in ema.decay\n" in text


@pytest.mark.parametrize(
    "data, says",
    [
        (data_seen.record(128_116, 50_000, wnids.synsets()[1:]), "data (999 classes, not 1000)"),
        (data_seen.record(128_116, 50_000, wnids.synsets()[::-1]), "data (other classes, or in another order)"),
        (data_seen.record(12_811, 50_000, wnids.synsets()), "data (12,811 train images, not 128,116)"),
        (data_seen.record(128_116, 5_000, wnids.synsets()), "data (5,000 val images, not 50,000)"),
        (data_seen.record(128_116, 50_000, wnids.synsets()), ""),
        ("", ""),  # not written down
    ],
)
@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_other_data_than_vanillas_are_marked_and_told(make, capsys, data, says, form):
    """The paths are the same."""
    part = data_seen.record(128_116, 50_000, wnids.synsets())
    make("v", 70.0, "mix=vanilla", base="r50_100ep", data=part)
    make("m", 72.0, "mix=mixup", base="r50_100ep", data=data)
    assert report.main(["--runs", "results", "--format", form]) == 0
    text = capsys.readouterr().out
    mark = "†" if form == "markdown" else r"$^\dagger$"
    assert (f"mixup{mark} " in text) == bool(says)
    assert (f"{mark} mixup: not trained as vanilla in {says}" in text) == bool(says)


def test_gains_of_other_data_stand_beside_no_published_ones(make, capsys):
    part = data_seen.record(128_116, 50_000, wnids.synsets())
    make("v", 70.0, "mix=vanilla", base="r50_100ep", data=part)
    make("c", 71.0, "mix=cutmix", base="r50_100ep", data=part)
    assert [row["published_gain"] for row in rows()] == [None, None]
    column = "in1k_pytorch_100ep/ResNet-50/100ep"
    assert rows(column)[1]["published_gain"] == pytest.approx(77.17 - 76.83)
    assert report.main(["--runs", "results", "--column", column]) == 0
    text = capsys.readouterr().out
    assert "| published† |" in text
    assert (
        f"- † published: of {column}, from which these runs differ in data (128,116 train images, not 1,281,1" in text
    )


def test_a_gain_is_over_the_vanilla_that_is_trained_most_alike(make):
    for lr, top1 in ((0.1, 60.0), (0.2, 50.0)):
        make(f"v{lr}", top1, "mix=vanilla", f"optim.lr={lr}")
        make(f"c{lr}", 65.0, "mix=cutmix", f"optim.lr={lr}", "mixers.cutmix.alpha=1")
    make("other", 64.0, "mix=cutmix", "optim.lr=0.3")
    make("r", 80.0, "mix=mixup", "model.name=resnet18_cifar")
    found = {row["name"]: row for row in rows()}
    assert [*found] == [
        "vanilla lr=0.1", "vanilla lr=0.2", "cutmix lr=0.1", "cutmix lr=0.2", "cutmix lr=0.3",
        "mixup resnet18_cifar lr=0.1",
    ]  # fmt: skip
    gained = {name: (row["gain"], row["departs"]) for name, row in found.items()}
    assert gained["cutmix lr=0.1"] == (5.0, []) and gained["cutmix lr=0.2"] == (15.0, [])
    assert gained["cutmix lr=0.3"][1] == ["optim.lr"]
    assert gained["mixup resnet18_cifar lr=0.1"] == (None, []), "no vanilla of that network"


def test_rows_come_by_method_and_the_numbers_in_their_names(make):
    for alpha in (10, 9, 0.5):
        for mix in ("mixup", "cutmix"):
            make(f"{mix}{alpha}", 60.0, f"mix={mix}", f"mixers.{mix}.alpha={alpha}")
    make("v", 60.0, "mix=vanilla")
    assert [row["name"] for row in rows()] == [
        "vanilla", *(f"{mix} alpha={alpha}" for mix in ("mixup", "cutmix") for alpha in (0.5, 9, 10))
    ]  # fmt: skip


def test_runs_that_do_not_count_are_told_beside_the_table(sweep, capsys):
    sweep("a", 50.0, "mix=vanilla", "seed=9", epochs=10)
    sweep("cutmix_s0-2", 50.0, "mix=cutmix", "seed=0")
    assert report.main(["--runs", "results", "--columns", "method,runs,seeds"]) == 0
    out, err = capsys.readouterr()
    assert "results" not in out and "| vanilla" in out
    assert err.splitlines() == [
        "results/here/a: 10 of 25 epochs; not counted",
        "results/here/cutmix_s0: another run has its seed and settings; not counted",
    ]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[2:5]] == [
        ["vanilla", "3", "0, 1, 2"], ["mixup", "1", "0"], ["cutmix", "3", "0, 1, 2"]
    ]  # fmt: skip


def test_columns_are_chosen_in_every_format(sweep, capsys):
    words = ["--runs", "results", "--columns", "gain, method,epochs"]
    assert report.main(words) == 0
    assert capsys.readouterr().out.startswith("| over vanilla | method   | epochs |\n")
    assert report.main([*words, "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("gain,gain_error,gain_n,name,departs,epochs\n")
    assert report.main([*words, "--format", "json"]) == 0
    assert {tuple(row) for row in json.loads(capsys.readouterr().out)} == {
        ("gain", "gain_error", "gain_n", "name", "departs", "epochs")
    }


def test_every_column_is_the_mean_of_what_the_log_says(make):
    """Two seeds of 25 epochs, validated every 5: 15, 20, 25, 30 and the last."""
    for seed, last in enumerate((60.0, 50.0)):
        make(f"c{seed}", last, "mix=cutmix", f"seed={seed}")
    (row,) = rows()
    assert (row["top1"], row["n"], row["seeds"], row["epochs"]) == (55.0, 2, [0, 1], 25)
    assert row["median"] == 55.0, "the last 5 epochs hold one validation"
    assert row["best"] == 55.0 and row["std"] == pytest.approx(50**0.5) and row["top5"] is None
    assert row["hours"] == 9.0 * 25 / 3600 and row["images_per_s"] is None
    assert COLUMNS["hours"].text(row, False) == "0.062" and COLUMNS["hours"].text({"hours": 12.345}, False) == "12.35"
    assert row["gain"] is None and row["published_gain"] is None


def test_logs_without_weights_are_read_and_shown_as_unfinished(sweep, capsys):
    assert report.main(["--runs", "results", "--runs-table"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == sum(map(len, TOP1.values())) and all("25/25 unfinished" in line for line in lines)


@pytest.mark.parametrize(
    "words, says",
    [
        (["results/here/a"], "none of 1 runs has its last epoch in the log; --runs-table tells how far they are"),
        (["--runs", "results", "--columns", "method,hour"], "no column 'hour'; did you mean 'hours'"),
        (["--runs", "results", "--columns", "top1,top1"], "--columns: top1 is there twice"),
        (["--runs", "results", "--columns", "top1", "--runs-table"], "not allowed with argument"),
        (
            ["--runs", "results", "--runs-table", "--column", "cifar10/ResNet-18/200ep"],
            "--column goes with the table of",
        ),
        (["--runs", "results", "--metric-compat", "openmixup"], "--metric-compat goes with --table or --runs-table"),
        (
            ["results/here/vanilla_s0", "results/here/cutmix_s0", "--column", "cifar10/ResNet-18"],
            "'cifar10/ResNet-18'; did you mean 'cifar10/Res",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(sweep, capsys, words, says):
    sweep("a", 50.0, "mix=vanilla", "seed=9", epochs=10)
    assert cli.run(report.main, "report", words) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastmix report: error: ") and says in err and err.count("\n") == 1


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("config.yaml")), ids=lambda path: path.parent.name)
def test_kept_runs_are_whole_and_name_no_place_of_a_machine(path):
    run = run_folder.read(path.parent)
    assert run.cfg.epochs in run.val
    assert not [key for key, value in config.flat(run.cfg).items() if str(value).startswith(("/", "~"))]
