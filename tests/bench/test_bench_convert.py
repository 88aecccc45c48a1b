"""The benchmark of packing."""

from __future__ import annotations

import json

import pytest

from helpers.conversion import tree, two_classes
from helpers.handed_out import tar


@pytest.mark.long
def test_bench_compares_with_ffcv(tmp_path, monkeypatch):
    pytest.importorskip("ffcv")
    from fastmix.bench import convert as bench
    from fastmix.bench import main

    monkeypatch.setattr(bench, "PLANS", {plan: work for plan, work in bench.PLANS.items() if plan[0] == "raw"})
    main(["convert", str(two_classes(tmp_path / "in")), "--rows", "20", "--rounds", "1", "--json", f"{tmp_path}/a"])
    rows = {(row["provider"], row["unit"]): row for row in json.loads((tmp_path / "a").read_text())}
    assert len(rows) == 8 and {row["shape"] for row in rows.values()} == {"24 images, 500 px, q90"}
    ours, theirs = (rows[name, "MB"]["p50"] for name in ("fastmix", "ffcv"))
    assert ours == theirs  # the same pixels in the same pages
    for unit, ratio in (("CPU ms/image", "x CPU time"), ("images/s", "x time")):
        ours, theirs = (rows[name, unit]["p50"] for name in ("fastmix", "ffcv"))
        times = theirs / ours if ratio == "x CPU time" else ours / theirs
        assert rows["ffcv / fastmix", ratio]["p50"] == pytest.approx(times)


def test_bench_compares_forms_of_the_same_images(tmp_path):
    from fastmix.bench import main

    folder = two_classes(tmp_path / "in")
    tree(tmp_path, {"in.tar": tar({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.jpg")})})
    main(["convert", str(folder), f"{folder}.tar", "--rounds", "1", "--json", f"{tmp_path}/a"])
    rows = {(row["provider"], row["unit"]): row["p50"] for row in json.loads((tmp_path / "a").read_text())}
    assert len(rows) == 6
    assert rows["in / in.tar", "x time"] == pytest.approx(rows["in.tar", "images/s"] / rows["in", "images/s"])
    assert rows["in / in.tar", "x CPU time"] == pytest.approx(
        rows["in", "CPU ms/image"] / rows["in.tar", "CPU ms/image"]
    )
