"""Streams of the device: made once, not once an epoch. Without a GPU: its calls are stood in for."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from fastmix.pipelines import loader, nvjpeg, transfer
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.view import View
from helpers.loading import beton_of, copies, encoded, equal

CUDA = torch.device("cuda", 0)


class Slot(transfer.Slot):
    """In ordinary memory, with an event."""

    def __init__(self, batch: int, size: int, device: torch.device):
        super().__init__(batch, size, torch.device("cpu"))
        self.copied = Stand()


class Stand:
    """A stream or an event, on which everything has happened."""

    def __init__(self, *_):
        pass

    def record(self, stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture
def streams(monkeypatch):
    """All streams that were made, on a machine whose GPU is its memory."""
    made = []

    class Stream(Stand):
        def __init__(self, device):
            made.append(self)

    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **options: zeros(*size, **options))
    for module in (loader, nvjpeg):
        monkeypatch.setattr(module, "Slot", Slot)
    monkeypatch.setattr(nvjpeg, "upload", lambda array, device: torch.from_numpy(array))
    monkeypatch.setattr(transfer, "_copy", lambda tensor, device: tensor.clone())
    monkeypatch.setattr(transfer, "_take", lambda copies, copied, device: copies)
    transfer._side.cache_clear()
    yield made
    transfer._side.cache_clear()


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    return beton_of(tmp_path / "x.beton", [encoded(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))] * 12)


def test_three_epochs_of_two_loaders_copy_on_one_stream(streams, path):
    loaders = [Beton(path, 4, view=View(16), train=train, device=CUDA) for train in (True, False)]
    for epoch in range(3):
        for train, one in zip((True, False), loaders, strict=True):
            expected = Beton(path, 4, view=View(16), train=train).epoch(epoch)
            assert equal(copies(one.epoch(epoch)), copies(expected))
    assert len(streams) == 1


def test_three_epochs_of_nvjpeg_decode_on_one_stream_a_loader(streams, path, monkeypatch):
    def decode(jpegs):
        return [torch.ones(3, 24, 24, dtype=torch.uint8) for _ in jpegs]

    monkeypatch.setattr(nvjpeg, "decoder", lambda device: decode)
    one = Beton(path, 4, view=View(16, decode="gpu"), train=True, device=CUDA)
    assert all(len(copies(one.epoch(epoch))) == 3 for epoch in range(3))
    assert len(streams) == 2, "one to decode on, one for copies"
