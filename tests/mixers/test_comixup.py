"""The solver of Co-Mixup against its reference, brute force, a walk through the paper and graph cuts."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastmix.kernels.comixup import CASES, comixup, reference
from fastmix.kernels.comixup.cases import Case
from fastmix.kernels.comixup.problem import HALF_BONUS
from helpers.waiting import no_waits

MORE = [
    Case((1,), (1, 1)),
    Case((2, 2), (1, 5), gamma=0.1),
    Case((4, 2), (2, 2), iterations=4, gamma=0.1),
    Case((7, 3, 1, 2), (4, 4), iterations=4),
    Case((16, 15), (4, 4), iterations=4),
    Case((6, 6), (4, 4), iterations=5, gamma=0.1),
    Case((6, 6), (4, 3), iterations=3, beta=2.0, gamma=0.3, resolve=False),
    Case((29,), (5, 3)),
    Case((5, 4), (8, 8)),
    Case((9,), (4, 4), gamma=50.0),
]


@pytest.mark.parametrize("case", CASES + MORE, ids=str)
def test_the_cpu_twin_equals_the_reference(case):
    for seed in range(3):
        arguments = case.arguments(seed=seed)
        assert torch.equal(comixup(**arguments), reference(**arguments))


def test_the_cases_reach_halves_and_twins():
    """Or the comparison with the Triton kernel would not see them."""
    results = [comixup(**case.arguments()) for case in CASES]
    without = [comixup(**case.arguments() | {"resolve": False}) for case in CASES]
    assert any((r[..., 0] != r[..., 1]).any() for r in results)
    assert not all(map(torch.equal, results, without))


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES + MORE, ids=str)
def test_the_gpu_equals_the_reference_without_a_sync(case):
    arguments = case.arguments()
    on_gpu = {k: v.cuda() if torch.is_tensor(v) else v for k, v in arguments.items()}
    comixup(**on_gpu)
    with no_waits():
        found = comixup(**on_gpu)
    assert torch.equal(found.cpu(), reference(**arguments))


# ---- the problem in float64, from the paper ----


def blocks_of(shown: np.ndarray, m: int) -> np.ndarray:
    """z [...,n,m] of labels [...,n,2]."""
    return np.eye(m)[shown].mean(-2)


def edges(grid: tuple[int, int]) -> np.ndarray:
    """Pairs of neighbouring blocks [E,2]."""
    t = np.arange(grid[0] * grid[1]).reshape(grid)
    down, right = (t[:-1].ravel(), t[1:].ravel()), (t[:, :-1].ravel(), t[:, 1:].ravel())
    return np.concatenate([np.stack(pair, 1) for pair in (down, right)])


class Problem:
    """One group of a case."""

    def __init__(self, case: Case, seed: int, tau: float = 0.83):
        self.arguments = case.arguments(seed=seed) | {"tau": tau}
        self.cost, self.affinity, self.start = (
            self.arguments[key][0].double().numpy() for key in ("cost", "compatibility", "start")
        )
        self.case, self.tau, self.grid, self.edges = case, tau, case.grid, edges(case.grid)
        self.m, self.n = self.cost.shape

    def solved(self, **changes) -> np.ndarray:
        """Labels [m,n,2] of the kernel."""
        return comixup(**self.arguments | changes)[0].long().numpy()

    def labels(self, used: np.ndarray, halves: bool) -> np.ndarray:
        """The labels that an output may have, which used so many blocks of each input. [L,2]"""
        three = sorted(sorted(range(self.m), key=lambda k: (-used[k], k))[:3])
        pairs = [pair for pair in itertools.combinations(three, 2) if halves and used[list(pair)].all()]
        return np.array([(k, k) for k in range(self.m)] + pairs)

    def change(self, labels: np.ndarray) -> np.ndarray:
        """What a change from one label to another costs, in label changes. [L,L]"""
        found = np.ones((len(labels), len(labels)))
        for i, one in enumerate(labels):
            for j, other in enumerate(labels):
                if (one == other).all():
                    found[i, j] = 0
                elif set(one) < set(other) or set(other) < set(one):
                    found[i, j] = 0.25
        return found

    def terms(self, shown: np.ndarray, j: int, halves: bool, avoid=None) -> tuple:
        """Output j given the others: its labels, their cost in each block [n,L], and of changes [L,L]."""
        counts = blocks_of(shown, self.m).sum(1)
        labels = self.labels(counts[j], halves)
        overlap = self.affinity @ (counts.sum(0) - counts[j])
        extra = 2 * self.case.gamma / self.n * np.where(overlap > self.tau * self.n, overlap, 0)
        if avoid is not None:
            extra = extra + self.case.gamma / self.n * avoid
        unary = (self.cost + extra[:, None])[labels].mean(1) - HALF_BONUS * (labels[:, 0] != labels[:, 1])[:, None]
        return labels, unary.T, self.change(labels) * self.case.beta / self.n

    def energy(self, unary: np.ndarray, change: np.ndarray, choice: np.ndarray) -> np.ndarray:
        """Energies of choices [...,n] of labels."""
        cost = unary[np.arange(self.n), choice].sum(-1)
        return cost + change[choice[..., self.edges[:, 0]], choice[..., self.edges[:, 1]]].sum(-1)

    def exact(self, unary: np.ndarray, change: np.ndarray) -> np.ndarray:
        """The best choice of all. [n]"""
        every = np.array(list(itertools.product(range(len(change)), repeat=self.n)))
        return every[self.energy(unary, change, every).argmin()]

    def objective(self, shown: np.ndarray) -> float:
        """Of all outputs, with the overlap of every two of them."""
        z = blocks_of(shown, self.m)
        flat = shown.reshape(-1, 2)
        labels, place = np.unique(flat, axis=0, return_inverse=True)
        choice = place.reshape(shown.shape[:2])
        unary = np.einsum("kt,lk->tl", self.cost, blocks_of(labels[:, None], self.m)[:, 0])
        unary = unary - HALF_BONUS * (labels[:, 0] != labels[:, 1])
        own = self.energy(unary, self.change(labels) * self.case.beta / self.n, choice).sum()
        counts = z.sum(1)
        pairs = counts @ self.affinity @ counts.T
        return own + self.case.gamma / self.n * (pairs.sum() - np.trace(pairs))


def walk(problem: Problem) -> np.ndarray:
    """The method, step by step, with every output's grid settled by brute force. Labels [m,n,2]"""
    m, case = problem.m, problem.case
    shown = np.stack([problem.start.astype(int)] * 2, 2)
    avoid = np.zeros((m, m))
    for iteration in range(case.iterations):
        for j in range(m):
            labels, unary, change = problem.terms(shown, j, iteration > 0, avoid[j])
            shown[j] = labels[problem.exact(unary, change)]
        if case.resolve and iteration == case.iterations - 2:
            sets = [tuple(np.unique(row)) for row in shown]
            for i, j in itertools.combinations(range(m), 2):
                if sets[i] == sets[j] and len(sets[i]) > 1:
                    avoid[i, sets[i][0]] = avoid[j, sets[j][1]] = 1
    return shown


@pytest.mark.parametrize("gamma", [0.03, 0.3, 1.0])
def test_small_groups_end_where_a_walk_with_brute_force_ends(gamma):
    case, equal, above, scale = Case((3,), (2, 2), iterations=4, gamma=gamma), [], [], []
    for seed in range(60):
        problem = Problem(case, seed)
        found, expected = problem.solved(), walk(problem)
        equal.append((found == expected).all())
        above.append(problem.objective(found) - problem.objective(expected))
        scale.append(abs(problem.objective(expected)))
    assert np.mean(equal) > 0.9
    assert np.mean(above) < 0.01 * np.mean(scale)


def settled(case: Case, seeds: int, tau: float):
    """Problems with the labels at which the kernel stays."""
    for seed in range(seeds):
        problem = Problem(case, seed, tau)
        shown = problem.solved(iterations=9)
        if (shown == problem.solved(iterations=10)).all():
            yield problem, shown


def choice_of(shown: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (shown[:, None] == labels).all(2).argmax(1)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_settled_outputs_are_the_best_given_the_others(beta):
    above, scale = [], []
    for problem, shown in settled(Case((3,), (2, 2), beta=beta, gamma=0.1, resolve=False), 60, 0.83):
        for j in range(problem.m):
            labels, unary, change = problem.terms(shown, j, True)
            energies = [problem.energy(unary, change, choice_of(shown[j], labels))]
            energies.append(problem.energy(unary, change, problem.exact(unary, change)))
            above.append(energies[0] - energies[1])
            scale.append(abs(energies[1]))
    assert len(above) > 60
    assert np.min(above) > -1e-6 and np.mean(above) < 0.01 * np.mean(scale)
    assert np.mean(np.array(above) < 1e-6) > 0.9


def least_energy(problem: Problem, unary: np.ndarray, change: np.ndarray) -> float:
    """The lowest energy of all choices for a grid, row after row: of each way to label a row the best one above it."""
    (rows, columns), labels = problem.grid, len(change)
    ways = np.array(list(itertools.product(range(labels), repeat=columns)))
    along = change[ways[:, 1:], ways[:, :-1]].sum(1)
    down = sum(change[ways[:, None, x], ways[None, :, x]] for x in range(columns))
    best = np.zeros(len(ways))
    for y in range(rows):
        own = unary[y * columns + np.arange(columns), ways].sum(1) + along
        best = own + ((best[:, None] + down).min(0) if y else 0)
    return best.min()


@pytest.mark.parametrize("shape, beta", [(2.0, 0.64), (8.0, 0.32)])
def test_grids_settle_near_their_lowest_energy(shape, beta):
    """The last output after one time over all, from labels at random, of inputs whose saliency is rough, as that of
    photographs. Outputs that end above it show fewer inputs: blocks settled one by one end so in half of the cases."""
    above, scale = [], []
    for seed in range(30):
        problem = Problem(Case((6,), (4, 4), beta=beta, resolve=False), seed)
        rough = np.random.default_rng([seed, 1]).gamma(shape, size=(6, 16))
        problem.arguments["cost"] = torch.from_numpy(-rough / rough.sum(1, keepdims=True)).float()[None]
        problem.cost = problem.arguments["cost"][0].double().numpy()
        shown = problem.solved(iterations=1)
        labels, unary, change = problem.terms(shown, problem.m - 1, False)
        least = least_energy(problem, unary, change)
        above.append(problem.energy(unary, change, choice_of(shown[-1], labels)) - least)
        scale.append(abs(least))
    assert np.min(above) > -1e-5
    assert np.mean(above) < 0.004 * np.mean(scale) and np.mean(np.array(above) > 1e-5) < 0.3


@pytest.mark.parametrize("beta", [0.16, 0.32, 0.48])
def test_grids_are_settled_as_well_as_by_graph_cuts(beta):
    """alpha-beta swap, the authors' solver, on the problems of groups that have settled, halves included."""
    gco = pytest.importorskip("gco")
    ours, theirs, halves = [], [], 0
    for problem, shown in settled(Case((12,), (4, 4), beta=beta, resolve=False), 30, 0.83):
        for j in range(problem.m):
            labels, unary, change = problem.terms(shown, j, True)
            weight = beta / problem.n  # of edges: gco rounds changes of labels more coarsely than these
            sides = (np.full((3, 4), weight), np.full((4, 3), weight))
            grid = np.ascontiguousarray(unary).reshape(4, 4, -1)
            cut = gco.cut_grid_graph(grid, problem.change(labels), *sides, algorithm="swap")
            ours.append(problem.energy(unary, change, choice_of(shown[j], labels)))
            theirs.append(problem.energy(unary, change, cut.ravel().astype(int)))
            halves += (shown[j, :, 0] != shown[j, :, 1]).sum()
    assert len(ours) > 60 and halves > 60
    assert np.mean(ours) - np.mean(theirs) < 0.01 * abs(np.mean(theirs))


@pytest.mark.parametrize("gamma", [0.02, 0.1, 1.0])
def test_the_objective_does_not_rise(gamma):
    """Without a threshold what an output pays is its part of the objective, and each step can only lower it."""
    for seed in range(20):
        problem = Problem(Case((3,), (3, 3), gamma=gamma, resolve=False), seed, tau=0.0)
        start = np.stack([problem.start.astype(int)] * 2, 2)
        values = [problem.objective(start)]
        values += [problem.objective(problem.solved(iterations=k)) for k in range(1, 6)]
        assert (np.diff(values) < 1e-5).all()
        large = Problem(Case((10,), (4, 4), gamma=gamma, resolve=False), seed, tau=0.0)
        start = np.stack([large.start.astype(int)] * 2, 2)
        assert large.objective(large.solved(iterations=1)) < large.objective(start)


def test_the_objective_is_near_that_of_the_best_of_all():
    """Every choice of 3 inputs for 3 outputs of 2 x 2 blocks: 3^12."""
    every = np.array(list(itertools.product(range(3), repeat=4)))
    ratios = []
    for seed in range(8):
        problem = Problem(Case((3,), (2, 2), iterations=4, gamma=0.3, resolve=False), seed, tau=0.0)
        own = problem.energy(problem.cost.T, (1 - np.eye(3)) * problem.case.beta / 4, every)
        counts = np.eye(3)[every].sum(1)
        pairs = 2 * 0.3 / 4 * counts @ problem.affinity @ counts.T
        total = (own[:, None] + own + pairs)[:, :, None] + own + pairs[:, None] + pairs
        best, mean = total.min(), total.mean()
        i, j, k = np.unravel_index(total.argmin(), total.shape)
        shown = np.stack([np.stack([every[i], every[j], every[k]])] * 2, 2)
        assert problem.objective(shown) == pytest.approx(best), "the test's two ways to the objective"
        ratios.append((problem.objective(problem.solved()) - best) / (mean - best))
    assert np.mean(ratios) < 0.1


# ---- limits ----


def test_without_smoothness_and_overlap_each_block_shows_the_most_salient_input():
    for seed in range(5):
        arguments = Case((9, 5), (4, 4), beta=0.0, gamma=0.0).arguments(seed=seed)
        rng = np.random.default_rng(seed)
        steps = rng.permuted(np.tile(np.arange(9)[:, None], (2, 1, 16)), axis=1)  # apart by more than a half's bonus
        arguments["cost"] = torch.from_numpy(-0.01 * steps.astype(np.float32))
        shown = comixup(**arguments)
        for group, size in enumerate((9, 5)):
            best = arguments["cost"][group, :size].argmin(0)
            assert (shown[group, :size] == best[:, None]).all()


def test_with_a_high_price_of_overlap_every_input_is_used_about_once():
    def use(gamma: float) -> torch.Tensor:
        shown = comixup(**Case((12,) * 8, (4, 4), iterations=4, gamma=gamma).arguments())
        return F.one_hot(shown.long(), 12).float().mean(3).sum((1, 2)) / 16

    dear, free = use(20.0), use(0.0)
    assert (dear > 0.4).all() and (dear < 1.8).all() and dear.std() < 0.3
    assert (free == 0).any(1).all() and free.std() > 3 * dear.std()


def test_permuted_inputs_have_permuted_labels():
    for case in (Case((3,), (3, 3), iterations=4, gamma=0.1, resolve=False), Case((8,), (4, 4), iterations=1)):
        for seed in range(10):
            arguments = case.arguments(seed=seed)
            order = torch.from_numpy(np.random.default_rng(seed).permutation(case.sizes[0]))
            place = order.argsort()
            changed = arguments | {
                "cost": arguments["cost"][:, order],
                "compatibility": arguments["compatibility"][:, order][:, :, order],
                "start": place[arguments["start"]],
            }
            expected = place[comixup(**arguments).long()].sort(3).values
            assert torch.equal(comixup(**changed).long(), expected)


def test_groups_do_not_see_each_other_nor_what_lies_behind_their_size():
    case = Case((6, 6, 3), (4, 4), gamma=0.3)
    arguments = case.arguments()
    together = comixup(**arguments)
    for group in (0, 1):
        alone = {key: arguments[key][group : group + 1] for key in ("cost", "compatibility", "start", "sizes")}
        assert torch.equal(comixup(**arguments | alone)[0], together[group])
    garbage = {key: arguments[key].clone() for key in ("cost", "compatibility", "start")}
    for group, size in enumerate(case.sizes):
        garbage["cost"][group, size:] = -1.0
        garbage["compatibility"][group, size:] = garbage["compatibility"][group, :, size:] = 0.7
    assert torch.equal(comixup(**arguments | garbage), together)
    assert torch.equal(reference(**arguments | garbage), together)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cost": torch.zeros(1, 3)}, r"cost must be float32 \[G,m,n\]"),
        ({"cost": torch.zeros(1, 30, 4)}, "m at most 29"),
        ({"grid": (2, 3)}, "the grid 2 x 3 has not the 4 blocks"),
        ({"compatibility": torch.zeros(1, 3, 2)}, "compatibility must be floats"),
        ({"start": torch.zeros(1, 3, 4)}, "start must be integers"),
        ({"sizes": torch.zeros(2, dtype=torch.int32)}, r"sizes must be integers \[1\]"),
        ({"beta": -1.0}, "beta, gamma and tau must be at least 0"),
        ({"iterations": 0}, "iterations above"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        comixup(**Case((3,), (2, 2)).arguments() | changes)
    assert "\n" not in str(error.value)
