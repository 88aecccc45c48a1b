"""The grid cut against brute force, scipy's minimum cut, gco's alpha-beta swaps and its own implementations."""

from itertools import product

import numpy as np
import pytest
import torch

from fastmix.kernels.gridcut import CASES, energy, gridcut, is_small, reference
from fastmix.kernels.gridcut.cases import Case
from fastmix.kernels.gridcut.gpu import build
from helpers.waiting import no_waits


def energies(labels: np.ndarray, unary, down, right) -> np.ndarray:
    """Of labellings [..., gh, gw], all for one sample, cell by cell and edge by edge in float64."""
    unary, down, right = (np.asarray(v, np.float64) for v in (unary, down, right))
    total, scale = 0.0, (len(unary) - 1) ** 2
    for y, x in np.ndindex(unary.shape[1:]):
        total = total + unary[labels[..., y, x], y, x]
        if y:
            total = total + down[y - 1, x] * (labels[..., y, x] - labels[..., y - 1, x]) ** 2 / scale
        if x:
            total = total + right[y, x - 1] * (labels[..., y, x] - labels[..., y, x - 1]) ** 2 / scale
    return total


def least(unary, down, right, **_) -> np.ndarray:
    """The energies of the best labellings, by trying all."""
    labels, rows, columns = unary.shape[1:]
    every = np.array(list(product(range(labels), repeat=rows * columns))).reshape(-1, rows, columns)
    return np.array([energies(every, *sample).min() for sample in zip(unary, down, right, strict=True)])


def cost(arguments: dict, **changes) -> np.ndarray:
    """The energies of what gridcut finds."""
    labels = gridcut(**arguments | changes)
    assert labels.dtype == torch.int32 and labels.min() >= 0 and labels.max() < arguments["unary"].shape[1]
    return energy(labels, *(arguments[name] for name in ("unary", "down", "right"))).numpy()


def puzzles(n: int, side: int, labels: int = 3, seed: int = 0) -> dict:
    """Energies as PuzzleMix has them: blobs of saliency, a binomial prior, beta 1.2, gamma 0.5, eta 0.2."""
    rng = np.random.default_rng(seed)
    place = (np.arange(8 * side) + 0.5) / (8 * side)
    hills = 0.08
    for _ in range(3):
        y, x = rng.uniform(0.15, 0.85, (2, n, 1, 1))
        width = rng.uniform(0.06, 0.25, (n, 1, 1))
        distance = (place[:, None] - y) ** 2 + (place - x) ** 2
        hills = hills + rng.random((n, 1, 1)) * np.exp(-distance / (2 * width**2))
    saliency = (hills * abs(rng.standard_normal(hills.shape))).reshape(n, side, 8, side, 8).mean((2, 4))
    own = saliency / saliency.sum((1, 2), keepdims=True)
    other = np.roll(own, 1, 0)
    base, share = 1.2 / (16 * side), rng.random((n, 1, 1))
    unary = []
    for label in range(labels):
        t = label / (labels - 1)
        prior = -np.log([1, 2, 1][label] * share ** (2 - label) * (1 - share) ** label + 1e-8)
        unary.append((1 - t) * other + t * own + 0.2 / side**2 * prior)
    down = base * (1 + 0.5 * rng.uniform(-0.1, 0.5, (n, side - 1, side)))
    right = base * (1 + 0.5 * rng.uniform(-0.1, 0.5, (n, side, side - 1)))
    arrays = {"unary": np.stack(unary, 1), "down": down, "right": right}
    return {name: torch.from_numpy(array).float() for name, array in arrays.items()}


# ---- how low the energy is ----


@pytest.mark.parametrize("coupling", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("labels,grid", [(3, (2, 2)), (2, (3, 3)), (4, (2, 2)), (3, (3, 2)), (2, (2, 4))])
def test_brute_force_finds_nothing_lower(labels, grid, coupling):
    arguments = Case(1000, labels, grid, coupling).arguments()
    lowest = least(**arguments)
    np.testing.assert_allclose(cost(arguments, exact=True), lowest, rtol=1e-6)
    annealed = cost(arguments, exact=False)
    assert annealed.mean() <= 1.01 * lowest.mean()
    assert (annealed <= 1.01 * lowest).mean() >= 0.98


def test_with_two_labels_it_is_scipys_minimum_cut():
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_flow

    arguments = Case(6, 2, (8, 8), 0.4).arguments(seed=3)
    unary, down, right = (
        np.rint(1e6 * arguments[name].numpy()).astype(np.int64) for name in ("unary", "down", "right")
    )
    place, source, sink = np.arange(64).reshape(8, 8), 64, 65
    flows = []
    for sample in range(6):
        vertical = place[:-1].ravel(), place[1:].ravel(), down[sample].ravel()
        across = place[:, :-1].ravel(), place[:, 1:].ravel(), right[sample].ravel()
        first, second, weight = (np.concatenate(pair) for pair in zip(vertical, across, strict=True))
        tail = np.concatenate([first, second, np.full(64, source), place.ravel()])
        head = np.concatenate([second, first, place.ravel(), np.full(64, sink)])
        size = np.concatenate([weight, weight, unary[sample, 1].ravel(), unary[sample, 0].ravel()])
        flows.append(maximum_flow(csr_matrix((size.astype(np.int32), (tail, head)), (66, 66)), source, sink).flow_value)
    np.testing.assert_allclose(cost(arguments, exact=True), np.array(flows) / 1e6, rtol=1e-5)
    assert cost(arguments, exact=False).mean() <= 1.01 * np.mean(flows) / 1e6


@pytest.mark.parametrize("side,excess", [(4, 0.003), (8, 0.005), (16, 0.01)])
def test_it_is_as_low_as_alpha_beta_swaps(side, excess):
    gco = pytest.importorskip("gco")
    label = np.arange(3, dtype=np.int32)
    ours, theirs = [], []
    for seed in range(3):
        arguments = puzzles(16, side, seed=seed)
        ours.append(cost(arguments))
        scale = 1000 * side**2
        unary = np.rint(4 * scale * arguments["unary"].numpy()).astype(np.int32).transpose(0, 2, 3, 1).copy()
        down, right = (np.rint(scale * arguments[name].numpy()).astype(np.int32) for name in ("down", "right"))
        apart = (label[:, None] - label) ** 2
        samples = zip(unary, down, right, strict=True)
        found = np.stack([gco.cut_grid_graph(u, apart, d, r, algorithm="swap") for u, d, r in samples])
        theirs.append(energy(torch.from_numpy(found.reshape(16, side, side)), **arguments).numpy())
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.mean() <= (1 + excess) * yours.mean()


@pytest.mark.parametrize("exact", [None, False])
@pytest.mark.parametrize("labels,grid", [(2, (2, 5)), (3, (4, 4)), (4, (7, 5)), (3, (16, 16)), (2, (16, 3))])
def test_nothing_obvious_is_lower(labels, grid, exact):
    for coupling in (0.01, 0.3, 3.0, 100.0):
        arguments = Case(33, labels, grid, coupling, exact).arguments(seed=7)
        unary, down, right = (arguments[name] for name in ("unary", "down", "right"))
        constants = [torch.full((33, *grid), label) for label in range(labels)]
        found = cost(arguments)
        for obvious in [*constants, unary.argmin(1)]:
            assert (found <= (1 + 1e-6) * energy(obvious, unary, down, right).numpy()).all()


def test_the_energy_is_that_of_the_formula():
    arguments = Case(4, 4, (3, 5)).arguments()
    labels = np.random.default_rng(0).integers(0, 4, (4, 3, 5))
    del arguments["exact"]
    wanted = [energies(labels[i], *(v[i] for v in arguments.values())) for i in range(4)]
    np.testing.assert_allclose(energy(torch.from_numpy(labels), **arguments).numpy(), wanted, rtol=1e-12)


# ---- what it may not depend on ----


@pytest.mark.parametrize("labels", [2, 3, 4])
@pytest.mark.parametrize("grid", [(4, 4), (9, 16)])
def test_other_ways_to_write_the_same_energy(labels, grid):
    arguments = Case(40, labels, grid, 0.4).arguments(seed=2)
    found, lowest = gridcut(**arguments), cost(arguments)
    larger = {name: 4096 * arguments[name] for name in ("unary", "down", "right")}
    assert torch.equal(gridcut(**larger), found)

    mirrored = gridcut(**arguments | {"unary": arguments["unary"].flip(1)})
    np.testing.assert_allclose(energy(labels - 1 - mirrored, *list(arguments.values())[:3]), lowest, rtol=1e-6)
    assert (labels - 1 - mirrored == found).float().mean() > 0.99

    turned = {name: arguments[name].flip(-1) for name in ("unary", "down", "right")}
    assert (cost(turned) <= 1.002 * lowest).mean() > 0.9
    if is_small(labels, *grid):
        np.testing.assert_allclose(cost(turned), lowest, rtol=1e-6)


def test_without_edges_each_cell_takes_its_least_and_with_strong_ones_all_take_one():
    for exact, grid in ((None, (4, 4)), (False, (4, 4)), (None, (11, 6))):
        arguments = Case(20, 3, grid, 0.0, exact).arguments()
        assert torch.equal(gridcut(**arguments), arguments["unary"].argmin(1).int())
        arguments = Case(20, 3, grid, 1.0, exact).arguments()
        arguments |= {"down": arguments["down"] + 1000, "right": arguments["right"] + 1000}
        wanted = arguments["unary"].sum((2, 3)).argmin(1).int()
        assert torch.equal(gridcut(**arguments), wanted[:, None, None].expand(20, *grid))


@pytest.mark.parametrize("grid", [(4, 4), (5, 9)])
def test_samples_do_not_depend_on_each_other(grid):
    arguments = Case(70, 3, grid).arguments()
    together = gridcut(**arguments)
    for i in (0, 31, 32, 69):
        alone = {name: arguments[name][i : i + 1] for name in ("unary", "down", "right")}
        assert torch.equal(gridcut(**alone)[0], together[i])
    strided = {name: torch.stack([arguments[name]] * 2, -1)[..., 0] for name in ("unary", "down", "right")}
    assert torch.equal(gridcut(**strided), together)
    assert gridcut(**{name: arguments[name][:0] for name in strided}).shape == (0, *grid)


@pytest.mark.parametrize("exact", [None, False])
@pytest.mark.parametrize("value", [0.0, 1.0, -5.0, 1e30, float("inf"), float("nan")])
def test_strange_energies_give_labels_all_the_same(value, exact):
    for changed in (("unary",), ("down",), ("down", "right"), ("unary", "down", "right")):
        arguments = Case(2, 3, (4, 4), exact=exact).arguments()
        arguments |= {name: torch.full_like(arguments[name], value) for name in changed}
        for solve in (gridcut, reference):
            labels = solve(**arguments)
            assert labels.min() >= 0 and labels.max() <= 2


# ---- its implementations ----


def same(found: torch.Tensor, wanted: torch.Tensor, unary, down, right, **_) -> None:
    """Equal but for near ties: by other sums of the energies, another labelling may be the lower one."""
    torch.testing.assert_close(energy(found, unary, down, right), energy(wanted, unary, down, right), rtol=1e-6, atol=0)
    assert (found == wanted).flatten(1).all(1).float().mean() >= 0.9


LARGER = [Case(40, 2, (8, 8), 0.2), Case(40, 3, (16, 16)), Case(40, 4, (5, 12), 0.2), Case(33, 3, (15, 2), exact=False)]


@pytest.mark.parametrize("case", [*CASES, *LARGER], ids=str)
def test_the_cpu_twin_equals_the_reference(case):
    for seed in range(3):
        arguments = case.arguments(seed=seed)
        same(gridcut(**arguments), reference(**arguments), **arguments)


@pytest.mark.cuda
@pytest.mark.parametrize("case", [*CASES, *LARGER], ids=str)
def test_the_gpu_equals_the_reference_without_a_sync_and_in_a_graph(case):
    arguments = case.arguments()
    on_gpu = {k: v.to("cuda") if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    gridcut(**on_gpu)
    with no_waits():
        got = gridcut(**on_gpu)
    same(got.cpu(), reference(**arguments), **arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = gridcut(**on_gpu)
    graph.replay()
    assert torch.equal(out, got)


def test_arguments_that_do_not_fit_are_refused():
    def refused(match: str, **changes) -> None:
        with pytest.raises(ValueError, match=match) as error:
            gridcut(**Case(2, 3, (4, 8)).arguments() | changes)
        assert "\n" not in str(error.value)

    arguments = Case(2, 3, (4, 8)).arguments()
    refused("unary must be float32", unary=arguments["unary"].double())
    refused("unary must be float32", unary=arguments["unary"][0])
    refused("unary must be float32", unary=arguments["unary"][:, :1])
    refused("unary must be float32", unary=torch.zeros(2, 3, 17, 4))
    refused(r"down must be float32 \[2, 3, 8\] on cpu", down=arguments["right"])
    refused(r"right must be float32 \[2, 4, 7\] on cpu", right=arguments["right"].to("meta"))
    refused("3 labels on 4x8 cells cannot be solved exactly", exact=True)


def test_small_grids_are_those_whose_labels_fit_a_state():
    assert [is_small(3, side, side) for side in (2, 4, 5, 8)] == [True, True, False, False]
    assert is_small(2, 8, 8) and not is_small(2, 9, 9) and not is_small(2, 16, 8)
    for labels in (2, 3, 4):
        for rows, columns in product(range(2, 17), repeat=2):
            if is_small(labels, rows, columns):
                constants, _ = build(True, labels, rows, columns)
                assert constants["S"] <= 256 and constants["BITS"] * (rows - 1) * columns <= 64
