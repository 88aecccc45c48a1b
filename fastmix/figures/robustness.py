"""What fastmix.robustness measured: a reliability diagram, and top-1 over corruption, attack, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from fastmix.figures.banded import banded
from fastmix.figures.groups import Group
from fastmix.figures.style import BLACK
from fastmix.runs.curves import Band
from fastmix.runs.robustness_file import FILE, pgd_name, read

FAMILIES = {  # of Hendrycks and Dietterich 2019; frost is one of two
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "frost_synthesised", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
KINDS = {"random": "random", "salient": "salient", "non_salient": "not salient"}
GRIDS = (1, 2, 4, 8, 14)
FEWEST = 10
"""Images of a bin that is drawn."""

Measured = Sequence[tuple[Group, list[dict]]]
"""Groups, and the files of those of their runs that were measured."""


def draw(groups: Sequence[Group]) -> dict[str, tuple[Figure | None, str]]:
    """The figures by name; where there are none of a test, None, and why. Raises ValueError for other files."""
    files = [(group, [read(run.folder / FILE) for run in group.runs]) for group in groups]
    measured = [(group, found) for group, some in files if (found := [one for one in some if one])]
    if not measured:
        return {"robustness": (None, f"no {FILE} in the run folders (fastmix.robustness RUN)")}
    top1 = partial(_curves, measured)
    occlusion = {
        f"occlusion_{kind}": top1(partial(_occlusion, kind), f"% of patches missing, {name}")
        for kind, name in KINDS.items()
    }
    ticks = {"xticks": range(len(GRIDS)), "xticklabels": ["whole", *(f"{g}x{g}" for g in GRIDS[1:])]}
    figures = {}
    for test, some in {
        "ece": {"reliability": reliability(measured)},
        "corruptions": _corruptions(measured),
        "fgsm": {"fgsm": top1(_fgsm, "FGSM, eps in levels of 255")},
        "pgd": _pgds(measured),
        "occlusion": occlusion,
        "shuffle": {"shuffle": top1(_shuffle, "parts in random order", **ticks)},
    }.items():
        drawn = {name: (figure, "") for name, figure in some.items() if figure}
        why = f"{FILE} has not what it shows (fastmix.robustness RUN --tests {test})"
        figures |= drawn or {next(iter(some), test): (None, why)}
    return figures


def reliability(measured: Measured) -> Figure | None:
    """The share of right images of each bin over its mean confidence, in percent, of all runs' images together. A
    network that is as sure as it is right is on the dotted line. Bins of fewer than FEWEST images are left out."""
    shown = []
    for group, some in measured:
        bins = [ece["all"]["diagram"] for found in some if "diagram" in (ece := found.get("ece", {"all": {}}))["all"]]
        if not bins:
            continue
        images = np.array([one["images"] for one in bins])
        means = [np.array([one[key] for one in bins], float) for key in ("confidence", "accuracy")]  # None: nan
        count = images.sum(0)
        confidence, accuracy = (
            100 * np.nansum(images * mean, 0)[count >= FEWEST] / count[count >= FEWEST] for mean in means
        )
        if len(confidence):
            shown.append((group, Band(confidence.tolist(), accuracy.tolist(), [], len(bins))))
    if not shown:
        return None
    axes = banded(shown, xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(0, 103), ylim=(0, 103))
    axes.plot([0, 100], [0, 100], color=BLACK, linewidth=0.6, linestyle=":", zorder=0, label="_as sure as right")
    return axes.figure


def _curves(
    measured: Measured, of: Callable[[Mapping], dict[float, float]], xlabel: str, ylabel: str = "top-1 (%)", **words
) -> Figure | None:
    """The means over seeds of what `of` tells of a file, by x; of the x that all seeds have."""
    shown = []
    for group, some in measured:
        told = [points for found in some if (points := of(found))]
        if xs := sorted(set.intersection(*map(set, told))) if told else []:
            values = np.array([[points[x] for x in xs] for points in told])
            std = values.std(0, ddof=1).tolist() if len(told) > 1 else []
            shown.append((group, Band(xs, values.mean(0).tolist(), std, len(told))))
    return banded(shown, xlabel=xlabel, ylabel=ylabel, **words).figure if shown else None


def _corruptions(measured: Measured) -> dict[str, Figure | None]:
    """Over severities, 0 being the clean images: the mean over the corruptions that all have, and over families."""
    common = [{*found["corruptions"]["top1"]} for _, some in measured for found in some if "corruptions" in found]
    names = set.intersection(*common) if common else set()

    def mean(members: set[str]) -> Callable[[Mapping], dict[float, float]]:
        def points(found: Mapping) -> dict[float, float]:
            if "corruptions" not in found:
                return {}
            top1 = np.mean([found["corruptions"]["top1"][name] for name in sorted(members)], 0)
            return {0: found["clean"]["top1"]} | dict(enumerate(top1.tolist(), 1))

        return points

    parts = {"corruptions": (names, f"severity, {len(names)} corruption{'s' * (len(names) > 1)}")}
    parts |= {f"corruptions_{one}": (names & {*of}, f"severity, {one}") for one, of in FAMILIES.items()}
    return {
        key: _curves(measured, mean(of), xlabel, xticks=range(6)) if of else None for key, (of, xlabel) in parts.items()
    }


def _fgsm(found: Mapping) -> dict[float, float]:
    fgsm = found.get("fgsm", {"eps_levels": [], "top1": []})
    return dict(zip(fgsm["eps_levels"], fgsm["top1"], strict=True))


def _pgds(measured: Measured) -> dict[str, Figure | None]:
    """Of each number of steps and restarts, over the radii of each norm; at 0 the clean images."""
    units = {"linf": "levels of 255", "l2": "pixels of [0,1]"}
    figures = {}

    def points(found: Mapping, head: str, norm: str) -> dict[float, float]:
        if (pgd := found.get("pgd")) is None or pgd_name(pgd) != head:
            return {}
        balls = zip(pgd["norm"], pgd["eps"], pgd["top1"], strict=True)
        attacked = {eps: top1 for one, eps, top1 in balls if one == norm}
        return {0: found["clean"]["top1"]} | attacked if attacked else {}

    for head in sorted({pgd_name(found["pgd"]) for _, some in measured for found in some if "pgd" in found}):
        for norm, unit in units.items():
            xlabel = f"PGD-{head.removeprefix('pgd')} {norm}, eps in {unit}"
            figures[f"{head}_{norm}"] = _curves(measured, partial(points, head=head, norm=norm), xlabel)
    return figures


def _occlusion(kind: str, found: Mapping) -> dict[float, float]:
    if "occlusion" not in found:
        return {}
    gone = found["occlusion"]
    shares = (round(100 * share, 6) for share in gone["dropped"])
    return {0: found["clean"]["top1"]} | dict(zip(shares, gone["top1"][kind], strict=True))


def _shuffle(found: Mapping) -> dict[float, float]:
    """By the place of the grid among GRIDS."""
    if "shuffle" not in found:
        return {}
    places = map(GRIDS.index, found["shuffle"]["parts_a_side"])
    return {0: found["clean"]["top1"]} | dict(zip(places, found["shuffle"]["top1"], strict=True))
