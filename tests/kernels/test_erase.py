"""Random erasing: where the rectangles lie, what they show."""

from __future__ import annotations

import math
import random
from importlib import import_module

import numpy as np
import torch

from fastmix.kernels.erase import LEVELS, Erase, noise
from fastmix.kernels.mix import mix, reference
from fastmix.kernels.mix.cases import MEAN, STD
from fastmix.kernels.plan import Plan


def test_rectangles_follow_timms_distribution():
    import_module("fastmix.compat")  # before torchvision, which timm imports
    from timm.data.random_erasing import RandomErasing

    n, size = 6000, (48, 64)
    boxes = Erase.draw(np.random.default_rng(0), n, size, 0.25, noise((0, 0, 0), (1, 1, 1))).boxes[:, :4].numpy()
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    erased = height > 0
    assert ((boxes[:, [0, 2]] >= 0) & (boxes[:, [1, 3]] <= size)).all()
    assert abs(erased.mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)

    random.seed(0)  # the generator that timm uses
    theirs = RandomErasing(probability=1.0, mode="const", device="cpu")
    masks = np.empty((1500, *size), bool)
    for mask in masks:
        image = torch.ones(3, *size)
        theirs(image)
        mask[:] = image[0].numpy() == 0
    their_height, their_width = masks.any(2).sum(1), masks.any(1).sum(1)
    from scipy.stats import ks_2samp

    ours = height[erased], width[erased], (height * width)[erased], boxes[erased, 0], boxes[erased, 2]
    corner = masks.any(2).argmax(1), masks.any(1).argmax(1)
    others = their_height, their_width, their_height * their_width, *corner
    for a, b in zip(ours, others, strict=True):
        assert ks_2samp(a, b).pvalue > 1e-3


def test_erased_pixels_are_normal_after_normalising_and_others_unchanged():
    size = (64, 64)
    images = torch.zeros(8, *size, 3, dtype=torch.uint8)
    fill = noise([255 * m for m in MEAN], [255 * s for s in STD])
    erase = Erase.draw(np.random.default_rng(3), 8, size, 1.0, fill)
    clean, got = mix(images, None, MEAN, STD), mix(images, None, MEAN, STD, erase=erase)
    values = []
    for i, (y0, y1, x0, x1, _) in enumerate(erase.boxes.tolist()):
        values.append(got[i, :, y0:y1, x0:x1].flatten(1))
        got[i, :, y0:y1, x0:x1] = clean[i, :, y0:y1, x0:x1]
    assert torch.equal(got, clean)
    from scipy.stats import kstest

    for channel in torch.cat(values, 1):
        assert kstest(channel.numpy(), "norm").pvalue > 1e-3


def test_noise_differs_between_images_channels_and_neighbours():
    boxes = torch.tensor([[0, 64, 0, 64, 1], [0, 64, 0, 64, 2]], dtype=torch.int32)
    images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    out = mix(images, None, (0, 0, 0), (1, 1, 1), erase=Erase(boxes, noise((0, 0, 0), (1, 1, 1)))).numpy()
    pairs = (out[0], out[1]), (out[:, 0], out[:, 1]), (out[..., 1:], out[..., :-1]), (out[:, :, 1:], out[:, :, :-1])
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / math.sqrt(a.size)


def test_noise_is_a_constant_or_whole_numbers_where_asked():
    assert torch.equal(noise((1, 2, 3), (0, 0, 0)), torch.tensor([1.0, 2, 3])[:, None].expand(3, LEVELS))
    whole = noise((128, 0, 255), (58, 57, 56), whole=True)
    assert torch.equal(whole, whole.round()) and whole.min() == 0 and whole.max() == 255
    assert abs(whole[0].mean() - 128) < 0.5


def test_the_noise_of_a_partner_travels_with_it():
    images = torch.full((2, 8, 8, 3), 10, dtype=torch.uint8)
    erase = Erase(torch.tensor([[0, 0, 0, 0, 1], [2, 6, 2, 6, 5]], dtype=torch.int32), noise((200,) * 3, (9,) * 3))
    plan = Plan.box(np.array([1, 1]), 0, 8, 0, 8, (8, 8))
    out = mix(images, plan, MEAN, STD, erase=erase)
    assert torch.equal(out[0], out[1])
    assert (out[0] != mix(images, None, MEAN, STD)[0]).any(0).sum() == 16


def test_what_lies_beside_a_stretched_window_does_not_show():
    fill = torch.full((3, LEVELS), math.inf)
    erase = Erase(torch.tensor([[0, 16, 0, 16, 1], [0] * 5, [0] * 5], dtype=torch.int32), fill)
    plans = [
        Plan.blend(np.array([0, 2, 1]), 0.5),
        Plan.resized(np.array([0, 2, 1]), (2, 9, 2, 9), (4, 8, 5, 9), (16, 16)),
    ]
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
    plan = Plan.select(np.array([0, 1, 1]), plans)
    got, wanted = mix(images, plan, MEAN, STD, erase=erase), reference(images, plan, MEAN, STD, erase=erase)
    assert torch.equal(got[1:], wanted[1:]) and got[1:].isfinite().all()
