"""Labels, weights and losses against dense formulas in float64."""

import pytest
import torch

from fastmix.kernels.plan import Plan
from fastmix.targets import BinaryCrossEntropy, CrossEntropy, Targets

CLASSES = 11


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(7, CLASSES, generator=g)).requires_grad_()
    labels = torch.randint(0, CLASSES, (7, 2), generator=g)
    labels[3, 1] = labels[3, 0]  # a partner of the same class
    weights = torch.rand(7, 2, generator=g)  # need not sum to one
    return logits, Targets(labels, weights)


def dense(targets: Targets) -> torch.Tensor:
    out = torch.zeros(len(targets.labels), CLASSES, dtype=torch.float64)
    for i, (labels, weights) in enumerate(zip(targets.labels.tolist(), targets.weights.double().tolist(), strict=True)):
        for y, w in zip(labels, weights, strict=True):
            out[i, y] += w
    return out


def smooth(y: torch.Tensor, e: float) -> torch.Tensor:
    return (1 - e) * y + e * y.sum(1, keepdim=True) / CLASSES


def gradients_agree(loss, expected, logits):
    (ours,) = torch.autograd.grad(loss, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_dense_one(case, smoothing):
    logits, targets = case
    loss = CrossEntropy(smoothing)(logits, targets)
    expected = -(smooth(dense(targets), smoothing) * logits.double().log_softmax(1)).sum(1).mean()
    assert abs(loss.item() - expected.item()) < 1e-6 * expected.item()
    gradients_agree(loss, expected, logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_classes_are_torchs(case, smoothing):
    """torch weights each class's term of soft targets, and divides by the batch."""
    logits, targets = case
    factors = torch.rand(CLASSES, generator=torch.Generator().manual_seed(1)).double() * 3
    loss = CrossEntropy(smoothing, factors.tolist())(logits, targets)
    expected = torch.nn.functional.cross_entropy(logits.double(), smooth(dense(targets), smoothing), factors)
    assert abs(loss.item() - expected.item()) < 1e-6 * expected.item()
    gradients_agree(loss, expected, logits)
    loss = BinaryCrossEntropy(smoothing, class_weights=factors.tolist())(logits, targets)
    y, z = smooth(dense(targets), smoothing), logits.double()
    expected = -((y * z.sigmoid().log() + (1 - y) * (-z).sigmoid().log()) * factors).sum(1).mean()
    assert abs(loss.item() - expected.item()) < 1e-6 * abs(expected.item())
    gradients_agree(loss, expected, logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_binary_cross_entropy_is_the_dense_one(case, smoothing, threshold, reduction):
    logits, targets = case
    loss = BinaryCrossEntropy(smoothing, threshold, reduction)(logits, targets)
    y, z = smooth(dense(targets), smoothing), logits.double()
    if threshold is not None:
        y = (y > threshold).double()
    each = -(y * z.sigmoid().log() + (1 - y) * (-z).sigmoid().log())
    expected = getattr(each, reduction)(1).mean()
    assert abs(loss.item() - expected.item()) < 1e-6 * abs(expected.item())
    gradients_agree(loss, expected, logits)


def test_weights_apply_to_each_sample_before_the_mean():
    """Weights anti-correlated with the loss: a weight applied after the batch mean would give another number."""
    logits = torch.tensor([[8.0, 0.0], [0.0, 8.0]])  # the first sample is right, the second wrong
    targets = Targets(torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert CrossEntropy()(logits, targets) < 1e-3
    collapsed = Targets(targets.labels, targets.weights.mean(0).expand(2, 2))
    assert CrossEntropy()(logits, collapsed) > 3


def test_of_a_plan():
    labels = torch.tensor([5, 6, 7])
    plan = Plan.blend([1, 2, 0], [0.25, 0.5, 1.0])
    targets = Targets.of(labels, plan)
    assert targets.labels.tolist() == [[5, 6], [6, 7], [7, 5]]
    assert targets.weights.tolist() == [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]
    alone = Targets.of(labels)
    assert torch.equal(alone.dense(9), torch.nn.functional.one_hot(labels, 9).float())


def test_loss_is_computed_in_fp32_from_half_logits(case):
    logits, targets = case
    half = logits.detach().bfloat16()
    assert CrossEntropy()(half, targets) == CrossEntropy()(half.float(), targets)
    assert CrossEntropy()(half, targets).dtype == torch.float32
