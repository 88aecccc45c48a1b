"""The mix pass on a GPU in a step: plans drawn, sent and overwritten without a wait, the pass replayed from a graph."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmix.bench import mix_whole
from fastmix.kernels.host_to_device import refill
from fastmix.kernels.mix import mix, reference
from fastmix.kernels.mix.cases import MEAN, PLANS, STD
from helpers.waiting import no_waits

pytestmark = pytest.mark.cuda


def images_of(n, size, seed=0) -> Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).cuda()


@pytest.mark.parametrize("name", [name for name in PLANS if name != "plain"])
def test_a_replay_shows_the_images_and_the_plan_that_overwrote_the_captured_ones(name):
    n, size = 6, (32, 48)
    images, other = images_of(n, size), images_of(n, size, seed=2)
    first, second = (PLANS[name](np.random.default_rng(seed), n, size) for seed in (1, 2))
    assert first.kinds == second.kinds
    held = first.to("cuda")
    out = mix(images, held, MEAN, STD, torch.bfloat16)
    before, graph = out.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mix(images, held, MEAN, STD, torch.bfloat16, out=out)
    out.fill_(torch.nan)
    graph.replay()
    assert torch.equal(out, before)
    for key, value in vars(second).items():
        if isinstance(value, Tensor):
            refill(getattr(held, key), value)
    images.copy_(other)
    graph.replay()
    assert not torch.equal(out, before)
    assert torch.equal(out.cpu(), reference(other.cpu(), second, MEAN, STD, torch.bfloat16))


@pytest.mark.parametrize("name", mix_whole.METHODS)
def test_drawing_a_plan_sending_it_and_the_pass_wait_for_nothing(name):
    images, labels = images_of(8, (32, 32)), torch.arange(8).cuda()
    step = mix_whole.stepper(name, labels, torch.bfloat16)
    step(images)  # compiled, and a method's own tables made
    with no_waits():
        plan, out = step(images)
    host = replace(plan, **{key: value.cpu() for key, value in vars(plan).items() if isinstance(value, Tensor)})
    assert torch.equal(out.cpu(), reference(images.cpu(), host, MEAN, STD, torch.bfloat16))


@pytest.mark.parametrize("name", mix_whole.METHODS)
def test_the_replayed_step_of_the_benchmark_equals_its_eager_step(name):
    inputs, labels = [images_of(8, (32, 32), seed) for seed in range(2)], torch.arange(8).cuda()
    step = mix_whole.stepper(name, labels, torch.bfloat16)
    replay = mix_whole.replayed(name, inputs, labels, torch.bfloat16)  # has drawn one plan for what it captures
    step(inputs[0])
    for k in (0, 1, 0):
        wanted = step(inputs[k])[1].clone()
        with no_waits():
            out = replay(k)
        assert torch.equal(out, wanted)
