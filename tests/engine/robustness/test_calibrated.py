"""Calibration errors against sums in float64, one image after another, and torchmetrics where it is installed."""

import numpy as np
import pytest
import torch

from fastmix.engine import calibration, reliability
from fastmix.engine.robustness import calibrated, corruption_error

N, CLASSES = 1003, 6


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are too sure of themselves by a factor of 2."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(N, CLASSES)) * 2
    labels = (z / 2 + rng.gumbel(size=z.shape)).argmax(1)
    return torch.from_numpy(z).float(), torch.from_numpy(labels)


def shares(z: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    e = np.exp(z.double().numpy() / temperature)
    return e / e.sum(1, keepdims=True)


def test_errors_by_hand(drawn):
    z, labels = drawn
    p, y = shares(z, 1.3), labels.numpy()
    sure, right = p.max(1), p.argmax(1) == y
    gaps, weights = [], []
    for k in range(15):
        mine = (sure > k / 15) & (sure <= (k + 1) / 15)
        if mine.any():
            gaps.append(abs(right[mine].mean() - sure[mine].mean()))
            weights.append(mine.sum() / N)
    order, first, adaptive = sorted(range(N), key=lambda k: sure[k]), 0, 0.0
    for k in range(15):
        count = N // 15 + (k < N % 15)
        mine = order[first : first + count]
        adaptive += count / N * abs(right[mine].mean() - sure[mine].mean())
        first += count
    found = calibrated.errors(z, labels, 1.3)
    assert found["ece"] == pytest.approx(np.dot(gaps, weights), abs=1e-12)
    assert found["mce"] == pytest.approx(max(gaps), abs=1e-12)
    assert found["adaptive_ece"] == pytest.approx(adaptive, abs=1e-12)
    bins = found["diagram"]
    assert sum(bins["images"]) == N and len(bins["images"]) == 15
    assert bins["confidence"][0] is None, "of six classes the likeliest has more than 1/15"
    for k, n in enumerate(bins["images"]):
        mine = (sure > k / 15) & (sure <= (k + 1) / 15)
        assert n == mine.sum()
        if n:
            assert bins["confidence"][k] == pytest.approx(sure[mine].mean(), abs=1e-12)
            assert bins["accuracy"][k] == pytest.approx(right[mine].mean(), abs=1e-12)
    assert found["brier"] == pytest.approx(((p - np.eye(CLASSES)[y]) ** 2).sum(1).mean(), abs=1e-12)
    assert found["nll"] == pytest.approx(-np.log(p[np.arange(N), y]).mean(), abs=1e-12) and found["images"] == N


@pytest.mark.parametrize("norm, of", [("l1", reliability.expected), ("max", reliability.largest)])
def test_errors_are_torchmetrics(drawn, norm, of):
    classification = pytest.importorskip("torchmetrics.functional.classification")
    z, labels = drawn
    theirs = classification.multiclass_calibration_error(z.softmax(1), labels, CLASSES, n_bins=15, norm=norm)
    assert of(*calibration.confidence(z, labels)) == pytest.approx(theirs.item(), abs=1e-6)


def test_half_of_the_images_tells_the_temperature_of_the_other(drawn):
    z, labels = drawn
    found = calibrated.scores(z, labels, 3)
    order = np.random.default_rng(3).permutation(N)
    fitted, judged = order[: (N + 1) // 2], order[(N + 1) // 2 :]
    t = calibration.fit(z[fitted], labels[fitted]).temperature
    assert found["temperature"] == t and 1.5 < t < 2.6
    assert found["after"] == calibrated.errors(z[judged], labels[judged], t)
    assert found["before"]["images"] == len(judged) and found["all"]["images"] == N
    for name in ("ece", "adaptive_ece", "brier", "nll"):
        assert found["after"][name] < found["before"][name]


def test_without_mistakes_there_is_no_temperature():
    found = calibrated.scores(torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5), 0)
    assert found["temperature"] is None and "right in all" in found["reason"] and "after" not in found


def test_alexnet_is_the_measure():
    """Its own errors make 100 %, half of each 50 %; frost counts in mce alone."""
    top1 = {
        name: [100 - 100 * error + s for s in (-2, -1, 0, 1, 2)] for name, error in corruption_error.ALEXNET.items()
    }
    found = corruption_error.summary(top1, True)
    assert found["mce"] == pytest.approx(100) and found["mce_14"] == pytest.approx(100)
    assert found["mean_error"] == pytest.approx(100 * np.mean([*corruption_error.ALEXNET.values()]))
    half = {name: [100 - 50 * error] * 5 for name, error in corruption_error.ALEXNET.items()}
    half["frost_synthesised"] = top1["frost_synthesised"]
    found = corruption_error.summary(half, True)
    assert found["mce_14"] == pytest.approx(50) and found["mce"] == pytest.approx((14 * 50 + 100) / 15)
    half["frost"] = half.pop("frost_synthesised")  # by the authors' pictures: in its place
    assert corruption_error.summary(half, True) == {
        key: {("frost" if k == "frost_synthesised" else k): v for k, v in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in found.items()
    }
    assert "mce" not in corruption_error.summary({"snow": [50.0] * 5}, True)
    assert "ce" not in corruption_error.summary(half, False)
