"""Curves of made-up logs, against numbers worked by hand and numpy."""

from pathlib import Path

import numpy as np
import pytest

from fastmix import config
from fastmix.runs.curves import curve, names, over_seeds
from fastmix.runs.run_folder import Run


def run(losses: dict[int, float], top1: dict[int, float], seed: int = 0) -> Run:
    """A run of 10 steps an epoch with a training loss at some steps and a top-1 after some epochs."""
    train = [{"kind": "train", "time": 1.0, "step": k, "epoch": k / 10, "loss": v} for k, v in losses.items()]
    val = {e: {"kind": "val", "time": 1.0, "step": 10 * e, "epoch": e, "top1": v} for e, v in top1.items()}
    return Run(Path("r"), config.load("cifar10_quarter", [f"seed={seed}"]), train, val, True, 1.0, [])


def test_an_epoch_has_the_mean_over_its_steps():
    """Lines every 4 steps and at the end of an epoch: 4, 8, 10, 12, 16, 20 tell of 4, 4, 2, 2, 4, 4 steps."""
    found = curve(run({4: 5.0, 8: 4.0, 10: 1.0, 12: 7.0, 16: 3.0, 20: 2.0}, {}), "train/loss")
    assert found.epochs == [1, 2]
    assert found.values == [pytest.approx((4 * 5 + 4 * 4 + 2 * 1) / 10), pytest.approx((2 * 7 + 4 * 3 + 4 * 2) / 10)]


def test_steps_trained_again_count_once_and_the_later_line_does():
    log = run({5: 9.0, 10: 8.0, 15: 7.0}, {})
    again = run({10: 4.0, 15: 3.0, 20: 1.0}, {}).train
    log.train += again
    assert curve(log, "train/loss") == ([1, 2], [6.5, 2.0])


def test_epochs_come_in_order_and_without_those_that_have_no_number():
    log = run({10: 1.0}, {10: 60.0, 5: 50.0, 15: float("nan")})
    log.val[5]["ema_top1"] = 55.0
    assert curve(log, "val/top1") == ([5, 10], [50.0, 60.0])
    assert curve(log, "val/ema_top1") == ([5], [55.0]) and curve(log, "val/none") == ([], [])
    assert names([log]) == ["train/loss", "val/top1", "val/ema_top1"]


def test_mean_and_deviation_are_numpys_at_the_epochs_of_all():
    rng = np.random.default_rng(0)
    values = [{e: float(rng.uniform(40, 80)) for e in range(1, last + 1)} for last in (6, 4, 5)]
    band = over_seeds([run({10: 1.0}, top1, seed) for seed, top1 in enumerate(values)], "val/top1")
    table = np.array([[top1[e] for e in (1, 2, 3, 4)] for top1 in values])
    assert band.epochs == [1, 2, 3, 4] and band.n == 3
    np.testing.assert_allclose(band.mean, table.mean(0), rtol=1e-12)
    np.testing.assert_allclose(band.std, table.std(0, ddof=1), rtol=1e-12)
    alone = over_seeds([run({}, values[1])], "val/top1")
    assert alone.mean == [*values[1].values()] and alone.std == [] and alone.n == 1
    with pytest.raises(ValueError, match="no runs"):
        over_seeds([], "val/top1")


def test_windows_are_means_of_the_epochs_in_them():
    a, b = ({e: float(e * e + seed * e) for e in range(1, 8)} for seed in range(2))
    band = over_seeds([run({}, a), run({}, b, 1)], "val/top1", every=3)
    wanted = np.array([[np.mean([top1[e] for e in some]) for some in ((1, 2, 3), (4, 5, 6), (7,))] for top1 in (a, b)])
    assert band.epochs == [3, 6, 7]
    np.testing.assert_allclose(band.mean, wanted.mean(0), rtol=1e-12)
    np.testing.assert_allclose(band.std, wanted.std(0, ddof=1), rtol=1e-12)
