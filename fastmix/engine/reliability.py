"""How far confidence is from being right: errors over bins of images that a network is about equally sure of.

All take `sure`, the highest probability of each image, float [n], and `right`, whether that class is the label, bool
[n], and give a share from 0 to 1. In a bin, confidence is the mean of `sure` and accuracy the share of `right`.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15  # as in Guo et al. 2017


def expected(sure: Tensor, right: Tensor) -> float:
    """ECE: the mean of |accuracy - confidence| over bins of equal width, weighted by their images (Naeini, Cooper and
    Hauskrecht 2015). The bins are (k/15, (k+1)/15]."""
    return float(_sums(sure, right)[0].abs().sum()) / len(sure)


def largest(sure: Tensor, right: Tensor) -> float:
    """MCE: the largest |accuracy - confidence| of these bins (the same paper)."""
    gaps, images = _sums(sure, right)
    return float((gaps.abs() / images.clamp(min=1)).max())


def adaptive(sure: Tensor, right: Tensor) -> float:
    """The mean of |accuracy - confidence| over bins of equally many images, ordered by confidence (Nguyen and O'Connor
    2015; of the likeliest class only). The first bins have one more where the number is no multiple of 15."""
    order = sure.argsort(stable=True)
    gaps = (sure.double() - right.double())[order].tensor_split(BINS)
    return float(sum(part.sum().abs() for part in gaps)) / len(sure)


def diagram(sure: Tensor, right: Tensor) -> dict[str, list]:
    """Of each of these bins the `images`, and their `confidence` and `accuracy`, None where there are none: what a
    reliability diagram shows (DeGroot and Fienberg 1983)."""
    confidence, accuracy, images = (column.tolist() for column in _totals(sure, right))

    def means(sums: list[float]) -> list[float | None]:
        return [value / n if n else None for value, n in zip(sums, images, strict=True)]

    return {"images": [int(n) for n in images], "confidence": means(confidence), "accuracy": means(accuracy)}


def _sums(sure: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Of each bin the sum of confidence less accuracy, and the number of images, float64 [15]."""
    confidence, accuracy, images = _totals(sure, right)
    return confidence - accuracy, images


def _totals(sure: Tensor, right: Tensor) -> Tensor:
    """Of each bin the sums of confidence and accuracy, and the number of images, float64 [3,15]."""
    bins = (sure.double() * BINS).ceil().long().clamp(1, BINS) - 1
    columns = torch.stack([sure.double(), right.double(), torch.ones(len(sure), dtype=torch.float64)], 1)
    return torch.zeros(BINS, 3, dtype=torch.float64).index_add_(0, bins, columns).T
