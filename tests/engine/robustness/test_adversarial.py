"""Attacks against the closed forms of a linear network, and bounds on one that is not linear."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fastmix import MIXERS, config
from fastmix.engine.robustness.adversarial import fgsm, judged, length, pgd, random_point
from fastmix.engine.robustness.draws import Draws
from fastmix.engine.robustness.network import Network, pixels
from fastmix.engine.task import Task

STD = (0.2, 0.3, 0.4)


def network(model: nn.Module) -> Network:
    data = config.Data(mean=(0.5, 0.4, 0.3), std=STD)
    return Network(model.eval(), Task(model, MIXERS["vanilla"](), config.Config(precision="fp32", data=data)), 2)


@pytest.fixture(scope="module")
def linear() -> tuple[Network, torch.Tensor]:
    """Two classes, and how their difference grows with each pixel, float [3,8,8]."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    w = (model[1].weight[1] - model[1].weight[0]).detach().view(3, 8, 8) / torch.tensor(STD)[:, None, None]
    return network(model), w


@pytest.fixture(scope="module")
def bent() -> Network:
    torch.manual_seed(1)
    return network(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(288, 5)))


def given(n: int = 6, classes: int = 2, low: int = 0, high: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(low, high, (n, 8, 8, 3)).astype(np.uint8))
    return pixels(images), torch.from_numpy(rng.integers(0, classes, n))


def uphill(w: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The direction in which a linear network's loss grows, [B,3,8,8]."""
    return torch.where(labels[:, None, None, None] == 1, -w, w)


def test_linear_networks_worst_images_are_found(linear):
    seen, w = linear
    x, labels = given()
    for eps in (0, 1 / 255, 8 / 255):
        worst = (x + eps * uphill(w, labels).sign()).clamp(0, 1)
        torch.testing.assert_close(fgsm(seen, x, labels, [eps])[0], worst, rtol=0, atol=1e-6)
        start = Draws(0, np.arange(6), "start") if eps else None
        torch.testing.assert_close(pgd(seen, x, labels, "linf", eps, 10, start), worst, rtol=0, atol=1e-6)


def test_a_linear_networks_worst_image_of_a_round_ball(linear):
    seen, w = linear
    x, labels = given(low=100, high=150)  # far from black and white
    way = uphill(w, labels) / w.norm()
    start = Draws(0, np.arange(6), "start")
    for point in (None, start):  # from anywhere, steps of ten radii in all turn to where one goes straight uphill
        found = pgd(seen, x, labels, "l2", 0.3, 200, point, pace=10)
        torch.testing.assert_close(found, x + 0.3 * way, rtol=0, atol=1e-4)


def test_whatever_the_network_images_stay_in_the_ball_and_the_loss_rises(bent):
    x, labels = given(classes=5)
    fast = [judged(bent, y, labels).detach() for y in fgsm(bent, x, labels, [k / 255 for k in range(9)])]
    assert torch.equal(fast[0], judged(bent, x, labels).detach()), "eps 0 is the clean image"
    loss = torch.stack(fast)[:, :, 1].mean(1)
    assert (loss.diff() > 0).all()
    for norm, eps in (("linf", 8 / 255), ("l2", 0.5)):
        few, many = (pgd(bent, x, labels, norm, eps, steps, None).detach() for steps in (1, 20))
        for y in (few, many):
            size = (y - x).abs().amax((1, 2, 3)) if norm == "linf" else length(y - x).flatten()
            assert (size <= eps * (1 + 1e-5)).all() and y.min() >= 0 and y.max() <= 1
        assert judged(bent, many, labels)[:, 1].mean() > judged(bent, few, labels)[:, 1].mean() > loss[0]
    assert judged(bent, pgd(bent, x, labels, "linf", 8 / 255, 20, None), labels)[:, 1].mean() >= loss[8]


def test_slopes_are_those_of_the_loss_by_the_pixels(bent):
    x, labels = given(classes=5)
    way = torch.from_numpy(np.random.default_rng(1).normal(size=x.shape)).float()
    ends = [judged(bent, x + sign * 1e-2 * way, labels)[:, 1].double() for sign in (1, -1)]
    along = (bent.slope(x, labels) * way).sum((1, 2, 3))
    torch.testing.assert_close(along.double(), (ends[0] - ends[1]).detach() / 2e-2, rtol=0.02, atol=0.02)


def test_starts_are_uniform_in_the_ball():
    x = torch.zeros(400, 3, 2, 2)
    square = random_point("linf", 0.1, x, Draws(0, np.arange(400), "a"))
    assert stats.kstest(square.flatten().numpy() / 0.1, "uniform", (-1, 2)).pvalue > 0.01
    radius = length(random_point("l2", 0.5, x, Draws(0, np.arange(400), "b"))).flatten().numpy() / 0.5
    assert stats.kstest(radius**12, "uniform").pvalue > 0.01 and radius.max() <= 1 + 1e-6
