"""How a process joins the group of torchrun; what groups do is tested where they are used."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from fastmix import distributed


@pytest.mark.parametrize("cuda, captured", [(True, False), (True, True), (False, False)])
def test_nccl_is_told_the_device_of_the_process(cuda, captured, monkeypatch):
    """Rank 5 of two machines with four GPUs each: its own is number 1."""
    monkeypatch.delenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", raising=False)
    joined, chosen = [], []
    for name, value in {"WORLD_SIZE": 8, "RANK": 5, "LOCAL_RANK": 1, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(distributed, "_find", lambda *_: None)
    monkeypatch.setattr(distributed, "_watch", lambda *_: None)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: [(Mock(), 5, 8)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "init_process_group", lambda *words, **options: joined.append((words, options)))
    device = distributed.init(captured=captured)
    assert os.environ.pop("TORCH_NCCL_ASYNC_ERROR_HANDLING", None) == ("0" if captured else None)
    ((words, options),) = joined
    assert options.pop("store") and options.pop("rank") == 5 and options.pop("world_size") == 8
    if cuda:
        assert words == ("nccl",) and options == {"device_id": torch.device("cuda", 1)}
        assert chosen == [device] and device == torch.device("cuda", 1)
    else:
        assert words == ("gloo",) and options == {} and chosen == [] and device == torch.device("cpu")


@pytest.mark.parametrize("late", [0, 1, 2])
def test_processes_that_are_started_again_meet_beside_what_the_last_ones_left(late, monkeypatch):
    """In a store that torchrun's agents keep; whoever is late must not take an old answer for a new one."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    store, names = dist.HashStore(), []
    for world in (3, 3, 2):
        with ThreadPoolExecutor(world) as pool:
            waiting = {
                k: pool.submit(distributed._agreed, store, k, world, 20) for k in range(world) if k != late % world
            }
            time.sleep(0.1)
            waiting[late % world] = pool.submit(distributed._agreed, store, late % world, world, 20)
            (name,) = {each.result() for each in waiting.values()}
        names.append(name)
    assert len(set(names)) == 3 and all(names)


def test_one_that_does_not_come_is_told(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    store = dist.HashStore()
    store.set("asks/1", "of an earlier start")
    with pytest.raises(RuntimeError, match="not all have answered"):
        distributed._agreed(store, 0, 2, 0.1)
