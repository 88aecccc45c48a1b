"""Training throughput as `bench train` and `bench step` measure it: turns under a clock of our own, and real runs."""

import json
import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from fastmix import cli, mixers, models
from fastmix.bench import main, train
from fastmix.config import Model
from fastmix.engine import log
from fastmix.engine.step import Step
from fastmix.pipelines.folder import Folder
from helpers.loading import image_folder

CPU = torch.device("cpu")
SMALL = ["--model", "test_resnet", "--batch", "6", "--size", "32", "--device", "cpu", "--precision", "fp32"]
TURNS = ["--steps", "2", "--warmup", "1", "--workers", "1"]


class Machine:
    """A clock that only a loader and a step move, and what they take in it."""

    def __init__(self, loading: float, stepping: float):
        self.now, self.loading, self.stepping, self.ended = 0.0, loading, stepping, 0

    def perf_counter(self) -> float:
        return self.now

    def epoch(self, k: int, batches: int = 100, batch: int = 4):
        try:
            for _ in range(batches):
                self.now += self.loading
                yield torch.zeros(batch, 2, 2, 3), torch.zeros(batch), None
        finally:
            self.now += 100  # threads that end
            self.ended += 1

    def take(self, images, labels) -> None:
        self.now += self.stepping

    def provider(self, name: str = "a", base: str = "b") -> train.Provider:
        return train.Provider(name, base, self.take, self.epoch, 0)


@pytest.mark.parametrize("loading, stepping", [(0.03, 0.01), (0.001, 0.999), (0.0, 0.5)])
def test_a_turn_is_what_its_clock_shows(monkeypatch, loading, stepping):
    machine = Machine(loading, stepping)
    monkeypatch.setattr(log, "time", machine)
    pace = train.turn(machine.provider(), 0, 3, 10, CPU)
    assert pace.rate == pytest.approx(4 / (loading + stepping), abs=0.05)  # log.Clock tells tenths of an image
    assert pace.waiting == pytest.approx(loading / (loading + stepping), abs=1e-4)
    assert machine.ended == 1 and pace.peak == 0


def test_the_first_steps_do_not_count(monkeypatch):
    machine = Machine(0.0, 0.5)
    monkeypatch.setattr(log, "time", machine)
    taken = []

    def take(images, labels):
        taken.append(1)
        machine.now += 50 if len(taken) <= 3 else 0.5

    provider = machine.provider()._replace(take=take)
    assert train.turn(provider, 0, 3, 10, CPU).rate == pytest.approx(8) and len(taken) == 13


def test_an_epoch_shorter_than_a_turn_is_an_error():
    machine = Machine(0.0, 0.0)
    short = machine.provider()._replace(epoch=lambda k: machine.epoch(k, batches=5))
    with pytest.raises(ValueError, match="a: an epoch is 5 steps, a turn 7: raise --repeat-data"):
        train.turn(short, 0, 3, 4, CPU)


def test_shares_are_taken_turn_by_turn():
    """Of a machine that becomes slower by half in between: the share stays."""
    base, real = (Machine(0, 0).provider(name, "b") for name in "ba")
    pace = train.Pace
    found = {
        ("cutmix", base): [pace(100.0, 0.0, 7), pace(50.0, 0.0, 9)],
        ("cutmix", real._replace(held=3)): [pace(80.0, 0.25, 5), pace(40.0, 0.5, 4)],
    }
    rows = {(name, unit): values for _, name, unit, values in train.rows(found)}
    assert rows["a", "% of synthetic"] == [80, 80] and ("b", "% of synthetic") not in rows
    assert rows["a", "% waiting for data"] == [25, 50] and rows["a", "GB"] == [8e-9] and rows["b", "GB"] == [9e-9]


def measured(path, *words: str) -> dict[tuple[str, str, str], dict]:
    main([*words, "--json", str(path / "a.json")])
    rows = json.loads((path / "a.json").read_text())
    return {(row["name"], row["provider"], row["unit"]): row for row in rows}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # timm's processes, from one with threads
def test_train_beside_timm_on_the_same_files(tmp_path):
    folder = image_folder(tmp_path / "images", 9)
    words = ["train", str(folder), *SMALL, *TURNS, "--rounds", "1", "--peer", "timm", "--mix", "mixup"]
    rows = measured(tmp_path, *words)
    ours, theirs = ("fastmix folder, fast", "fastmix synthetic"), ("timm", "timm synthetic")
    name = "test_resnet mixup, 9 images x 2"  # a turn takes 3 batches of 6
    for real, base in (ours, theirs):
        rate, whole = (rows[name, who, "images/s"]["p50"] for who in (real, base))
        assert rows[name, real, "% of synthetic"]["p50"] == pytest.approx(100 * rate / whole)
        assert 0 <= rows[name, real, "% waiting for data"]["p50"] < 100
        assert (name, base, "% of synthetic") not in rows
    assert len(rows) == 2 * (3 + 2) and not [unit for *_, unit in rows if unit == "GB"]
    assert not multiprocessing.active_children(), "timm's processes end with their turn"


@pytest.mark.long
@pytest.mark.parametrize("loading", [0.0, 0.75])
def test_a_slow_loader_shows_as_waiting(tmp_path, monkeypatch, loading):
    """The whole command, under the clock of a machine whose steps take a quarter of a second."""
    machine, epoch, take = Machine(loading, 0.25), Folder.epoch, Step.__call__
    monkeypatch.setattr(log, "time", machine)

    def slow(self, *args):
        for batch in epoch(self, *args):
            machine.now += machine.loading
            yield batch

    def stepping(self, *args):
        machine.take(*args[:2])
        return take(self, *args)

    monkeypatch.setattr(Folder, "epoch", slow)
    monkeypatch.setattr(Step, "__call__", stepping)
    folder = image_folder(tmp_path / "images", 18)
    rows = measured(tmp_path, "train", str(folder), *SMALL, *TURNS, "--rounds", "2", "--mix", "vanilla")
    found = {(who, unit): (row["p20"], row["p80"]) for (_, who, unit), row in rows.items()}
    real, seconds = "fastmix folder, fast", loading + 0.25
    assert found == {
        ("fastmix synthetic", "images/s"): (24, 24),
        ("fastmix synthetic", "% waiting for data"): (0, 0),
        (real, "images/s"): (6 / seconds, 6 / seconds),
        (real, "% of synthetic"): (25 / seconds, 25 / seconds),
        (real, "% waiting for data"): (100 * loading / seconds, 100 * loading / seconds),
    }


def test_step_leaves_out_what_needs_files_and_measures_timm_both_ways(tmp_path, capsys, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled.append(how))
    monkeypatch.setattr(mixers, "MIXERS", {name: mixers.MIXERS[name] for name in ("vanilla", "cutmix", "supermix")})
    rows = measured(tmp_path, "step", *SMALL, "--repeats", "2", "--mix", "all", "--compile", "default")
    made = [(who, name.split()[1]) for name, who, _ in rows]
    peers = [(who, name) for who in ("timm", "timm, compiled") for name in ("vanilla", "cutmix")]
    assert made == [("fastmix", "vanilla"), ("fastmix", "cutmix"), *peers]
    assert compiled == [{"mode": "default"}] * 4  # two of ours and two of timm's, not timm's eager ones
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in lines] == ["left out: mixers.supermix: SuperMix: weights is not given"]


@pytest.mark.parametrize(
    "words, says",
    [
        (["train", "nowhere"], "nowhere: no such file or folder"),
        (["train", "--peer", "timm"], "--peer timm reads image files, and shapes:train is packed: give --originals"),
        (["train", "--loader", "folder"], "--loader folder reads image files"),
        (["train", ".", "--loader", "beton"], "--loader beton reads a .beton file"),
        (["train", "--steps", "0"], "argument --steps: '0' is not a whole number from 1"),
        (["train", "--mix", "cutmx", "--batch", "4"], "--mix: no method 'cutmx'; did you mean 'cutmix'"),
        (["step", "--mix", "tokenmix", "--batch", "4"], "weights is not given"),
        (["step", "--cuda-graph", "--batch", "4"], "cuda_graph: the device is cpu"),
        (["step", "--fused-norm", "auto", "--batch", "4"], "--fused-norm: on a CPU it is torch's own"),
    ],
)
def test_mistakes_are_one_line(capsys, monkeypatch, tmp_path, words, says):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))
    small = ["--model", "test_resnet", "--size", "32", "--device", "cpu"]
    assert cli.run(main, "bench", [*words, *small]) == 2
    err = capsys.readouterr().err
    assert says in err and [line for line in err.splitlines() if "error: " in line] == err.splitlines()[-1:]


@pytest.mark.cuda
def test_memory_on_a_gpu_is_that_of_the_tensors():
    from fastmix.bench.memory import Peak, built, held

    device, megabyte = torch.device("cuda", torch.cuda.current_device()), 1 << 20
    before = held(device)
    kept = SimpleNamespace()

    def build():
        kept.weights = torch.empty(8 * megabyte, dtype=torch.uint8, device=device)
        return lambda: torch.empty(4 * megabyte, dtype=torch.uint8, device=device)

    call, bytes = built(build, (), device)
    with Peak(device) as peak:
        call()
    assert bytes == held(device) - before == 8 * megabyte and peak.bytes == 4 * megabyte


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("graph", [[], ["--cuda-graph"]])
def test_the_rows_of_a_gpu_tell_memory(tmp_path, graph):
    folder = image_folder(tmp_path / "images", 12)
    small = [*SMALL, "--device", "cuda", "--precision", "bf16", "--mix", "cutmix", *graph]
    rows = measured(tmp_path, "train", str(folder), *small, *TURNS, "--rounds", "2", "--peer", "timm")
    providers = {who for _, who, _ in rows}
    assert providers == {"fastmix synthetic", "fastmix folder, fast", "timm synthetic", "timm"}
    weights = 3 * 4 * sum(p.numel() for p in models.build(Model("test_resnet"), 1000).parameters()) / 1e9
    assert all(weights < rows["test_resnet cutmix, 12 images x 2", who, "GB"]["p50"] < 1 for who in providers)
    assert ("test_resnet cutmix", "fastmix", "GB") in measured(tmp_path, "step", *small, "--repeats", "2")
