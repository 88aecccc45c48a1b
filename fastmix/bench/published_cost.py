"""What the benchmark's CIFAR-100 page prints of the cost of its methods, beside what was measured: both over vanilla.

The page has hours of training and GB of a GPU, at 100 images a step (fastmix/runs/published.py). Only ratios can be
compared: its hardware is not named, its hours hold loading and validation, and its AttentiveMix+, AutoMix and SAMix are
the settings of that page.
"""

from __future__ import annotations

from fastmix.bench.measure import row
from fastmix.runs import published

MODELS = {
    "deit_small_patch16_224": "DeiT-S",
    "swin_tiny_patch4_window7_224": "Swin-T",
    "convnext_tiny_cifar": "ConvNeXt-T",
}
PROVIDER = "openmixup, its page"
PRINTED = {"ms": "hours", "GB": "gigabytes"}  # what stands on the page for a measured unit
UNITS = {"ms": "time of vanilla's", "GB": "memory of vanilla's"}


def beside(rows: list[dict], model: str, device: str = "cpu") -> list[dict]:
    """Two rows for each measured method and unit that the page prints for the model: ours over vanilla, and theirs.

    rows: those of `bench step`, named "MODEL METHOD". Of a model that the page does not have: none.
    """
    printed = {cost.method: cost for cost in published.costs() if cost.backbone == MODELS.get(model)}
    ours = {(r["name"].split()[1], r["unit"]): r for r in rows if r["provider"] == "fastmix"}
    found = []
    for (mix, unit), measured in ours.items():
        theirs = printed.get(published.METHODS.get(mix, ""))
        if theirs is None or mix == "vanilla":
            continue
        first, key = printed["Vanilla"], PRINTED[unit]
        what = measured["shape"], measured["dtype"], UNITS[unit]
        ratio = measured["p50"] / ours["vanilla", unit]["p50"]
        found.append(row("cost", measured["name"], "fastmix", *what, [ratio], device=device))
        ratio = getattr(theirs, key) / getattr(first, key)
        other = row("cost", measured["name"], PROVIDER, *what, [ratio], device=device)
        found.append(other | {"hardware": "not named", "versions": ""})
    return found
