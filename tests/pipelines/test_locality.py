"""data.locality=shard: each machine shows the images of its own shards, in the epoch's order, cropped as everywhere."""

import numpy as np
import pytest
import torch

from fastmix import config
from fastmix.engine import loaders
from fastmix.pipelines import sampling
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.packing.layouts import scan
from fastmix.pipelines.packing.sharding import cut, pack_shards
from fastmix.pipelines.view import View
from helpers.loading import copies, equal, image_folder

N, SHARDS, SEED = 60, 5, 7
VIEW = View(16, flip=0.5)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    pack_shards(scan(image_folder(folder / "in", N)), folder / "x.beton", SHARDS, workers=1)
    return str(folder / "x-*.beton")


def loader(source: str, rank: int = 0, machines: int = 2, world: int = 4, batch: int = 3, **options) -> Beton:
    options = {"view": VIEW, "train": True, "seed": SEED, "workers": 1} | options
    return Beton(source, batch, rank=rank, world=world, machines=machines, **options)


def test_machines_show_their_own_shards_in_the_order_of_the_epoch(source):
    rows = cut(N, SHARDS)
    for epoch in range(2):
        order, shown = sampling.order(N, SEED, epoch).tolist(), []
        for machine in range(2):
            own = [row for row in order if any(row in rows[k] for k in range(machine, SHARDS, 2))]
            entries = [loader(source, 2 * machine + local).entries(epoch)[0] for local in range(2)]
            told = np.stack(entries, 1).reshape(-1).tolist()  # by steps, then processes
            assert told == own[: len(told)] and len(told) == 4 * 6  # of the 24 images of the machine that has fewer
            shown += told
        assert len(set(shown)) == len(shown) == 48


def test_each_image_is_cropped_as_without_and_epochs_go_on_where_they_were(source):
    everywhere = loader(source, machines=1, world=1, batch=1)
    images = {
        int(row): images for (images, _, _), row in zip(copies(everywhere.epoch(1)), everywhere.order(1), strict=True)
    }
    for rank in (0, 3):
        mine = loader(source, rank)
        batches, entries = copies(mine.epoch(1)), mine.entries(1)[0]
        assert len(batches) == len(mine) == 4
        for (batch, labels, valid), rows in zip(batches, entries, strict=True):
            assert torch.equal(batch, torch.cat([images[int(row)] for row in rows])) and valid.all()
            assert labels.tolist() == everywhere.labels[rows].tolist()
        assert equal(batches[2:], copies(mine.epoch(1, first=2)))


def test_one_machine_is_no_departure(source):
    alone = loader(source, 1, machines=1)
    assert (alone.entries(1)[0] == sampling.shard(sampling.order(N, SEED, 1), 3, 1, 4, True)[0]).all()


def test_what_cannot_be_is_one_line(source):
    for words, how in {
        "5 shards for 6 machines": {"machines": 6, "world": 6},
        "4 processes cannot train on 3 machines": {"machines": 3},
        "data.repeats=1 and data.balance=none": {"repeats": 2},
        "fewer images than its batches take": {"world": 2, "batch": 25},
    }.items():
        with pytest.raises(ValueError, match=words):
            loader(source, **how)


def test_the_config_counts_machines_as_the_launcher_tells(source, monkeypatch):
    words = [f"data.train={source}", "data.val=shapes:val", "data.locality=shard", "batch_total=8", "data.size=16"]
    cfg = config.from_tree(config.over({}, [*words, "data.val_resize=null"]), "x")
    assert loaders.training(cfg, torch.device("cpu")).machines == 1
    monkeypatch.setattr(loaders, "world", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert loaders.training(cfg, torch.device("cpu")).machines == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="as many processes on each machine, not 4 by 3 on one"):
        loaders.training(cfg, torch.device("cpu"))
    cfg.data.loader = "resident"
    with pytest.raises(ValueError, match="data.locality=shard is the loader beton's, not that of data.loader=resident"):
        loaders.training(cfg, torch.device("cpu"))
