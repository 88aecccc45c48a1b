"""Patches that are gone or moved, against loops; saliency on a network that looks at one place."""

import numpy as np
import torch
from torch import nn

from fastmix import MIXERS, config
from fastmix.engine.robustness import patches
from fastmix.engine.robustness.draws import Draws
from fastmix.engine.robustness.network import Network
from fastmix.engine.task import Task


def images(n: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 256, (n, size, size, 3)).astype(np.uint8))


def test_patches_go_in_their_order():
    given, order = images(3, 37), Draws(0, np.arange(3), "a").order(64)  # 37 pixels are no whole patches of 8
    for ratio in (0.1, 0.5, 0.9):
        found = patches.dropped(given, order, ratio)
        for k in range(3):
            gone = set(order[k, : round(ratio * 64)].tolist())
            for y, x in np.ndindex(37, 37):
                patch = y * 8 // 37 * 8 + x * 8 // 37
                assert (found[k, y, x] == (0 if patch in gone else given[k, y, x])).all()


def test_shuffled_parts_are_those_of_the_image():
    given = images(4, 32)
    for parts in patches.grids(32):
        found = patches.shuffled(given, parts, Draws(0, np.arange(4), "a"))
        side, moved = 32 // parts, 0
        for k in range(4):
            cut = [
                {
                    image[y : y + side, x : x + side].numpy().tobytes(): (y, x)
                    for y in range(0, 32, side)
                    for x in range(0, 32, side)
                }
                for image in (given[k], found[k])
            ]
            assert cut[0].keys() == cut[1].keys()
            moved += cut[0] != cut[1]
        assert moved >= 3
    assert patches.grids(224) == [2, 4, 8, 14] and patches.grids(299) == []


class Corner(nn.Module):
    """Logits of the mean of the pixels of rows 8 to 15 and columns 16 to 23 alone."""

    def forward(self, x):
        seen = x[:, :, 8:16, 16:24].mean((1, 2, 3))
        return torch.stack([seen, -seen], 1)


def test_what_the_network_looks_at_is_salient():
    data = config.Data(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    task = Task(Corner(), MIXERS["vanilla"](), config.Config(precision="fp32", data=data))
    given = images(2, 64)  # patches of 8 pixels
    salient = patches.saliency(Network(task.model.eval(), task, 2), given)
    assert salient.argmax(1).tolist() == [10, 10] and (salient > 0).sum() == 2
    draws = Draws(0, np.arange(2), "a")
    first = {kind: patches.ranking(kind, salient, draws, 64)[:, 0].tolist() for kind in patches.KINDS}
    last = patches.ranking("non_salient", salient, draws, 64)[:, -1].tolist()
    assert first["salient"] == last == [10, 10] and first["non_salient"] != [10, 10]
    gone = patches.dropped(given, patches.ranking("salient", salient, draws, 64), 1 / 64)
    assert not gone[:, 8:16, 16:24].any() and gone[:, :8].all()
