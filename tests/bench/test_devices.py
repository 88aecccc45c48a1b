"""The benchmarks where there is no GPU, and what they would do on one, with a CPU in its place."""

import gc
import json
import time
from contextlib import contextmanager

import pytest
import torch

from fastmix import cli
from fastmix.bench import BENCHES, main, measure, memory, mix, mix_whole, plan
from fastmix.engine import captured_step
from fastmix.mixers import MIXERS

# No device is chosen.
WITHOUT = ("convert", "decode", "floor", "roofline", "shards", "locality", "remote", "scale", "start")


@pytest.mark.parametrize("name", [name for name in BENCHES if name not in WITHOUT])
def test_without_a_gpu_every_benchmark_ends_in_a_line(name, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.run(main, "bench", [name, "--device", "cuda"]) == 2
    line = "fastmix bench: error: --device cuda: this machine has no GPU that torch can use\n"
    assert capsys.readouterr().err == line


@pytest.fixture
def gpu(monkeypatch):
    """The CPU in place of a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(measure, "place", lambda device: torch.device("cpu"))
    monkeypatch.setattr(measure, "hardware", lambda device="cpu": "none")
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)


@pytest.mark.long
def test_the_mix_bench_compiles_twice_a_shape_and_captures_two_graphs_a_plan(gpu, monkeypatch, tmp_path):
    compiled, captured = [], []

    class Counting:
        def __init__(self, device):
            pass

        def run(self, work):
            return work()

        def capture(self, work):
            captured.append(work)
            return work

    def compile(function, **_):
        compiled.append(function)
        return function

    def once(work, repeats, device="cpu", warmup=2):
        return {name: [float(call() is None)] for name, call in work.items()}

    monkeypatch.setattr(captured_step, "SideStream", Counting)
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(measure, "milliseconds", once)
    monkeypatch.setattr(measure, "host_milliseconds", lambda work, repeats: once(work, repeats))
    monkeypatch.setattr(measure, "copy_bandwidth", lambda device: 1.0)
    monkeypatch.setattr(mix, "ROTATED", 40_000)  # inputs enough that a graph for each would show
    shapes, out = 2, tmp_path / "rows.json"
    main(["mix", "--device", "cuda", "--batch", "4", "--size", "16", "24", "--json", str(out)])
    assert len(compiled) == 2 * shapes
    assert len(captured) == mix_whole.GRAPHS * len(mix_whole.METHODS) * shapes
    rows = json.loads(out.read_text())
    assert {row["dtype"] for row in rows} == {"bf16"}
    by_torch = [row["name"] for row in rows if row["provider"] == "torch.compile"]
    formulas = [name for name in mix.NAMES if name not in mix.MOVED and name not in mix.FLOATS]
    assert by_torch == formulas * shapes


def test_a_shared_compilation_is_the_formula_of_each_plan(gpu, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    given, device = mix.Compiled(), torch.device("cpu")
    images = torch.randint(256, (2, 4, 4, 3), dtype=torch.uint8)
    other = torch.tensor([1, 0])
    half, none = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, 1, 4, 4)
    calls = [given(mask, other, torch.float32, device) for mask in (half, none, None)]
    mixed, swapped, plain = (call(images) for call in calls)
    assert len(given.made) == 2
    assert torch.equal(swapped, plain[other]) and torch.allclose(mixed, (plain + plain[other]) / 2)


def test_deciding_is_timed_by_a_clock_that_sees_the_host_and_the_device(gpu, monkeypatch, tmp_path):
    """The host takes 5 ms to decide, and what it gave to the device 20 more."""
    given = []

    def decide(self, batch):
        time.sleep(0.005)
        given.append(1)

    def synchronize(*_):
        time.sleep(0.02 * len(given))
        given.clear()

    monkeypatch.setattr(MIXERS["cutmix"], "plan", decide)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(plan, "_batch", lambda args: (None, None))
    words = ["plan", "--device", "cuda", "--only", "cutmix", "--repeats", "3", "--json", str(tmp_path / "a.json")]
    main(words)
    found = {row["unit"]: row["p20"] for row in json.loads((tmp_path / "a.json").read_text())}
    assert list(found) == ["ms", "ms host"]
    assert 5 <= found["ms host"] < 20 <= found["ms"] - 5 + 0.1


class Graphs:
    """torch.cuda's graphs, as far as a capture uses them; `pools` are the handles that captures were given."""

    def __init__(self, monkeypatch):
        self.pools, self.made = [], 0
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", type("Graph", (), {"replay": lambda graph: None}))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", self.handle)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def handle(self):
        self.made += 1
        return self.made

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.pools.append(pool)
        yield


def test_all_graphs_of_a_process_share_a_pool_that_ends_with_them(monkeypatch):
    graphs, device = Graphs(monkeypatch), torch.device("cuda", 0)
    methods = [captured_step.SideStream(device) for _ in range(3)]
    replays = [side.capture(lambda k=k: [k]) for k, side in enumerate(methods)]
    assert graphs.pools == [1, 1, 1] and [replay() for replay in replays] == [[0], [1], [2]]
    del replays[:2]
    gc.collect()
    replays.append(methods[0].capture(list))
    assert graphs.pools[-1] == 1
    replays.clear()
    gc.collect()
    replays.append(methods[0].capture(list))  # torch takes no handle whose graphs have gone
    assert graphs.pools[-1] == 2


@pytest.mark.parametrize("shares, kept", [(False, 30), (True, 130)])
def test_memory_of_a_method_that_replays_in_a_pool_counts_the_pool(shares, kept, monkeypatch):
    """Another method's graphs keep 100 bytes; this one brings 20 of tensors and makes the pool 10 larger."""
    state = {"tensors": 5, "pool": 100}
    segment = {"segment_pool_id": (0, 1), "allocated_size": 0}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: state["tensors"])
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: [segment | {"total_size": state["pool"]}])

    def build():
        state.update(tensors=25, pool=110)
        return lambda: None

    assert memory.built(build, (), torch.device("cuda"), shares)[1] == kept
