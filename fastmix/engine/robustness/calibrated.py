"""Calibration of a network's probabilities, before and after temperature scaling on images that it is not judged by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastmix.engine import calibration, reliability


def scores(z: Tensor, labels: Tensor, seed: int) -> dict:
    """Of logits float32 [n,classes] and labels int64 [n], on the host.

    all: every image, as the network says it. A random half of the images, by the seed, tells the temperature; before
    and after: the other half without and with it. Where none can be fitted, temperature is None and reason says why.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    fitted, judged = order.tensor_split(2)
    found = {"bins": reliability.BINS, "all": errors(z, labels)}
    try:
        t = calibration.fit(z[fitted], labels[fitted]).temperature
    except ValueError as error:
        return found | {"temperature": None, "reason": str(error)}
    z, labels = z[judged], labels[judged]
    return found | {"temperature": t, "before": errors(z, labels), "after": errors(z, labels, t)}


def errors(z: Tensor, labels: Tensor, temperature: float = 1.0) -> dict:
    """ece, mce and adaptive_ece (shares), brier, nll (nats), images and diagram, of softmax(z / temperature)."""
    sure, right = calibration.confidence(z, labels, temperature)
    return {
        "ece": reliability.expected(sure, right),
        "mce": reliability.largest(sure, right),
        "adaptive_ece": reliability.adaptive(sure, right),
        "brier": brier(z, labels, temperature),
        "nll": calibration.nll(z, labels, temperature),
        "images": len(labels),
        "diagram": reliability.diagram(sure, right),
    }


def brier(z: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """The mean over images of sum over classes (p_k - y_k)^2, from 0 to 2 (Brier 1950)."""
    total = 0.0
    for x, y in zip(z.split(calibration.PART), labels.split(calibration.PART), strict=True):
        p = (x.double() / temperature).softmax(1)
        total += float((p.square().sum(1) - 2 * p.gather(1, y[:, None])[:, 0] + 1).sum())
    return total / len(labels)
