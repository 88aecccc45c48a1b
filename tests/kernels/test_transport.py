"""PuzzleMix's kernels: block transport, border differences and saliency a block, against plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastmix.kernels import borders as borders_file
from fastmix.kernels import gradient_pool as pool_file
from fastmix.kernels import transport as transport_file
from fastmix.kernels.borders import borders
from fastmix.kernels.gradient_pool import gradient_pool
from fastmix.kernels.plan import cell_edges
from fastmix.kernels.transport import transport
from helpers.waiting import no_waits

GRIDS = [(2, 2), (4, 4), (8, 8), (16, 16), (3, 5), (1, 7), (16, 2)]


def costs(saliency, wanted, grid, eps) -> np.ndarray:
    """c_ij of one sample, float32 [n,n]."""
    y, x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    scale = np.float32(eps / max(max(grid) - 1, 1) ** 2)
    return squared.astype(np.float32) * scale - np.where(wanted[None], saliency[:, None], np.float32(0))


def matched(cost: np.ndarray, rounds: int) -> dict[int, int]:
    """The heuristic, as published, in plain Python: {target: source}."""
    rows = [list(row) for row in cost]
    for _ in range(rounds):
        suitors = {}
        for i, row in enumerate(rows):
            suitors.setdefault(row.index(min(row)), []).append(i)
        holds = {j: min(group, key=lambda i: rows[i][j]) for j, group in suitors.items()}  # noqa: B023
        for j, group in suitors.items():
            for i in group:
                if i != holds[j]:
                    rows[i][j] += 1
    return holds


def samples(grid, count, rng, exact):
    """Saliency and mask of samples; exact: in 1/4096, with many equal values."""
    n = grid[0] * grid[1]
    saliency = rng.random((count, n)) ** 3
    saliency = np.floor(saliency * 8) * 2**-9 if exact else saliency / saliency.sum(1, keepdims=True)
    return saliency.astype(np.float32), rng.random((count, n)) < rng.random((count, 1))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_transport_is_the_published_heuristic(grid, exact):
    rng = np.random.default_rng(0)
    count = 400 if grid[0] * grid[1] <= 16 else 12
    for eps in (0.8, 0.05, 20.0):
        if exact:  # a power of two for a block's distance, so that costs are often equal
            eps = max(max(grid) - 1, 1) ** 2 * 2.0 ** round(np.log2(eps / max(grid) ** 2))
        saliency, wanted = samples(grid, count, rng, exact)
        got = transport(torch.from_numpy(saliency), torch.from_numpy(wanted), grid, eps).numpy()
        for k in range(count):
            holds = matched(costs(saliency[k], wanted[k], grid, eps), max(grid))
            assert got[k].tolist() == [holds.get(j, j) for j in range(grid[0] * grid[1])]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_transport_reference_and_cpu_agree(grid):
    for levels in (0, 2):
        for eps in (0.0, 1e-6, 0.8, 100.0):
            arguments = transport_file.cases.Case(3, grid, eps, levels).arguments(seed=1)
            assert torch.equal(transport(**arguments), transport_file.reference(**arguments))


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_transport_costs_little_more_than_the_best_assignment(side):
    """What is paid for and gained at the places that are seen; the best may leave blocks unused, at no cost."""
    from scipy.optimize import linear_sum_assignment

    grid, total, least = (side, side), 0.0, 0.0
    saliency, wanted = samples(grid, 40, np.random.default_rng(2), exact=False)
    got = transport(torch.from_numpy(saliency), torch.from_numpy(wanted), grid, 0.8).numpy()
    for k in range(40):
        cost = costs(saliency[k], wanted[k], grid, 0.8).astype(np.float64)
        seen = np.flatnonzero(wanted[k])
        assert len(set(got[k][seen])) == len(seen)
        paid = cost[got[k][seen], seen].sum()
        best = np.minimum(cost, 0)[linear_sum_assignment(np.minimum(cost, 0))].sum()
        assert paid >= best - 1e-9
        total, least = total + paid, least + best
    print(f"{side} x {side} blocks: {(total - least) / -least:.2%} above the optimum")
    assert total - least < -0.03 * least


def test_no_source_moves_to_two_places():
    for grid in GRIDS:
        arguments = transport_file.cases.Case(50, grid).arguments(seed=3)
        for source in transport(**arguments).numpy():
            moved = source[source != np.arange(len(source))]
            assert len(set(moved.tolist())) == len(moved)


def test_transport_in_the_limits_of_its_cost():
    arguments = transport_file.cases.Case(20, (8, 8)).arguments(seed=4)
    stays = torch.arange(64, dtype=torch.int32).expand(20, 64)
    assert torch.equal(transport(**arguments | {"eps": 1e6}), stays)
    assert torch.equal(transport(**arguments | {"wanted": torch.ones(20, 64, dtype=torch.bool)}), stays)
    assert torch.equal(transport(**arguments | {"wanted": torch.zeros(20, 64, dtype=torch.bool)}), stays)
    alone = torch.zeros(20, 64, dtype=torch.bool)
    alone[:, 37] = True  # for nothing, the most salient block comes to the only place that is seen
    got = transport(**arguments | {"wanted": alone, "eps": 1e-9})
    assert torch.equal(got[:, 37].long(), arguments["saliency"].argmax(1))


# ---- borders ----


def looped(images: np.ndarray, partner: np.ndarray, blocks: int, neighbours: int):
    """Down and right, pixel by pixel in float64."""
    n, height, width, _ = images.shape
    rows, columns = cell_edges(height, blocks), cell_edges(width, blocks)
    tall, wide = min(neighbours, height // blocks), min(neighbours, width // blocks)
    pixels = images / 255
    down, right = np.empty((n, 4, blocks - 1, blocks)), np.empty((n, 4, blocks, blocks - 1))
    for i in range(n):
        for pair in range(4):
            p, q = (pixels[i if is_own else partner[i]] for is_own in (pair // 2, pair % 2))
            for e in range(blocks - 1):
                for c in range(blocks):
                    at, cut = rows[e + 1], columns[e + 1]
                    down[i, pair, e, c] = differ(p[at - tall : at], q[at : at + tall], 1, columns[c : c + 2], wide)
                    right[i, pair, c, e] = differ(
                        p[:, cut - wide : cut], q[:, cut : cut + wide], 0, rows[c : c + 2], tall
                    )
    return down, right


def differ(before, behind, axis, span, step) -> float:
    total = 0.0
    for start in range(*span, step):
        stop = min(start + step, span[1])
        cut = (slice(None),) * axis + (slice(start, stop),)
        total += (stop - start) * np.abs(before[cut].mean((0, 1)) - behind[cut].mean((0, 1))).mean()
    return total / (span[1] - span[0])


CASES = [
    *borders_file.CASES,
    borders_file.cases.Case(2, (64, 48), 16),
    borders_file.cases.Case(2, (37, 50), 7, 5),
    borders_file.cases.Case(2, (39, 45), 2, 20),  # sums above 16 bits
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_borders_against_loops(case):
    arguments = case.arguments(seed=5)
    got, wanted = borders(**arguments), borders_file.reference(**arguments)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    values = [v.numpy() if isinstance(v, torch.Tensor) else v for v in arguments.values()]
    for ours, theirs in zip(got, looped(*values), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("blocks, neighbours", [(2, 4), (4, 2), (8, 4), (16, 4)])
def test_borders_are_those_of_pooled_images(blocks, neighbours):
    case = borders_file.cases.Case(4, (64, 64), blocks, neighbours)
    arguments = case.arguments(seed=6)
    down, right = borders(**arguments)
    k0 = min(neighbours, 64 // blocks)
    pooled = F.avg_pool2d(arguments["images"].permute(0, 3, 1, 2).double() / 255, k0)
    k, images = 64 // blocks // k0, (pooled[arguments["partner"].long()], pooled)
    for p in (0, 1):
        for q in (0, 1):
            below = (images[p][:, :, k - 1 : -1 : k] - images[q][:, :, k::k]).abs().mean(1)
            beside = (images[p][..., k - 1 : -1 : k] - images[q][..., k::k]).abs().mean(1)
            for got, wanted in ((down, F.avg_pool2d(below, (1, k))), (right, F.avg_pool2d(beside, (k, 1)))):
                torch.testing.assert_close(got[:, 2 * p + q].double(), wanted, rtol=1e-5, atol=1e-7)


# ---- saliency a block ----


@pytest.mark.parametrize("dtype", pool_file.DTYPES)
@pytest.mark.parametrize("size, grid", [((32, 32), (4, 4)), ((23, 17), (3, 5)), ((64, 48), (16, 16))])
def test_gradient_pool_against_loops(size, grid, dtype):
    gradient = pool_file.cases.Case(2, size, grid).arguments(dtype, seed=7)["gradient"]
    pixels, wanted = gradient.double().numpy(), np.empty((2, *grid))
    rows, columns = (cell_edges(length, cells) for length, cells in zip(size, grid, strict=True))
    for i, y, x in np.ndindex(wanted.shape):
        cell = pixels[i, :, rows[y] : rows[y + 1], columns[x] : columns[x + 1]]
        wanted[i, y, x] = np.mean([np.sqrt((pixel**2).sum() / 3) for pixel in cell.reshape(3, -1).T])
    for given in (gradient, gradient.contiguous()):
        np.testing.assert_allclose(gradient_pool(given, grid).numpy(), wanted, rtol=2e-6)
    np.testing.assert_allclose(pool_file.reference(gradient, grid).numpy(), wanted, rtol=2e-7)


def test_gradient_pool_is_average_pooling_where_the_grid_divides():
    gradient = torch.randn(3, 3, 32, 64, generator=torch.Generator().manual_seed(8))
    wanted = F.avg_pool2d(gradient.double().square().mean(1).sqrt(), (8, 4))
    torch.testing.assert_close(gradient_pool(gradient, (4, 16)).double(), wanted, rtol=2e-6, atol=0)


# ---- what is refused, and on a GPU ----


def test_arguments_that_do_not_fit_are_refused():
    values, wanted = torch.rand(2, 6), torch.ones(2, 6, dtype=torch.bool)
    images, partner = torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32)
    for call, match in (
        (lambda: transport(values, wanted, (2, 4), 0.8), r"saliency must be float32 \[B,8\]"),
        (lambda: transport(values, wanted.float(), (2, 3), 0.8), "wanted must be bool"),
        (lambda: transport(values, wanted, (1, 17), 0.8), "1 to 16"),
        (lambda: transport(values, wanted, (2, 3), -1.0), "eps is -1.0"),
        (lambda: borders(images.float(), partner, 2, 4), "images must be uint8"),
        (lambda: borders(images, partner.long(), 2, 4), "partner must be int32"),
        (lambda: borders(images, partner, 9, 4), "can have 2 to 8"),
        (lambda: borders(images, partner, 2, 0), "neighbours is 0"),
        (lambda: gradient_pool(values, (2, 2)), "expected float32/float16/bfloat16"),
        (lambda: gradient_pool(torch.zeros(2, 3, 8, 8), (2, 9)), "does not fit"),
    ):
        with pytest.raises(ValueError, match=match) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.cuda
@pytest.mark.parametrize("file", [transport_file, borders_file, pool_file], ids=lambda file: file.__name__)
def test_the_gpu_equals_the_reference_without_a_sync(file):
    large = {
        transport_file: transport_file.cases.Case(64, (16, 16)),
        borders_file: borders_file.cases.Case(16, (224, 224), 16),
        pool_file: pool_file.cases.Case(16, (224, 224), (8, 8)),
    }
    launcher = getattr(file, file.__name__.rsplit(".", 1)[1])
    for case in [*file.CASES, large[file]]:
        for dtype in file.DTYPES:
            arguments = case.arguments(dtype)
            wanted = file.reference(**arguments)
            on_gpu = {k: v.to("cuda") if hasattr(v, "to") else v for k, v in arguments.items()}
            launcher(**on_gpu)  # compiles
            with no_waits():
                got = launcher(**on_gpu)
            pairs = zip(got, wanted, strict=True) if isinstance(got, tuple) else [(got, wanted)]
            for a, b in pairs:
                torch.testing.assert_close(a.cpu(), b, rtol=1e-6 if file is pool_file else 0, atol=0)
