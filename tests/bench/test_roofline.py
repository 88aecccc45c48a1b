"""The predicted times of the mix pass: their arithmetic, computed again, and that they say what they are."""

import json
import sys

import pytest

from fastmix.bench import main
from fastmix.cli import run


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("roofline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        words = "--gpu h200 h100 --batch 8 1024 --size 64 --plans mixup".split()
        main(["roofline", *words, "--json", str(folder / "rows.json")])
    return json.loads((folder / "rows.json").read_text())


def test_a_prediction_is_the_largest_bound_and_the_launch(rows):
    times = {}
    for row in rows:
        if row["unit"] == "us, predicted":
            times.setdefault((row["hardware"], row["name"], row["shape"]), {})[row["provider"]] = row["p50"]
    assert len(times) == 2 * 2
    for of in times.values():
        ours = of.pop("fastmix, predicted")
        assert ours == max(of.values()) + 2.5 and len(of) == 3


def test_bytes_are_those_of_the_plan(rows):
    for row in rows:
        if row["provider"] == "memory, predicted":
            elements = 3 * 64 * 64 * int(row["shape"].split("x")[0])
            moved = elements * (2 + 2)  # two images read, bf16 written
            assert row["p50"] == pytest.approx(moved / (4.3e6 if row["hardware"].startswith("H200") else 3.015e6))


def test_instructions_give_the_bound_of_the_instructions(rows):
    of = [row for row in rows if row["hardware"].startswith("H200")]
    busiest = max(row["p50"] for row in of if row["unit"] == "cycles an element")
    bound = {row["shape"].split("x")[0]: row["p50"] for row in of if row["provider"] == "instructions, predicted"}
    elements = 3 * 64 * 64 * 1024  # 132 multiprocessors of four schedulers, a warp's instruction is of 32 elements
    assert bound["1024"] == pytest.approx(elements * busiest / 32 / (132 * 4 * 1750), rel=0.05)
    assert bound["8"] > bound["1024"] / 128  # too few programs: some multiprocessors have nothing to do


def test_no_row_passes_for_a_measurement(rows):
    assert all("not measured" in row["hardware"] and row["provider"].endswith(", predicted") for row in rows)
    assert all(row["gbps"] is None and row["share_of_copy"] is None for row in rows)


def test_without_triton_one_line(monkeypatch, capsys):
    monkeypatch.setattr("fastmix.kernels._triton.triton", None)
    monkeypatch.setattr(sys, "argv", ["bench"])
    assert run(main, "bench", ["roofline", "--plans", "plain", "--size", "40"]) == 2
    assert capsys.readouterr().err == (
        "fastmix bench: error: no kernel can be compiled: Triton is not installed: pip install triton\n"
    )
