"""Draws: of the right distribution, by scipy's tests; functions of seed, row, purpose and call alone."""

import numpy as np
import torch
from scipy import stats

from fastmix.engine.robustness.draws import Draws


def test_distributions():
    draws = Draws(0, np.arange(40), "a")
    u, n = draws.uniform(50, 50).numpy(), draws.normal(51, 49).numpy()
    assert stats.kstest(u.ravel(), "uniform").pvalue > 0.01 and stats.kstest(n.ravel(), "norm").pvalue > 0.01
    assert 0 < u.min() and u.max() < 1
    for place in ((0, 0), (20, 30)):  # over images, too
        many = Draws(1, np.arange(20_000), "a").uniform(30, 40)[:, place[0], place[1]]
        assert stats.kstest(many.numpy(), "uniform").pvalue > 0.01
    whole = draws.whole(-2, 2, 100, 100).numpy()
    assert stats.chisquare(np.unique(whole, return_counts=True)[1]).pvalue > 0.01 and set(whole.flat) == {-2, -1, 0, 1}


def test_images_and_calls_are_not_correlated():
    draws = Draws(0, np.arange(30), "a")
    one, two = draws.uniform(4000).numpy(), draws.uniform(4000).numpy()
    both = np.corrcoef(np.concatenate([one, two]))
    off = both[np.triu_indices(60, 1)]
    assert abs(off).max() < 5 / 4000**0.5 and np.std(off) < 1.1 / 4000**0.5


def test_an_image_has_its_numbers_in_any_batch():
    whole = Draws(7, np.arange(10), "a").normal(3, 5)
    assert torch.equal(Draws(7, np.array([8, 2]), "a").normal(3, 5), whole[[8, 2]])
    for other in (Draws(8, np.arange(10), "a"), Draws(7, np.arange(10), "b")):
        assert not torch.equal(other.normal(3, 5), whole)
    order = Draws(7, np.arange(10), "a").order(9)
    assert torch.equal(order.sort(1).values, torch.arange(9).expand(10, 9)) and len({tuple(row) for row in order}) == 10
