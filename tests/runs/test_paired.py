"""Paired tests and intervals against scipy's, and the words of a comparison."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from fastmix.runs import paired
from fastmix.runs.each_image import EachImage, read


def hits(b: int, c: int, both: int = 40, none: int = 10) -> tuple[np.ndarray, np.ndarray]:
    table = np.repeat([[1, 0], [0, 1], [1, 1], [0, 0]], [b, c, both, none], 0).astype(bool)
    return tuple(np.random.default_rng(0).permutation(table).T)


@pytest.mark.parametrize("b, c", [(0, 0), (3, 0), (5, 5), (17, 30), (900, 1010), (12000, 11500)])
def test_mcnemar_is_scipys_binomial_test(b, c):
    found = paired.mcnemar(*hits(b, c))
    assert (found["only_a"], found["only_b"]) == (b, c)
    exact = stats.binomtest(b, b + c).pvalue if b + c else 1
    assert found["exact"] == pytest.approx(exact, rel=1e-9)
    here = stats.binom.pmf(min(b, c), b + c, 0.5)
    assert found["mid_p"] == pytest.approx(2 * stats.binom.cdf(min(b, c) - 1, b + c, 0.5) + here, rel=1e-9)


def test_an_interval_is_scipys_bootstrap():
    a, b = hits(60, 30, 200, 100)
    low, high = paired.interval(a[None], b[None])
    difference = a.astype(float) - b
    theirs = stats.bootstrap((difference,), np.mean, n_resamples=9999, method="percentile", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert abs(low - theirs.low) < 0.08 * width and abs(high - theirs.high) < 0.08 * width
    assert paired.interval(a[None], b[None]) == (low, high), "the same again"


def test_an_interval_over_seeds_is_wider_by_what_the_seeds_add():
    rng = np.random.default_rng(2)
    rates = np.array([0.5, 0.6, 0.7, 0.8])
    a = rng.random((4, 500)) < rates[:, None]
    b = rng.random((4, 500)) < 0.5
    low, high = paired.interval(a, b)
    spread = (a.mean(1).var() / 4 + b.mean(1).var() / 4 + (a.mean(0) - b.mean(0)).var() / 500) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_seeds_are_scipys_permutations():
    rng = np.random.default_rng(3)
    for sizes, shift in (((3, 3), 0.0), ((4, 3), 1.0), ((5, 5), 2.0)):
        a, b = rng.normal(shift, 1, sizes[0]), rng.normal(0, 1, sizes[1])
        theirs = stats.permutation_test((a, b), lambda x, y: abs(x.mean() - y.mean()), alternative="greater").pvalue
        assert paired.over_seeds(a.tolist(), b.tolist()) == pytest.approx(theirs, abs=1e-12)
    assert paired.over_seeds([1, 2], [3, 4, 5]) is None


def run(folder: Path, mix: str, seed: int, right: np.ndarray) -> SimpleNamespace:
    folder.mkdir()
    labels = np.arange(len(right)) % 5
    each = EachImage(np.arange(len(right)), labels, np.where(right, labels, (labels + 1) % 5))
    (folder / "each.csv").write_text(each.text())
    return SimpleNamespace(folder=folder, cfg=SimpleNamespace(mix=mix, seed=seed))


def test_comparisons(tmp_path):
    rng = np.random.default_rng(4)
    methods = [("a", 0.8), ("b", 0.6)]
    runs = [run(tmp_path / f"{mix}{k}", mix, k, rng.random(300) < p) for mix, p in methods for k in range(3)]
    assert (read(runs[0].folder).hits.mean() > 0.7) and len(read(runs[0].folder).rows) == 300
    pair = paired.compare([runs[0], runs[3]])
    assert len(pair) == 4 and "difference: +" in pair[2] and pair[3].startswith("McNemar") and "300 images)" in pair[2]
    both = paired.compare(runs)
    assert both[0].startswith("a: top-1") and sum(line.startswith("McNemar") for line in both) == 3
    assert both[-1] == "permutations of the runs: p = 0.1", "two of the twenty splits are so uneven"
    with pytest.raises(ValueError, match="takes two runs, or the runs of two methods, not of a$"):
        paired.compare(runs[:3])
    other = run(tmp_path / "short", "b", 0, rng.random(200) < 0.5)
    with pytest.raises(ValueError, match="were not measured on the same images"):
        paired.compare([runs[0], other])
    (other.folder / "each.csv").write_text("row,label\n1,2\n")
    with pytest.raises(ValueError, match="not a table of row, label, class"):
        paired.compare([runs[0], other])
    (other.folder / "each.csv").unlink()
    with pytest.raises(ValueError, match="no each.csv; `python -m fastmix.robustness"):
        paired.compare([runs[0], other])
