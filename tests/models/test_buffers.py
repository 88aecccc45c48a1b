"""Copied buffers and averaged parameters: the same bits, in a call for each dtype."""

import copy

import pytest
import torch

from fastmix import MIXERS
from fastmix.engine.ema import Ema
from fastmix.models import load_timm
from fastmix.models.buffers import BufferCopy, follow
from helpers.counting import Operations


class Calls(Operations):
    """Copies into, too: how many tensors of which dtypes each call of _foreach_copy_ takes."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if str(operation) == "aten._foreach_copy_.default":
            self.calls.append((len(args[0]), {tensor.dtype for tensor in (*args[0], *args[1])}))
        return super().__torch_dispatch__(operation, types, args, kwargs)


@pytest.fixture
def pair():
    """ResNet-50's layout with other numbers in every buffer of the second."""
    one = load_timm().create_model("resnet50", num_classes=10)
    two = copy.deepcopy(one)
    for k, buffer in enumerate(two.buffers()):
        buffer += k + 1
    return one, two


def copied(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))


def in_two(calls: Calls, buffers: int) -> bool:
    """Whether all was copied by two calls of one dtype each, and nothing beside."""
    single = calls.counts["aten.copy_.default"]
    return (
        not single and sum(n for n, _ in calls.calls) == buffers and [len(kinds) for _, kinds in calls.calls] == [1] * 2
    )


def test_an_average_takes_159_buffers_in_two_calls(pair):
    model, ahead = pair
    ema = Ema(model, 0.9)
    with Calls() as calls:
        ema.update(ahead, 1)
    assert copied(ema.module, ahead) and in_two(calls, 159)


@pytest.mark.parametrize("name", ["automix", "samix"])
def test_a_teacher_takes_them_in_two_calls(name):
    model = load_timm().create_model("test_resnet", num_classes=10)
    mixer = MIXERS[name]()
    mixer.prepare(model)
    for buffer in model.buffers():
        buffer += 1
    with Calls() as calls:
        mixer.predictors(model)
    assert copied(mixer.teacher, model) and in_two(calls, len(list(model.buffers())))


def test_a_model_without_buffers():
    BufferCopy(torch.nn.Linear(2, 2)).take(torch.nn.Linear(2, 2))


def test_averages_of_two_dtypes_are_two_calls_and_each_tensors_own():
    torch.manual_seed(0)
    kinds = [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32]
    averages, values = ([torch.randn(k + 2, 3).to(kind) for k, kind in enumerate(kinds)] for _ in range(2))
    expected = [torch.lerp(a, v, 0.3) for a, v in zip(averages, values, strict=True)]
    with Operations() as operations:
        follow(averages, values, 0.3)
    assert operations.counts == {"aten._foreach_lerp_.Scalar": 2}
    assert all(map(torch.equal, averages, expected))
