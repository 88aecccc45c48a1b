"""The benchmark of the mix pass: a row for each shape, bytes computed again, and the step that it times."""

import json

import numpy as np
import pytest
import torch

from fastmix.batch import Batch
from fastmix.bench import main, mix_floor, mix_whole
from fastmix.bench.mix import rotating
from fastmix.kernels.mix import mix, reference
from fastmix.kernels.mix.cases import MEAN, PLANS, STD
from fastmix.mixers import build


@pytest.mark.long
def test_rows_of_several_shapes_and_their_bytes(tmp_path):
    words = (
        "mix --batch 2 3 --size 16 24 --plans gridmix fmix --dtype fp32 bf16 --allocator default --repeats 2".split()
    )
    main([*words, "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    ours = [row for row in rows if row["provider"] == "fastmix"]
    shapes = [f"{n}x{size}x{size}x3" for n in (2, 3) for size in (16, 24)]
    wanted = [(shape, name, dtype) for shape in shapes for name in ("gridmix", "fmix") for dtype in ("fp32", "bf16")]
    assert [(row["shape"], row["name"], row["dtype"]) for row in ours] == wanted
    copies = set()
    for row in rows:
        elements = int(np.prod([int(v) for v in row["shape"].split("x")]))
        written = elements * {"fp32": 4, "bf16": 2}[row["dtype"]]
        ranks = 2 * elements // 3 * (row["name"] == "fmix")
        assert row["bytes"] == elements + written + ranks  # each pixel is one image's or the other's
        assert row["gbps"] == pytest.approx(row["bytes"] / row["p50"] / 1e6)
        copies.add(round(row["gbps"] / row["share_of_copy"], 6))
    assert len(copies) == 1  # a share is one of the same run's copy


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain", "mixup", "cutmix"])
def test_the_plainest_loop_gives_the_same_bits(name):
    shape, rng = (5, 20, 14, 3), np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    plan = PLANS[name](rng, len(images), shape[1:3])
    found = mix_floor.floor(name, plan, shape, MEAN, STD)(images)
    assert torch.equal(found, reference(images, plan, MEAN, STD))


def test_inputs_and_outputs_rotate():
    inputs = [torch.zeros(1) for _ in range(3)]
    made = []

    def work(images):
        made.append((images.data_ptr(), torch.empty(1000)))
        return made[-1][1]

    call = rotating(work, inputs)
    for _ in range(6):
        call()
    assert [pointer for pointer, _ in made] == [image.data_ptr() for image in inputs] * 2


@pytest.mark.parametrize("name", mix_whole.METHODS)
def test_a_plan_that_is_overwritten_mixes_as_one_that_is_made(name):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (4, 16, 24, 3), dtype=np.uint8))
    labels = torch.arange(4)
    draw, step = mix_whole.drawer(name, labels), mix_whole.stepper(name, labels, torch.float32)
    held, second = draw(images), draw(images)
    row, options = mix_whole.METHODS[name]
    wanted = [
        build(row, {row: options}).plan(Batch(images, labels, np.random.default_rng([0, k]))).table for k in range(2)
    ]
    assert torch.equal(held.table, wanted[0]) and torch.equal(second.table, wanted[1])
    assert torch.equal(step(images)[1], reference(images, held, MEAN, STD, torch.float32))
    mix_whole.overwrite(held, second)
    assert torch.equal(mix(images, held, MEAN, STD), reference(images, second, MEAN, STD, torch.float32))


class Again:
    """In place of a stream: what it captures is done again at each replay."""

    def __init__(self, device):
        pass

    def run(self, work):
        return work()

    def capture(self, work):
        return work


@pytest.mark.parametrize("name", mix_whole.METHODS)
def test_the_replayed_way_shows_each_input_by_the_next_plan(name, monkeypatch):
    monkeypatch.setattr("fastmix.engine.captured_step.SideStream", Again)
    inputs = [torch.randint(256, (4, 16, 24, 3), dtype=torch.uint8) for _ in range(2)]
    labels = torch.arange(4)
    ways, host = mix_whole.whole(name, inputs, labels, torch.float32)
    draw = mix_whole.drawer(name, labels)
    plans = [draw(inputs[0]) for _ in range(4)]
    assert list(host) == list(ways) == [mix_whole.PLANNED, mix_whole.REPLAYED]
    for provider, first in ((mix_whole.PLANNED, 0), (mix_whole.REPLAYED, 1)):  # the captured pass has drawn one
        for k in (0, 1):
            wanted = reference(inputs[k], plans[first + k], MEAN, STD, torch.float32)
            assert torch.equal(ways[provider](k), wanted)


def test_a_plan_of_other_kinds_is_another_build():
    images, labels = torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.arange(4)
    blend, box = (mix_whole.drawer(name, labels)(images) for name in ("mixup", "cutmix"))
    with pytest.raises(ValueError, match="kinds"):
        mix_whole.overwrite(blend, box)


@pytest.mark.parametrize("words", ["rates --side 0", "roofline --batch 64 0", "floor --size -1"])
def test_counts_below_one(words):
    _, option, *_, value = words.split()
    with pytest.raises(ValueError, match=f"argument {option}: '{value}' is not a whole number from 1"):
        main(words.split())
