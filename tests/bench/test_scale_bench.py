"""What is worked out of a run on many GPUs, by hand, and what fetching a shard costs is measured at all."""

import csv

import pytest

from fastmix.bench import main
from helpers import ROOT


def told(path, *argv: object) -> dict[tuple[str, str, str], float]:
    assert main([*map(str, argv), "--csv", str(path)]) == 0
    with open(path, newline="") as file:
        return {(row["name"], row["unit"], row["provider"]): float(row["p50"]) for row in csv.DictReader(file)}


def test_the_numbers_are_those_of_the_formulas(tmp_path, capsys):
    words = (
        "--gpus 4 32 --on-one 4 --rate 1000 --batch 100 --rows 32000 --bytes 100000 --shards 10 --parameters 1000000"
    )
    files = ["--loader", ROOT / "results/loader_cpu.csv", "--remote", ROOT / "results/remote_cpu.csv"]
    found = told(tmp_path / "a.csv", "scale", *words.split(), *files)
    for key, one, eight in [
        (("an epoch", "s"), 8, 1),
        (("data over a machine's network", "Gbit/s"), 3.2, 3.2),  # 4 GPUs x 1000 images/s x 0.1 MB x 8 bits
        (("data out of the object store", "GB/s"), 0.4, 3.2),
        (("requests when a run begins", "requests"), 50, 400),
        (("requests of an epoch, fsspec", "requests"), 210, 210),  # 320 MB a shard: 20 times 16 MiB, and one look
        (("requests of an epoch, fsspec", "requests/s"), 26.25, 210),
        (("gradients that a machine sends, fp32", "Gbit/s"), 0.48, 0.62),  # 2 x 3/4 and 31/32 of 4 MB in 0.1 s
        (("writing it in 1 % of an epoch", "MB/s"), 150, 1200),
    ]:
        assert found[(*key, "4 GPUs")] == pytest.approx(one) and found[(*key, "32 GPUs")] == pytest.approx(eight)
    cores = [found["decoding, on a machine", "cores", f"{n} GPUs"] for n in (4, 32)]
    assert cores[0] == cores[1] and 1 < cores[0] < 20


@pytest.mark.long
def test_fetching_a_shard_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))
    found = told(tmp_path / "a.csv", "remote", "--size", 4, "--repeats", 2)
    (reading,), (all_,) = (
        [v for k, v in found.items() if k[0] == name] for name in ("reading", "fetching and checking")
    )
    assert 0 < reading < all_
