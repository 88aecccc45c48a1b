"""Costs over vanilla beside the benchmark's: ratios by hand of what its page prints, and a small run."""

import json

import pytest

from fastmix.bench import main, published_cost
from fastmix.bench.measure import row
from fastmix.runs import published

DEIT = "deit_small_patch16_224"


def measured(mix: str, unit: str, values: list[float], provider: str = "fastmix") -> dict:
    return row("step", f"{DEIT} {mix}", provider, "8x32x32", "fp32", unit, values)


def test_ratios_worked_by_hand():
    rows = [measured("vanilla", "ms", [40.0, 50, 60]), measured("automix", "ms", [120.0, 150, 900])]
    rows += [measured("vanilla", "GB", [2.0]), measured("automix", "GB", [5.0])]
    rows += [measured("gridmix_cells", "ms", [77.0])]  # not on the page
    rows += [measured("mixup", "ms", [9.0], "timm")]
    found = published_cost.beside(rows, DEIT)
    told = [(r["provider"], r["unit"], r["p50"]) for r in found]
    assert told == [
        ("fastmix", "time of vanilla's", 3.0),
        ("openmixup, its page", "time of vanilla's", pytest.approx(59 / 27)),
        ("fastmix", "memory of vanilla's", 2.5),
        ("openmixup, its page", "memory of vanilla's", pytest.approx(18.2 / 8.1)),
    ]
    assert {r["hardware"] for r in found if "page" in r["provider"]} == {"not named"}
    assert published_cost.beside(rows, "resnet50") == []


def test_what_the_page_prints_is_complete():
    costs = published.costs()
    assert {cost.backbone for cost in costs} == {*published_cost.MODELS.values()}
    for backbone in published_cost.MODELS.values():
        cells = {cell.method for cell in published.table("cifar100") if cell.backbone == backbone}
        assert cells == {cost.method for cost in costs if cost.backbone == backbone}


def test_a_run_of_the_benchmark_prints_both(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(published_cost.MODELS, "test_resnet", "ConvNeXt-T")
    words = ["step", "--model", "test_resnet", "--batch", "4", "--size", "32", "--repeats", "2", "--mix", "automix"]
    main([*words, "--json", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())
    by = {(r["bench"], r["name"].split()[1], r["provider"]): r["p50"] for r in rows}
    ours = by["step", "automix", "fastmix"] / by["step", "vanilla", "fastmix"]
    assert by["cost", "automix", "fastmix"] == pytest.approx(ours)
    assert by["cost", "automix", "openmixup, its page"] == pytest.approx(28 / 10)
    assert "openmixup, its page" in capsys.readouterr().out
