"""What is measured of shards: how images mix is counted right, and both kinds of files are read."""

import csv

import pytest

from fastmix.bench import main


def told(path, *argv: object) -> dict[tuple[str, str], float]:
    assert main([*map(str, argv), "--csv", str(path)]) == 0
    with open(path, newline="") as file:
        return {(row["name"], row["provider"]): float(row["p50"]) for row in csv.DictReader(file)}


def test_parts_have_only_the_classes_of_their_machine(tmp_path, capsys):
    rows = "--rows 800 --shards 4 --classes 8 --machines 4 --processes 1 --batch 50".split()
    found = told(tmp_path / "a.csv", "locality", *rows)
    own, all_ = (found["classes in a process's part", f"locality {kind}"] for kind in ("shard", "none"))
    assert (own, all_) == (2, 8)  # a shard of 200 rows has two classes of 100
    assert found["images shown", "locality shard"] == 100 and found["classes in a batch", "locality shard"] == 8
    # Two rows of the same 200, drawn without putting back, are (200 + 1) / 3 apart on average: of 800 rows 0.084.
    assert found["neighbours in a part", "locality shard"] == pytest.approx(201 / 3 / 800, rel=0.1)


@pytest.mark.long
def test_shards_are_read_beside_one_file(tmp_path, capsys):
    rows = "--rows 400 --shards 3 --classes 5 --batch 8 --steps 2 --rounds 3 --starts 1 --workers 1".split()
    found = told(tmp_path / "a.csv", "shards", *rows)
    assert found["rate by CPU time", "3 shards of one file"] > 0
    assert min(found["opening", name] for name in ("one file", "3 shards")) > 0
