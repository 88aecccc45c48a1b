"""Batches on a GPU that copies as late as it may are those on the host, and a wait that is missing is found."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
import torch

from fastmix.pipelines import loader_class, transfer
from fastmix.pipelines.view import View
from gpu import streams
from gpu.late_copies import LateCopies
from helpers.loading import copies, equal, image_folder

STEPS = 24
EVERY = pytest.mark.parametrize("every", [0, 7], ids=["the host never waits", "the host waits every 7 steps"])


@pytest.fixture(autouse=True)
def late(monkeypatch) -> Iterator[LateCopies]:
    for name, stand_in in streams.IN_TORCH.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(streams, "_default", fresh := streams.Stream())
    monkeypatch.setattr(streams, "_current", [fresh])
    memory = LateCopies()
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: memory.record(tensor, stream))
    transfer._side.cache_clear()  # the stream for copies is one a process
    yield memory
    transfer._side.cache_clear()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    return {"beton": "shapes:train", "folder": str(image_folder(tmp_path_factory.mktemp("images"), 100))}


def loader(kind: str, source: str, train: bool, device: str):
    view = View(size=32, crop="rrc" if train else "centre")
    return loader_class(kind)(source, 8, view=view, train=train, workers=2, device=device)


def seen(loader, late: LateCopies, every: int = 0) -> list[tuple]:
    """What steps see, whose work on the device is as late as the copies; so many of them, of two epochs."""
    found, device = [], streams.current_stream()
    with late:
        for epoch in range(2):
            for k, batch in enumerate(islice(loader.epoch(epoch), STEPS // 2)):
                memory = [tensor.detach() for tensor in batch]  # the loop soon has no more use for the batch itself
                device.put(lambda memory=memory: found.append(tuple(tensor.clone() for tensor in memory)))
                del batch
                if every and k % every == every - 1:
                    torch.cuda.synchronize()
        torch.cuda.synchronize()
    return found


def on_the_host(loader) -> list[tuple]:
    return [batch for epoch in range(2) for batch in copies(islice(loader.epoch(epoch), STEPS // 2))]


@EVERY
@pytest.mark.parametrize("train", [True, False], ids=["train", "val"])
@pytest.mark.parametrize("kind", ["beton", pytest.param("folder", marks=pytest.mark.long)])
def test_late_copies_change_no_pixel(kind, train, every, sources, late):
    given = [loader(kind, sources[kind], train, device) for device in ("cuda", "cpu")]
    assert equal(seen(given[0], late, every), on_the_host(given[1]))
    assert late.reused or not every, "memory on the device is used again where the host waits"


@pytest.mark.parametrize(
    "place, names",
    [(streams.Event, ["synchronize"]), (streams.Stream, ["wait_event", "wait_stream"]), (LateCopies, ["record"])],
    ids=["of the host, for a buffer to be copied", "of the step, for the copy", "of the allocator, for the step"],
)
def test_a_missing_wait_is_found(place, names, sources, late, monkeypatch):
    for name in names:
        monkeypatch.setattr(place, name, lambda *args: None)
    given = [loader("beton", sources["beton"], True, device) for device in ("cuda", "cpu")]
    assert not equal(seen(given[0], late), on_the_host(given[1]))
