"""Sinkhorn's plan: against matrix scaling in float64, an exact assignment, and what must hold of its marginals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from fastmix.kernels.sinkhorn import CASES, reference, sinkhorn
from fastmix.kernels.sinkhorn.reference import FINISHES
from helpers.waiting import no_waits


def features(n: int, cells: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, cells, 256, generator=torch.Generator().manual_seed(seed)).relu()


def distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, y).square()


def scaling(cost: np.ndarray, eps: float, iterations: int, finish: str) -> np.ndarray:
    """Sinkhorn and Knopp's alternate division by sums of columns and rows, in float64."""
    plan = np.exp(-cost.astype(np.float64) / eps)
    n, m = cost.shape[1:]
    for _ in range(iterations):
        for axis in (1, 2) if finish == "rows" else (2, 1):
            plan /= plan.sum(axis, keepdims=True) * (m / n if axis == 1 else 1)
    return plan


@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize("n, m", [(49, 49), (64, 64), (12, 31), (31, 12), (196, 196), (1, 1)])
def test_the_plan_is_that_of_alternate_scaling(n, m, finish):
    cost = torch.rand(3, n, m, generator=torch.Generator().manual_seed(0))
    for iterations in (1, 2, 20):
        wanted = torch.from_numpy(scaling(cost.numpy(), 0.1, iterations, finish))
        torch.testing.assert_close(sinkhorn(cost, 0.1, iterations, finish).double(), wanted, rtol=2e-5, atol=1e-9)
        exact = reference(cost.double(), 0.1, iterations, finish)
        torch.testing.assert_close(exact, wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_cpu_twin_equals_the_reference(case):
    torch.testing.assert_close(sinkhorn(**case.arguments()), reference(**case.arguments()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("finish", FINISHES)
def test_the_named_marginal_is_exact_without_convergence(finish):
    """Raw features: distances of hundreds against eps = 0.1. The other marginal is far off, so the choice matters."""
    cost = distances(features(8, 49), features(8, 49, seed=1))
    plan = sinkhorn(cost, 0.1, 100, finish)
    used, other = (plan.sum(2), plan.sum(1)) if finish == "rows" else (plan.sum(1), plan.sum(2))
    assert (plan >= 0).all()
    assert (used - 1).abs().max() < 1e-4
    assert (other - 1).abs().max() > 0.1
    exact = reference(cost.double(), 0.1, 100, finish)
    assert (plan - exact).abs().max() < 2e-3  # fp32 resolves cost / eps to 2**-12


def test_both_marginals_hold_where_it_converges():
    x, y = (F.normalize(features(8, 49, seed), dim=2) for seed in (0, 1))
    plan = sinkhorn(distances(x, y), 0.1, 100)
    assert (plan.sum(2) - 1).abs().max() < 1e-5 and (plan.sum(1) - 1).abs().max() < 1e-4
    wide = sinkhorn(distances(x, y[:, :20]), 0.1, 100, "columns")
    assert (wide.sum(1) - 49 / 20).abs().max() < 1e-5 and (wide.sum(2) - 1).abs().max() < 1e-4


def test_a_small_eps_finds_the_cheapest_assignment():
    cost = torch.rand(4, 12, 12, generator=torch.Generator().manual_seed(2))
    plan = sinkhorn(cost, 2e-3, 2000)
    for sample in range(4):
        rows, columns = linear_sum_assignment(cost[sample].numpy())
        assert np.array_equal(plan[sample].argmax(1).numpy(), columns[rows])


@pytest.mark.parametrize("finish", FINISHES)
def test_permuting_positions_permutes_the_plan(finish):
    x, y = (F.normalize(features(4, 49, seed), dim=2) for seed in (0, 1))
    rows, columns = (torch.randperm(49, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    plan = sinkhorn(distances(x, y), 0.1, 30, finish)
    permuted = sinkhorn(distances(x[:, rows], y[:, columns]), 0.1, 30, finish)
    torch.testing.assert_close(permuted, plan[:, rows][:, :, columns], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("finish", FINISHES)
def test_features_are_aligned_with_themselves_and_constant_ones_uniformly(finish):
    x = features(4, 49)
    plan = sinkhorn(distances(x, x), 0.1, 100, finish)
    torch.testing.assert_close(plan, torch.eye(49).expand_as(plan), rtol=0, atol=1e-4)
    flat = sinkhorn(torch.full((2, 20, 30), 7.0), 0.1, 3, finish)
    torch.testing.assert_close(flat, torch.full((2, 20, 30), 1 / 30), rtol=1e-5, atol=0)


def test_the_plan_has_no_gradient_and_the_cost_any_layout():
    cost = torch.rand(3, 12, 31, generator=torch.Generator().manual_seed(0))
    plan = sinkhorn(cost.clone().requires_grad_(), 0.1, 5)
    assert not plan.requires_grad
    assert torch.equal(plan, sinkhorn(cost.mT.contiguous().mT, 0.1, 5))
    assert torch.equal(plan[1:2], sinkhorn(cost[1:2], 0.1, 5))


def test_mistakes_are_named():
    cost = torch.rand(2, 4, 5)
    for wrong, message in (
        ({"cost": cost[0]}, "must be float32 .B,n,m."),
        ({"cost": cost.bfloat16()}, "must be float32"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"iterations": 0}, "iterations 0"),
        ({"finish": "both"}, "'both'.* one of rows, columns"),
    ):
        with pytest.raises(ValueError, match=message):
            sinkhorn(**{"cost": cost, "eps": 0.1, "iterations": 3} | wrong)


@pytest.mark.cuda
@pytest.mark.parametrize("n, m", [(49, 49), (64, 64), (196, 196), (12, 1030)])
def test_the_gpu_equals_float64_without_a_sync(n, m):
    cost = torch.rand(3, n, m, generator=torch.Generator().manual_seed(0))
    there = cost.cuda()
    with no_waits():
        plans = [sinkhorn(there, 0.1, 100, finish) for finish in FINISHES]
    for plan, finish in zip(plans, FINISHES, strict=True):
        wanted = reference(cost.double(), 0.1, 100, finish)
        torch.testing.assert_close(plan.cpu().double(), wanted, rtol=1e-4, atol=1e-9)
