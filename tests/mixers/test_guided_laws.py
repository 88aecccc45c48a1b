"""Properties that every method has which looks at the images or asks a model, tested through the real pass."""

import copy
import inspect
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastmix import MIXERS, Batch, Targets, config, mix
from fastmix.engine.method import step_rng
from fastmix.engine.picture import HEAD, MARGIN, first_batch, save
from fastmix.engine.task import Task
from fastmix.mixers.base import GRANULARITIES, VARIANTS, Mixer
from fastmix.mixers.choice import Choice
from fastmix.mixers.gradient import GradientMixer
from fastmix.models import load_timm
from fastmix.targets import BinaryCrossEntropy, CrossEntropy
from helpers.backbones import SMOOTH
from helpers.forked import two_processes
from helpers.mixing import NO_NORM, noise
from helpers.untouched import same, state
from helpers.waiting import no_waits

pytestmark = pytest.mark.gradient

CLASSES = 4
OTHER_LABELS = ("snapmix", "grafting", "supermix", "tokenmix")  # whose labels are not the areas that the sources have
ONE_LABEL = ("attentivemix-batch-openmixup", "attentivemix-sample-openmixup")  # sample 0's area counts for all
ANY_SUM = ("snapmix", "tokenmix")  # of the label weights
NEEDS_A_MAP = ("snapmix",)
NEEDS_A_CLASS_TOKEN = ("tokenmix_attn", "smmix", "mergemix")  # which have their own tests
OPTIONS = {
    "comixup": {"clean_lam": 0.0, "group": 4},
    "attentivemix": {"teacher": "test_resnet", "size": 64},
    "tokenmix": {"teacher": "test_resnet", "size": 64},
    "supermix": {"teacher": "test_resnet", "steps": 2, "side": 8, "sigma": 1.0},
}
SIZES = [(1, (64, 64)), (5, (65, 47)), (4, (64, 96))]


def guided(name: str) -> bool:
    asks = MIXERS[name].decide is not Mixer.decide and not issubclass(MIXERS[name], Choice)
    return name == "saliencymix" or (asks and name not in NEEDS_A_CLASS_TOKEN)


NAMES = [name for name in MIXERS if guided(name)]


def rows() -> dict[str, tuple[str, dict]]:
    """Every such method in every granularity and variant, with each saliency, with a clean loss and a smaller pass."""
    found = {}
    for name in NAMES:
        known = inspect.signature(MIXERS[name]).parameters
        for granularity in GRANULARITIES if "granularity" in known else [None]:
            for variant in VARIANTS if "variant" in known else [None]:
                chosen = {"granularity": granularity, "variant": variant}
                chosen = {key: value for key, value in chosen.items() if value}
                if "mix_prob" in known:
                    chosen["mix_prob"] = 1.0
                more = [chosen]
                if "saliency" in known:
                    more = [{**chosen, "saliency": kind} for kind in ("sr", "ap")]
                for options in more:
                    row = "-".join([name, *(v for v in options.values() if isinstance(v, str))])
                    found[row] = name, options
        if issubclass(MIXERS[name], GradientMixer):
            ap = {"saliency": "ap", "mix_prob": 1.0} if "saliency" in known else {}
            found[f"{name}-clean"] = name, {**ap, "clean_lam": 0.5}
            found[f"{name}-small"] = name, {**ap, "saliency_size": 32}
    return found


ROWS = rows()
FIRST = {name: next(row for row, (other, _) in ROWS.items() if other == name) for name in NAMES}
ASKED = [row for row in ROWS if row in FIRST.values() or row.endswith(("-clean", "paper-ap"))]  # one a way of asking
every = pytest.mark.parametrize("row", ROWS)
every_asked = pytest.mark.parametrize("row", ASKED)
every_name = pytest.mark.parametrize("row", FIRST.values(), ids=FIRST)


@cache
def prototype(name: str, **args) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_timm().create_model(name, num_classes=CLASSES, **args)
        model(torch.randn(4, 3, 64, 64))  # statistics that are not those of a new one
    return model.to(memory_format=torch.channels_last)


def network(name: str = "test_resnet", **args) -> nn.Module:
    """A small network in train mode, in memory as in training; always the same."""
    return copy.deepcopy(prototype(name, **args))


def save_teacher(file: Path) -> Path:
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in network().state_dict().items()}, file)
    return file


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """Weights of the methods' teacher."""
    return save_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


def build(row: str, teacher: Path) -> Mixer:
    name, options = ROWS[row]
    file = {"weights": str(teacher)} if "teacher" in inspect.signature(MIXERS[name]).parameters else {}
    return MIXERS[name](**{**OPTIONS.get(name, {}), **file, **options})


@pytest.fixture
def mixer(row, teacher) -> Mixer:
    return build(row, teacher)


def batch_of(n: int, size: tuple[int, int] = (64, 64), seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Images with a bright spot each, so that their saliencies differ, and noise."""
    batch = noise(n, size, seed)
    rng = np.random.default_rng([seed, 2])
    for image in batch.images:
        y, x = (rng.integers(0, length - 12) for length in size)
        image[y : y + 12, x : x + 12] = torch.from_numpy(rng.integers(0, 256, 3, np.uint8))
    batch.images = (batch.images.float() * 0.5).to(torch.uint8)
    batch.labels = torch.from_numpy(rng.integers(0, CLASSES, n))
    batch.dtype = dtype
    return batch


def decided(mixer: Mixer, batch: Batch, model: nn.Module | None = None):
    return mixer.decide(network() if model is None else model, batch, CrossEntropy())


def shares(plan, batch: Batch) -> torch.Tensor:
    """How much of each pixel of each mixed image is of which image, read back from the pass. float64 [B,K,H,W]"""
    n, found = len(batch), []
    for k in range(n):
        images = torch.zeros(n, *batch.size, 3, dtype=torch.uint8)
        images[k] = 255
        found.append(mix(images, plan, **NO_NORM)[:, 0].double())
    return torch.stack(found, 1)


def labels_by_source(plan, n: int) -> torch.Tensor:
    """How much each image's label counts in each mixed image. float64 [B,K]"""
    return Targets.of(torch.arange(n), plan).dense(n).double()


def check_plan(plan, batch: Batch, row: str) -> None:
    name = ROWS[row][0]
    found, labels = shares(plan, batch), labels_by_source(plan, len(batch))
    assert labels.isfinite().all() and (labels >= 0).all()
    assert ((found > -1e-6) & (found < 1 + 1e-6)).all()
    assert (found.sum(1) - 1).abs().max() < 1e-5, "each pixel is a mean of the sources"
    if name not in OTHER_LABELS and row not in ONE_LABEL:
        assert (labels - found.mean((2, 3))).abs().max() < 1e-5, "the label is the realised mask"
    if name not in ANY_SUM:
        assert (labels.sum(1) - 1).abs().max() < 1e-5


def test_the_rows_are_those_that_are_meant():
    assert {"grafting", "snapmix", "attentivemix"} <= set(NAMES)
    assert not {"mixup", "cutmix", "choice"} & set(NAMES)


@every
@pytest.mark.parametrize("n, size", SIZES, ids=str)
def test_pixels_and_labels_come_from_the_sources(row, mixer, n, size):
    for seed in range(2):
        batch = batch_of(n, size, seed)
        check_plan(decided(mixer, batch), batch, row)


@every
def test_the_plan_is_a_function_of_the_generator_and_the_inputs_stay(row, mixer):
    model, plans = network(), []
    for seed in (3, 3, 4):
        batch = batch_of(5)
        batch.rng = np.random.default_rng(seed)
        images, labels = batch.images.clone(), batch.labels.clone()
        plans.append(list(vars(decided(mixer, batch, model)).values()))
        assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)
    assert same(plans[0], plans[1])
    drawn = ROWS[row][0] != "guidedmixup" or mixer.pairing == "random"
    if drawn:  # greedy pairing and a mask without a lambda: nothing is drawn
        assert not same(plans[0], plans[2])


@every
def test_deciding_leaves_the_model_as_it_is(row, mixer):
    model, batch = network(), batch_of(4)
    model.get_submodule("layer1").eval()
    model.layer2[0].conv1.weight.requires_grad_(False)
    CrossEntropy()(model(batch.mix()), Targets.of(batch.labels)).backward()
    before = state(model)
    decided(mixer, batch, model)
    assert same(state(model), before)
    assert not list(mixer.parameters()) and not mixer.state_dict()


@every_asked
def test_accumulated_gradients_are_the_sum_of_those_of_the_steps(row, mixer):
    def run(model, accumulate: bool) -> list[torch.Tensor]:
        total = [torch.zeros_like(p) for p in model.parameters()]
        for seed in (1, 2):
            mixer(model, batch_of(4, seed=seed), CrossEntropy(0.1)).backward()
            if not accumulate:
                torch._foreach_add_(total, [p.grad for p in model.parameters()])
                model.zero_grad()
        return [p.grad for p in model.parameters()] if accumulate else total

    one, two = network(), network()
    for a, b in zip(run(one, True), run(two, False), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * b.abs().max().item())
    assert all(map(torch.equal, one.buffers(), two.buffers()))


@pytest.mark.parametrize("row", [row for row in ROWS if not row.endswith("-clean")])
def test_label_weights_count_sample_by_sample(row, mixer):
    model, apart = network().eval(), 0.0
    for seed in range(3):
        batch, again = batch_of(6, seed=seed), batch_of(6, seed=seed)
        loss = mixer(model, batch, CrossEntropy()).item()
        plan = decided(mixer, again, model)
        with torch.no_grad():
            logp = model(again.mix(plan)).double().log_softmax(1)
        targets = Targets.of(again.labels, plan)
        each = -logp.gather(1, targets.labels)
        assert loss == pytest.approx((each * targets.weights).sum(1).mean().item(), rel=1e-5)
        apart = max(apart, abs(loss - (each.mean(0) * targets.weights.mean(0)).sum().item()))
        own = targets.weights[:, 0]
    if len(own.unique()) > 1:
        assert apart > 1e-5, "the mean of the products is not the product of the means"


@every_name
def test_weights_that_go_against_the_losses_are_not_averaged(row, mixer):
    """The logits favour an image's label exactly where it counts much, so the mean of the weights is far off."""
    batch = batch_of(8)
    plan = decided(mixer, batch)
    targets = Targets.of(batch.labels, plan)
    large = targets.weights[:, 0] >= targets.weights[:, 0].median()
    logits = torch.zeros(8, CLASSES).scatter(1, batch.labels[:, None], torch.where(large, 5.0, -5.0)[:, None])

    class Told(nn.Module):
        def forward(self, x):
            return logits

    mixer.decide = mixer.put = lambda *args: plan
    mixer.guide = lambda *args: None
    mixer.mixes, mixer.draw, mixer.grid = lambda *args: True, lambda *args: 0, lambda *args: None
    mixer.masks = lambda *args: (None, None)  # of supermix
    each = -logits.double().log_softmax(1).gather(1, targets.labels)
    found = mixer(Told(), batch, CrossEntropy()).item()
    assert found == pytest.approx((each * targets.weights).sum(1).mean().item(), rel=1e-5)
    if targets.weights.shape[1] == 2 and targets.weights[:, 0].std() > 0.02:
        assert found < (each.mean(0) * targets.weights.mean(0)).sum().item() - 1e-3


@pytest.mark.long
@every_asked
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_finite_and_every_weight_gets_its_gradient(row, mixer, dtype):
    model, expected = network(), network()
    with torch.autocast("cpu", dtype):
        loss = mixer(model, batch_of(4, dtype=dtype), CrossEntropy())
    (loss * (256 if dtype == torch.float16 else 1)).backward()
    mixer(expected, batch_of(4), CrossEntropy()).backward()
    assert loss.isfinite()
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.any() or not q.grad.any(), name
    with torch.autocast("cpu", dtype):
        batch = batch_of(4, dtype=dtype)
        check_plan(decided(mixer, batch, model), batch, row)


@pytest.mark.long
@every
@pytest.mark.parametrize("value", [0, 255, None], ids=["black", "white", "one colour each"])
def test_images_of_one_colour_have_a_defined_result(row, mixer, value):
    batch = batch_of(4)
    batch.images = torch.full((4, 64, 64, 3), value or 0, dtype=torch.uint8)
    if value is None:
        batch.images += torch.tensor([10, 10, 90, 200], dtype=torch.uint8)[:, None, None, None]
    check_plan(decided(mixer, batch), batch, row)
    loss = mixer(network(), batch, CrossEntropy())
    assert loss.isfinite()


@every_name
def test_a_network_without_a_gradient_gives_a_plan_all_the_same(row, mixer):
    model = network()
    nn.init.zeros_(model.fc.weight)
    batch = batch_of(4)
    check_plan(decided(mixer, batch, model), batch, row)


@every_name
def test_a_transformer_can_be_asked(row, mixer):
    if ROWS[row][0] in NEEDS_A_MAP:
        pytest.skip("needs a network that pools a map")
    model, batch = network("test_vit", img_size=64), batch_of(4)
    check_plan(decided(mixer, batch, model), batch, row)


@every_name
def test_binary_cross_entropy_and_other_criteria_work(row, mixer):
    for criterion in (BinaryCrossEntropy(0.1), BinaryCrossEntropy(threshold=0.2, reduction="mean")):
        model = network()
        mixer(model, batch_of(3), criterion).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


@every_name
def test_the_trainers_picture_shows_it(row, mixer, tmp_path):
    from PIL import Image

    given = batch_of(5, (48, 64))

    class Loader:
        class_names = [f"number {k}" for k in range(10)]

        def epoch(self, epoch):
            yield given.images, given.labels, None

    task = Task(network(), mixer, config.Config(precision="fp32")).train()
    before = state(task.model)
    image, note = first_batch(task, Loader())
    save(tmp_path / "first.png", image)
    assert same(state(task.model), before) and not note
    with Image.open(tmp_path / "first.png") as found:
        page = np.asarray(found)
    tiles = [page[y : y + 96, x : x + 128][::2, ::2] for y, x in [(MARGIN + HEAD, MARGIN + k * 136) for k in range(5)]]
    shown = np.stack(tiles)
    given.rng = step_rng(0, 0, 0)
    expected = mix(given.images, decided(mixer, given, task.model), **NO_NORM).permute(0, 2, 3, 1) * 255
    assert np.abs(shown - expected.numpy()).max() <= 0.51


class Step(nn.Module):
    """What DDP wraps: a method, a model, a loss."""

    def __init__(self, mixer: Mixer):
        super().__init__()
        self.model, self.mixer, self.criterion = network(**SMOOTH), mixer, CrossEntropy(0.1)

    def forward(self, seed: int) -> torch.Tensor:
        return self.mixer(self.model, batch_of(3, seed=seed), self.criterion)


PARTS = 2  # batches a process, of which the last one is synchronised


def process(teacher: str, out: str) -> None:
    """One of two processes: a step of every method with accumulated gradients, which the first one saves."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    rank, found = dist.get_rank(), {}
    for row in ASKED:
        task = Step(build(row, Path(teacher)))
        module = DistributedDataParallel(task)
        with module.no_sync():
            (module(rank) / PARTS).backward()
        (module(2 + rank) / PARTS).backward()
        found[row] = [p.grad for p in task.model.parameters()]
    if rank == 0:
        torch.save(found, out)


@pytest.fixture(scope="module")
def distributed(running, teacher, tmp_path_factory) -> dict[str, list[torch.Tensor]]:
    """The gradients of every method's step on two processes."""
    folder = tmp_path_factory.mktemp("processes")
    two_processes(running, __file__, str(teacher), str(folder / "gradients.pt"))
    return torch.load(folder / "gradients.pt", weights_only=True)


@pytest.mark.long
@every_asked
def test_two_processes_give_the_gradient_of_one(row, mixer, distributed):
    """DDP's gradient is that of the mean loss over the batches of both processes, each of which asks its own model."""
    total, threads = None, torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: masks follow a saliency to its last bits, gradients the masks
    try:
        for rank in (0, 1):
            task = Step(mixer)
            for seed in (rank, 2 + rank):
                (task(seed) / (2 * PARTS)).backward()
            gradients = [p.grad for p in task.model.parameters()]
            total = gradients if total is None else torch._foreach_add(total, gradients)
    finally:
        torch.set_num_threads(threads)
    for found, expected in zip(distributed[row], total, strict=True):
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@every_name
def test_buffers_are_reused_safely(row, mixer):
    """A step with reused inputs, as in training, gives the loss of one with fresh ones, again and again."""
    from fastmix.batch import Buffers

    one, two, buffers = network(), copy.deepcopy(network()), Buffers()
    for seed in (1, 2):
        reused, fresh = batch_of(4, seed=seed), batch_of(4, seed=seed)
        reused.buffers = buffers
        losses = [mixer(model, batch, CrossEntropy()) for model, batch in ((one, reused), (two, fresh))]
        assert torch.equal(*losses)
        for loss in losses:
            loss.backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.cuda
@every_asked
def test_nothing_waits_for_the_device(row, mixer):
    model, given = network().cuda(), [batch_of(4, seed=seed) for seed in (1, 2)]
    for batch in given:
        batch.images, batch.labels = batch.images.cuda(), batch.labels.cuda()
    mixer(model, given[0], CrossEntropy())  # compiles kernels, brings the teacher
    with no_waits():
        loss = mixer(model, given[1], CrossEntropy())
    assert loss.isfinite()
