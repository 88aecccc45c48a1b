"""Temperature scaling against scipy's minimiser, autograd and sums by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from fastmix.engine.calibration import PART, ece, fit, nll
from fastmix.engine.reliability import BINS


def drawn(n: int, classes: int = 7, temperature: float = 1.7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax at that temperature."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, classes)) * 3
    gumbel = rng.gumbel(size=z.shape)
    return torch.from_numpy(z).float(), torch.from_numpy((z / temperature + gumbel).argmax(1))


def likelihood(z: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """In numpy, a row at a time."""
    rows = z.double().numpy() / temperature
    losses = [np.log(np.exp(row - row.max()).sum()) + row.max() - row[y] for row, y in zip(rows, labels, strict=True)]
    return float(np.mean(losses))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_where_scipy_finds_the_least_likelihood(temperature):
    z, labels = drawn(500, temperature=temperature)
    found = fit(z, labels)
    theirs = minimize_scalar(lambda t: likelihood(z, labels, np.exp(t)), (-1, 1), tol=1e-12)
    assert found.temperature == pytest.approx(np.exp(theirs.x), rel=1e-5) and found.images == 500
    assert found.nll == (pytest.approx(likelihood(z, labels, 1)), pytest.approx(theirs.fun))


def test_many_labels_tell_the_temperature_that_they_were_drawn_with():
    z, labels = drawn(3 * PART + 5, temperature=1.7)
    found = fit(z, labels)
    assert found.temperature == pytest.approx(1.7, rel=0.05)
    assert found.ece[1] < 0.015 < found.ece[0] and nll(z, labels, 1.7) == pytest.approx(found.nll[1], rel=1e-3)


def test_calibration_error_by_hand():
    z, labels = drawn(400, classes=3)
    shares = torch.softmax(z.double() / 2, 1).numpy()
    error = 0.0
    for k in range(BINS):
        mine = [row for row in range(400) if k / BINS < shares[row].max() <= (k + 1) / BINS]
        if mine:
            right = np.mean([shares[row].argmax() == labels[row] for row in mine])
            error += len(mine) / 400 * abs(right - np.mean([shares[row].max() for row in mine]))
    assert ece(z, labels, 2) == pytest.approx(error, rel=1e-9) and error > 0


def test_what_has_no_temperature_is_said():
    z, _ = drawn(50)
    with pytest.raises(ValueError, match="right in all images"):
        fit(z, z.argmax(1))
    with pytest.raises(ValueError, match="knows nothing"):
        fit(z, z.argmin(1))
    with pytest.raises(ValueError, match="none of its images"):
        fit(z[:0], torch.zeros(0, dtype=torch.long))
