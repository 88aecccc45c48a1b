"""Whether two methods differ, from what they say of the same images: tests of pairs and of seeds, an interval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from fastmix.runs import each_image
from fastmix.runs.run_folder import Run

RESAMPLES = 2000
LEVEL = 95  # percent, of the interval
FEWEST = 3  # seeds of each, from which on a test of them can say anything: with 3 p is at least 2 / 20


def mcnemar(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """McNemar's test of two runs' hits, bool [n], of the same images (McNemar 1947; mid-p: Fagerland et al. 2013).

    only_a, only_b: images that one alone has right; exact: twice the binomial tail of the smaller of half of them, at
    most 1; mid_p: that less the probability of just this number, which is less cautious and closer to the level.
    """
    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    n, few = first + second, min(first, second)
    below, here = 0, 1  # of the 2^n ways, those with fewer than `few`, and just so many
    for k in range(few):
        below, here = below + here, here * (n - k) // (k + 1)
    exact = min(2 * (below + here), 1 << n)
    return {"only_a": first, "only_b": second, "exact": exact / (1 << n), "mid_p": (2 * below + here) / (1 << n)}


def interval(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The middle LEVEL percent of mean(a) - mean(b) over resamples of the images, the same ones of both, and, where a
    method has several, of its seeds (a bootstrap of percentiles, Efron 1979). a, b: hits [seeds,n]."""
    rng, n = np.random.default_rng(seed), a.shape[1]
    found = []
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, n, n), minlength=n) / n
        means = (hits[rng.integers(0, len(hits), len(hits))].mean(0) @ weights for hits in (a, b))
        found.append(float(np.subtract(*means)))
    low, high = np.percentile(found, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def over_seeds(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The share of all ways to call len(a) of the runs the first method's in which the means differ as much as they do
    (Fisher's permutation test, exact, two-sided); None below FEWEST seeds of each."""
    if min(len(a), len(b)) < FEWEST:
        return None
    both = np.array([*a, *b])
    total, k, rest = both.sum(), len(a), len(b)

    def distance(one: float) -> float:
        return abs(one / k - (total - one) / rest)

    least = distance(sum(a)) * (1 - 1e-12)
    ways = [distance(both[list(mine)].sum()) >= least for mine in combinations(range(len(both)), k)]
    return sum(ways) / len(ways)


def compare(found: Sequence[Run]) -> list[str]:
    """Lines on two methods, or on two runs of one, from what lies in their folders.

    Raises ValueError where they are not two, or were not measured on the same images.
    """
    groups: dict[str, list[Run]] = {}
    for run in found:
        groups.setdefault(run.cfg.mix if len(found) != 2 else str(run.folder), []).append(run)
    if len(groups) != 2:
        raise ValueError(f"--compare takes two runs, or the runs of two methods, not of {', '.join(groups)}")
    each = {run.folder: each_image.read(run.folder) for run in found}
    first = each[found[0].folder]
    for folder, other in each.items():
        if not (np.array_equal(first.rows, other.rows) and np.array_equal(first.labels, other.labels)):
            raise ValueError(f"{found[0].folder} and {folder} were not measured on the same images")
    hits = [np.stack([each[run.folder].hits for run in runs]) for runs in groups.values()]
    means = [100 * part.mean() for part in hits]
    low, high = (100 * end for end in interval(*hits))
    sizes = [f"{len(part)} runs" if len(part) > 1 else "1 run" for part in hits]
    lines = [f"{name}: top-1 {mean:.2f} % ({size})" for name, mean, size in zip(groups, means, sizes, strict=True)]
    lines.append(
        f"difference: {means[0] - means[1]:+.2f} points, {LEVEL} % interval {low:+.2f} to {high:+.2f} ({RESAMPLES} "
        f"resamples of {len(first.rows)} images{' and of the runs' * (len(found) > 2)})"
    )
    for a, b in _pairs(*groups.values()):
        test = mcnemar(each[a.folder].hits, each[b.folder].hits)
        only = f"{test['only_a']} images right in {a.folder} alone, {test['only_b']} in {b.folder} alone"
        lines.append(f"McNemar: {only}: p = {test['exact']:.3g} (exact), {test['mid_p']:.3g} (mid-p)")
    p = over_seeds(*(part.mean(1).tolist() for part in hits))
    if p is not None:
        lines.append(f"permutations of the runs: p = {p:.3g}")
    return lines


def _pairs(a: list[Run], b: list[Run]) -> list[tuple[Run, Run]]:
    """The two runs, or those of one seed."""
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    by_seed = {run.cfg.seed: run for run in b}
    return [(run, by_seed[run.cfg.seed]) for run in a if run.cfg.seed in by_seed]
