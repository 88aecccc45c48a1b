"""DecoupledMix's loss against a loop over samples in float64 that leaves classes out, and as part of other methods."""

import copy

import pytest
import torch
from torch import nn

from fastmix import MIXERS
from fastmix.mixers import CoMixup, CutMix, DecoupledMix, ManifoldMix, MixUp, Vanilla, build
from fastmix.targets import BinaryCrossEntropy, CrossEntropy, Decoupled, Targets, without
from helpers.backbones import make
from helpers.graphs import Counted
from helpers.transformers import batch_of

pytestmark = pytest.mark.gradient

CLASSES = 9
OPTIONS = [(0.1, 1.0), (0.1, 0.0), (1.3, 0.5)]  # eta, power


def case(same: bool = True) -> tuple[torch.Tensor, Targets]:
    """Logits, and labels of which the first class index is now the smaller one, now the larger."""
    g = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(12, CLASSES, generator=g)).requires_grad_()
    labels = torch.stack([torch.randperm(CLASSES, generator=g)[:2] for _ in range(12)])
    lam = torch.rand(12, generator=g)
    lam[3], lam[4], lam[5] = 0.5, 1.0, 0.0
    if same:
        labels[6:8, 1] = labels[6:8, 0]
    assert (labels[:, 0] > labels[:, 1]).any() and (labels[:, 0] < labels[:, 1]).any()
    return logits, Targets(labels, torch.stack([lam, 1 - lam], 1))


def left_out(z: torch.Tensor, i: int, j: int) -> torch.Tensor:
    """Cross-entropy at class i in a world without class j."""
    rest = [c for c in range(len(z)) if c != j]
    return -z[i] + z[rest].logsumexp(0)


def naive(logits: torch.Tensor, targets: Targets, eta: float, power: float) -> torch.Tensor:
    total = 0
    for z, (a, b), (lam, rest) in zip(logits.double(), targets.labels.tolist(), targets.weights.tolist(), strict=True):
        logp = z.log_softmax(0)
        total = total - lam * logp[a] - rest * logp[b]
        if a != b and lam > 0 and rest > 0:
            total = total + eta * (lam**power * left_out(z, a, b) + rest**power * left_out(z, b, a))
    return total / len(logits)


@pytest.mark.parametrize("eta, power", OPTIONS)
def test_the_loss_and_its_gradient_are_those_of_a_loop(eta, power):
    logits, targets = case()
    loss, expected = Decoupled(CrossEntropy(), eta, power)(logits, targets), naive(logits, targets, eta, power)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0], rtol=1e-5, atol=1e-7
    )
    assert abs(loss - CrossEntropy()(logits, targets)) > 0.01


def test_smoothing_belongs_to_the_criterion_alone():
    logits, targets = case()
    plain, smoothed = CrossEntropy(), CrossEntropy(0.1)
    extra = Decoupled(plain)(logits, targets) - plain(logits, targets)
    assert abs(Decoupled(smoothed)(logits, targets) - smoothed(logits, targets) - extra) < 1e-6
    assert Decoupled(smoothed).smoothing == 0.1


def test_each_term_forgets_the_other_class():
    logits, targets = case(same=False)
    other = targets.labels.flip(1)
    terms = without(logits, other) - logits.gather(1, targets.labels)
    cross_entropy = -logits.log_softmax(1).gather(1, targets.labels)
    assert (terms <= cross_entropy).all()
    for k in (0, 1):
        changed = logits.scatter_add(1, other[:, k : k + 1], torch.full((12, 1), 7.0))
        again = without(changed, other) - changed.gather(1, targets.labels)
        assert torch.equal(again[:, k], terms[:, k]) and (again[:, 1 - k] - terms[:, 1 - k]).abs().min() > 0.1
    shifted = without(logits + 3, other) - (logits + 3).gather(1, targets.labels)
    assert (shifted - terms).abs().max() < 1e-5


def test_the_order_of_the_classes_does_not_matter():
    logits, targets = case()
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(4))
    renamed = Targets(order.argsort()[targets.labels], targets.weights)
    swapped = Targets(targets.labels.flip(1), targets.weights.flip(1))
    criterion = Decoupled(CrossEntropy(), eta=1.0, power=0.7)
    expected = criterion(logits, targets).item()
    assert criterion(logits[:, order], renamed).item() == pytest.approx(expected, rel=1e-6)
    assert criterion(logits, swapped).item() == pytest.approx(expected, rel=1e-6)


def test_a_class_that_holds_nearly_all_is_left_out_exactly():
    logits = torch.zeros(1, 4)
    logits[0, 1] = 60.0  # e^-60 is far below the last digit of one
    found = without(logits.requires_grad_(), torch.tensor([[1]]))
    assert found.item() == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-6)
    found.backward()
    assert logits.grad.tolist()[0] == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], rel=1e-6)


@pytest.mark.parametrize("criterion", [CrossEntropy(0.1), BinaryCrossEntropy()], ids=["ce", "bce"])
def test_samples_of_one_class_have_the_plain_loss(criterion):
    logits, targets = case()
    decoupled = Decoupled(criterion, eta=2.0, threshold=0.5, sharpness=0.5)
    for rows in ([4, 5], [6, 7]):  # one image alone; two images of a class
        some = Targets(targets.labels[rows], targets.weights[rows])
        assert torch.equal(decoupled(logits[rows], some), criterion(logits[rows], some))
    half = Targets(targets.labels[3:4], targets.weights[3:4])
    assert abs(decoupled(logits[3:4], half) - criterion(logits[3:4], half)) > 0.01, "lam = 1/2 counts"
    alone = Targets(targets.labels[:, :1], torch.ones(12, 1))
    assert torch.equal(decoupled(logits, alone), criterion(logits, alone))


@pytest.mark.parametrize("threshold, sharpness", [(1.0, 1.0), (0.5, 1.0), (0.8, 2.0), (1.0, 0.0)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_binary_targets_are_two_hot(threshold, sharpness, reduction):
    logits, targets = case()
    loss = Decoupled(BinaryCrossEntropy(reduction=reduction), 5.0, 3.0, threshold, sharpness)(logits, targets)
    total = 0
    for z, (a, b), w in zip(logits.double(), targets.labels.tolist(), targets.weights.tolist(), strict=True):
        y = torch.zeros(CLASSES, dtype=torch.float64)
        for c, weight in zip((a, b), w, strict=True):
            hot = min(1.0, (weight / threshold) ** sharpness) if a != b and 0 < w[0] < 1 else weight
            y[c] += hot
        each = -(y * z.sigmoid().log() + (1 - y) * (-z).sigmoid().log())
        total = total + getattr(each, reduction)()
    assert loss.item() == pytest.approx((total / 12).item(), rel=1e-5)


def test_weights_count_sample_by_sample():
    """The first class is right where it weighs much: with the weights averaged the loss would be far higher."""
    labels, lam = torch.tensor([[0, 1]] * 4), torch.tensor([0.9, 0.1, 0.9, 0.1])
    logits = torch.zeros(4, CLASSES)
    logits[:, 0] = torch.where(lam > 0.5, 6.0, -6.0)
    criterion = Decoupled(CrossEntropy(), eta=1.0)
    anti, averaged = (criterion(logits, Targets(labels, torch.stack([w, 1 - w], 1))) for w in (lam, lam * 0 + 0.5))
    assert averaged - anti > 1


def test_the_loss_is_one_graph():
    logits, targets = case()
    criterion, backend = Decoupled(CrossEntropy(0.1), eta=1.0, power=0.5), Counted()
    compiled = torch.compile(lambda z, y, w: criterion(z, Targets(y, w)), fullgraph=True, backend=backend)
    for _ in range(2):
        assert torch.equal(compiled(logits, targets.labels, targets.weights), criterion(logits, targets))
    assert backend.graphs == 1
    torch._dynamo.reset()


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.fc = nn.Linear(3 * 32 * 32, 5)

    def forward(self, x):
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("inner", [MixUp(1.0), CutMix(1.0, "sample")], ids=["mixup", "cutmix"])
def test_a_method_is_decoupled_whatever_it_is(inner):
    model, batch = Linear(), batch_of(6)
    loss = DecoupledMix({inner: 1.0}, eta=0.7, p=0.5)(model, batch_of(6), CrossEntropy())
    batch.rng.choice(1, p=[1.0])  # which of the one
    plan = inner.plan(batch)
    targets = Targets.of(batch.labels, plan)
    assert loss.item() == pytest.approx(naive(model(batch.mix(plan)), targets, 0.7, 0.5).item(), rel=1e-5)


def test_methods_inside_the_model_and_several_are_decoupled_too():
    model = make("test_resnet").train()
    inner = {ManifoldMix(2.0): 0.5, Vanilla(): 0.5}
    mixer = DecoupledMix(inner, eta=0.5)
    mixer.prepare(model)
    differ = []
    for seed in range(12):
        one, two = (
            m(copy.deepcopy(model), some, CrossEntropy())
            for m, some in ((mixer, batch_of(4, seed=seed)), (MIXERS["choice"](inner), batch_of(4, seed=seed)))
        )
        differ.append((one - two).item())
    assert 0 < sum(d == 0 for d in differ) < 12 and min(differ) == 0 and max(differ) > 0.1


def test_without_its_term_it_is_the_method():
    model = Linear()
    for criterion in (CrossEntropy(0.1), BinaryCrossEntropy()):
        loss = DecoupledMix({MixUp(1.0): 1.0}, eta=0.0)(model, batch_of(6), criterion)
        assert torch.equal(loss, MIXERS["choice"]({MixUp(1.0): 1.0})(model, batch_of(6), criterion))


def test_a_row_says_what_is_decoupled():
    rows = {
        "one": {"mixer": "decoupledmix", "of": {"cutmix": {"alpha": 0.3}}, "eta": 0.2, "p": 0},
        "two": {"mixer": "decoupledmix", "of": {"mixup": {"prob": 0.25}, "cutmix": {}}, "threshold": 0.8},
    }
    one, two = build("one", rows), build("two", rows)
    assert [m.alpha for m in one.mixers] == [0.3] and one.options == (0.2, 0, 1.0, 1.0)
    assert two.probabilities.tolist() == [0.25, 0.75] and two.options == (0.1, 1.0, 0.8, 1.0)


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_what_does_not_fit_is_said_in_one_line(granularity):
    for options, words in (
        ({"eta": -1}, "DecoupledMix: eta is -1; it must be a number from 0 to 1,000,000"),
        ({"threshold": 1.5}, "DecoupledMix: threshold is 1.5; it must be a number from 1e-06 to 1"),
        ({"xi": "2"}, "DecoupledMix: xi is '2'; it must be a number from 0 to 1,000,000"),
    ):
        with pytest.raises(ValueError, match=f"^{words}$"):
            DecoupledMix({MixUp(): 1.0}, **options, granularity=granularity)
    with pytest.raises(ValueError, match="^mixers.decoupledmix.of: expected rows"):
        build("decoupledmix", {"decoupledmix": {"granularity": granularity}})


def test_more_than_two_images_cannot_be_decoupled():
    with pytest.raises(ValueError, match="^a mixture of 4 images cannot be decoupled; choose a method that mixes two$"):
        DecoupledMix({CoMixup(group=4, clean_lam=0.0): 1.0})(make("test_resnet"), batch_of(4, (64, 64)), CrossEntropy())
