"""Properties that every method has which asks the trained model's class token where it looks."""

import pytest
import torch

from fastmix import MIXERS, Batch, Targets
from fastmix.mixers import build
from fastmix.models import load_timm
from fastmix.targets import BinaryCrossEntropy, CrossEntropy
from helpers.attending import CLASSES, batch_of, network
from helpers.mixing import FixedLam
from helpers.untouched import same, state
from helpers.waiting import no_waits

pytestmark = pytest.mark.gradient

OPTIONS = {"tokenmix_attn": {"patch": 8}, "smmix": {}, "mergemix": {}}
SIZES = [(1, (32, 32)), (5, (32, 32)), (4, (24, 48))]
every = pytest.mark.parametrize("name", OPTIONS)


def ready(name: str, model, **options):
    mixer = MIXERS[name](**OPTIONS[name], **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixer.prepare(model)
    return mixer


@every
@pytest.mark.parametrize("n, size", SIZES, ids=str)
def test_every_weight_gets_a_finite_gradient(name, n, size):
    for criterion in (CrossEntropy(0.1), BinaryCrossEntropy(0.1)):
        model = network(size)
        mixer = ready(name, model)
        loss = mixer(model, batch_of(n, size), criterion)
        loss.backward()
        assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
        for p in (*model.parameters(), *mixer.parameters()):
            assert p.grad.isfinite().all() and p.grad.any()


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near_single(name, dtype):
    model, losses = network(), []
    mixer = ready(name, model)
    losses.append(mixer(model, batch_of(4), CrossEntropy()))
    with torch.autocast("cpu", dtype):
        losses.append(mixer(model, batch_of(4, dtype=dtype), CrossEntropy()))
    losses[1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.1)
    assert all(p.grad.isfinite().all() for p in (*model.parameters(), *mixer.parameters()))


@every
def test_deciding_leaves_the_model_and_the_batch_as_they_are(name):
    model, batch = network(), batch_of(4)
    mixer = ready(name, model)
    CrossEntropy()(model(batch.mix()), Targets.of(batch.labels)).backward()
    before, images, labels = state(model), batch.images.clone(), batch.labels.clone()
    mixer.decide(model, batch, CrossEntropy())
    assert same(state(model), before)
    assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)


@every
def test_the_loss_is_a_function_of_the_generator(name):
    model = network()
    mixer = ready(name, model)
    losses = []
    for seed in (3, 3, 4):
        batch = batch_of(5)
        batch.rng = FixedLam(0.4, seed) if name == "mergemix" else batch_of(1, seed=seed).rng
        losses.append(mixer(model, batch, CrossEntropy()).item())
    assert losses[0] == losses[1] != losses[2]


@every
def test_the_model_is_asked_without_dropout(name):
    dropping, plain = network(drop_rate=0.3, drop_path_rate=0.3), network()
    plain.load_state_dict(dropping.state_dict())
    guides = [ready(name, model).guide(model, batch_of(4), CrossEntropy()) for model in (dropping, plain)]
    assert torch.equal(*guides)


@every
def test_accumulated_gradients_are_the_sum_of_those_of_the_steps(name):
    one, two = network(), network()
    mixers = ready(name, one), ready(name, two)
    total = None
    for seed in (1, 2):
        mixers[0](one, batch_of(3, seed=seed), CrossEntropy()).backward()
        mixers[1](two, batch_of(3, seed=seed), CrossEntropy()).backward()
        grads = [p.grad.clone() for p in (*two.parameters(), *mixers[1].parameters())]
        two.zero_grad()
        mixers[1].zero_grad()
        total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
    for p, expected in zip((*one.parameters(), *mixers[0].parameters()), total, strict=True):
        assert torch.allclose(p.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["tokenmix_attn", "mergemix"])
def test_a_batch_of_one_image_and_one_label_is_trained_as_it_is(name):
    model, batch = network(), batch_of(4)
    batch.images[:], batch.labels[:] = batch.images[0], 2
    loss = ready(name, model)(model, batch, CrossEntropy(0.1))
    plain = CrossEntropy(0.1)(model(batch.mix()), Targets.of(batch.labels))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.long
@every
def test_a_compiled_model_gives_the_loss_and_the_gradients_of_an_eager_one(name):
    model, eager = network(), network()
    mixers = ready(name, model), ready(name, eager)
    model.compile(backend="aot_eager", fullgraph=True)
    for seed in (1, 2):
        losses = [m(net, batch_of(3, seed=seed), CrossEntropy()) for m, net in zip(mixers, (model, eager), strict=True)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
        for loss in losses:
            loss.backward()
    pairs = zip(
        (*model.parameters(), *mixers[0].parameters()), (*eager.parameters(), *mixers[1].parameters()), strict=True
    )
    assert all(torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6) for p, q in pairs)
    torch._dynamo.reset()


@every
def test_pvt_can_be_asked(name):
    model = network((64, 96), "pvt_tiny")
    mixer = ready(name, model)
    loss = mixer(model, batch_of(3, (64, 96)), CrossEntropy())
    loss.backward()
    assert loss.isfinite() and model.get_classifier().weight.grad.any()


@every
@pytest.mark.parametrize("backbone", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_models_without_a_class_token_are_refused(name, backbone):
    with torch.device("meta"):
        model = load_timm().create_model(backbone)
    words = f"^{MIXERS[name].__name__}: {backbone} has no class token"
    with pytest.raises(ValueError, match=words) as error:
        MIXERS[name]().prepare(model)
    assert "\n" not in str(error.value)


@every
def test_it_is_one_of_the_authors_choice(name):
    row = {"mixer": "choice", "of": {"mixup": {"prob": 0.5, "alpha": 0.8}, name: {"prob": 0.5, **OPTIONS[name]}}}
    model, mixer = network(), build("row", {"row": row})
    mixer.prepare(model)
    for seed in range(4):
        loss = mixer(model, batch_of(3, seed=seed), CrossEntropy())
        loss.backward()
        assert all(p.grad is not None for p in mixer.parameters()), "as several processes need"


@pytest.mark.cuda
@every
def test_nothing_waits_for_the_device(name):
    model, given = network().cuda(), [batch_of(4, seed=seed) for seed in (1, 2)]
    mixer = ready(name, model)
    on = [Batch(b.images.cuda(), b.labels.cuda(), b.rng) for b in given]
    mixer(model, on[0], CrossEntropy())
    with no_waits():
        loss = mixer(model, on[1], CrossEntropy())
    assert loss.isfinite()


def test_the_networks_look_somewhere():
    """The tests would say little of one that looks everywhere alike."""
    model = network()
    attention = ready("mergemix", model).guide(model, batch_of(4), CrossEntropy())
    assert attention.shape == (4, 4, 4) and (attention.flatten(1).max(1).values > 2 / 16).all() and CLASSES > 2
