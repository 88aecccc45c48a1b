"""From accuracy at each severity to one number of a corruption, and of all (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost_synthesised": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's mean error over the severities on ImageNet-C, as the authors published it; that of frost on their frost."""
FROSTS = ("frost", "frost_synthesised")
"""Two of one corruption: by the authors' pictures, and by something like them."""


def summary(top1: Mapping[str, list[float]], imagenet: bool) -> dict:
    """Of the top-1 (percent) at the severities of each corruption: `top1` as it was given, their mean, and mean_error.

    imagenet: also ce, the mean error of a corruption over AlexNet's in percent. Where all fifteen are there, mce, the
    mean of all ce, and mce_14, without frost, whose pictures may not be those of the benchmark.
    """
    errors = {name: 100 - fmean(values) for name, values in top1.items()}
    mean = fmean(errors.values())
    found = {"top1": dict(top1), "mean_top1": 100 - mean, "mean_error": mean}
    if imagenet:
        ce = {name: error / ALEXNET[FROSTS[1] if name in FROSTS else name] for name, error in errors.items()}
        found["ce"] = ce
        if len(ce) == len(ALEXNET):
            found["mce"] = fmean(ce.values())
            found["mce_14"] = fmean(ce[name] for name in ce if name not in FROSTS)
    return found
