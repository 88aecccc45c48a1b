"""What holds of AutoMix, SAMix and AdAutoMix as parts of a run: state, precision, cost, compiling, processes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastmix import MIXERS, Batch, cli
from fastmix.config import Config, Optim, Schedule
from fastmix.engine import optim
from fastmix.kernels.mix_logits import mix_logits
from fastmix.kernels.upsample import upsample
from fastmix.mixers.mixblock import attend
from fastmix.mixers.momentum import stop
from fastmix.models import load_timm
from fastmix.models.sites import upto
from fastmix.targets import CrossEntropy
from helpers.automixing import (
    CLASSES,
    NETS,
    batch_of,
    close,
    every,
    gradients,
    inputs,
    network,
    normalised,
    numbers,
    pre_logits,
    prepared,
    take_step,
)
from helpers.mixing import constants
from helpers.small_runs import SMALL, rows, run, same, stop_at
from helpers.waiting import no_waits

pytestmark = pytest.mark.gradient

OWN = """
mixers:
  automix: {block_prob: 0.5, block: {lr: 0.1, min_lr: 0.001}}
  adautomix: {samples: 3}
"""


@every
def test_the_trained_model_is_the_plain_one(name):
    model = network()
    take_step(model, prepared(name, model), batch_of())
    plain = load_timm().create_model("test_resnet", num_classes=CLASSES, **NETS["test_resnet"])
    plain.load_state_dict(model.state_dict())
    x = batch_of(seed=5).mix()
    assert torch.equal(model.eval()(x), plain.eval()(x))


@every
def test_a_restored_state_takes_the_same_step(name):
    def pair(seed: int):
        model = network()
        return nn.ModuleDict({"model": model, "mixer": prepared(name, model, seed, momentum=(0.5, 0.9))})

    one, two = pair(0), pair(1)
    take_step(one["model"], one["mixer"], batch_of(seed=1))
    state = {key: copy.deepcopy(value) for key, value in one.state_dict().items()}
    two.load_state_dict(state)
    losses = []
    for task in (one, two):
        with torch.random.fork_rng():
            torch.manual_seed(7)  # the block's dropout
            losses.append(take_step(task["model"], task["mixer"], batch_of(seed=2), 0.2))
    assert torch.equal(*losses)
    for key, value in one.state_dict().items():
        same = value == two.state_dict()[key]
        assert same if isinstance(same, bool) else same.all(), key


@every
def test_a_step_is_a_function_of_the_generator_and_writes_nothing(name):
    losses = []
    for _ in range(2):
        model, batch = network(), batch_of(5, (65, 47))
        images, labels = batch.images.clone(), batch.labels.clone()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            losses.append(prepared(name, model)(model, batch, CrossEntropy()))
        assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)
    assert losses[0].requires_grad and losses[0].isfinite() and losses[0].ndim == 0
    assert torch.equal(*losses)


@every
@pytest.mark.parametrize("net", ["test_resnet", "deit_tiny_patch16_224"])
def test_half_precision_gives_the_loss_to_its_precision(name, net):
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model, batch = network(net), batch_of()
        batch.dtype = dtype
        mixer = prepared(name, model, **({"dropout": 0.0} if name == "samix" else {}))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            loss = mixer(model, batch, CrossEntropy())
        loss.backward()
        assert loss.dtype == torch.float32 and all(g.isfinite().all() for g in gradients(model, mixer))
        found.append(loss.item())
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_attention_is_in_single_precision_under_autocast():
    q, k, v = (3 * numbers(2, 9, d, seed=d) for d in (64, 65, 1))
    k = k[..., :64]
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v)
    expected = (q.double() @ k.double().mT / 8).softmax(2) @ v.double()
    assert found.dtype == torch.float32 and (found - expected[..., 0]).abs().max() < 1e-4


def test_stopping_early_changes_nothing_but_statistics_behind_the_site():
    found = []
    for early in (True, False):
        model = network()
        mixer = prepared("automix", model, early_stop=early)
        loss = mixer(model, batch_of(), CrossEntropy())
        loss.backward()
        counts = {key: int(v) for key, v in mixer.teacher.state_dict().items() if key.endswith("num_batches_tracked")}
        found.append((loss.detach(), gradients(model, mixer), counts))
    (loss, grads, stopped), (whole_loss, whole_grads, whole) = found
    assert torch.equal(loss, whole_loss) and all(map(torch.equal, grads, whole_grads))
    assert set(whole.values()) == {2} and {key for key in stopped if stopped[key] == 1} == {
        key for key in stopped if key.startswith("layer4")
    }


def test_without_batch_norm_two_passes_are_one():
    found = []
    for joint in (True, False):
        model = network("deit_tiny_patch16_224")
        mixer = prepared("automix", model)
        assert mixer.joint
        mixer.joint, seen = joint, inputs(model)
        loss = mixer(model, batch_of(), CrossEntropy())
        loss.backward()
        found.append((loss.detach(), gradients(model, mixer)))
        assert [len(x) for x in seen] == ([12] if joint else [6, 6])
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5) and close(found[0][1], found[1][1])


@torch.no_grad()
@pytest.mark.parametrize("early", [True, False])
def test_other_predictors_are_the_heads_of_both_networks(early):
    model = network()
    mixer = prepared("automix", model, early_stop=early)
    with torch.enable_grad():
        take_step(model, mixer, batch_of())
    own = [buffer.clone() for buffer in mixer.teacher.buffers()]
    found = mixer.predictors(model)
    x = batch_of(seed=9).mix()
    expected = {"q_one": (model, mixer.head), "k_mix": (mixer.teacher, None)}
    expected |= {"k_one": (mixer.teacher, mixer.teacher_head)}
    assert found.keys() == expected.keys()
    model.eval(), mixer.teacher.eval()
    for name, (net, head) in expected.items():
        logits = found[name].eval()(x)
        assert torch.equal(logits, net(x) if head is None else head(pre_logits(net, x)))
    statistics = model.buffers() if early else own
    assert all(map(torch.equal, mixer.teacher.buffers(), statistics))


@pytest.mark.long
@pytest.mark.parametrize(
    "net, args, share", [("resnet18", {}, 0.77), ("deit_tiny_patch16_224", {"img_size": 64}, 0.51)]
)
def test_a_step_costs_less_than_three(net, args, share):
    """Counted in floating-point operations: 2 batches through q (3 passes each), one through k (2), and k's stopped."""
    model = load_timm().create_model(net, num_classes=CLASSES, **args).train()
    batch = batch_of(2)

    def count(call) -> int:
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    mixer = MIXERS["automix"]()
    mixer.prepare(model)
    forward = count(lambda: model(batch.mix()))
    vanilla = count(lambda: MIXERS["vanilla"]()(model, batch, CrossEntropy()).backward())
    stopped = count(lambda: upto(mixer.teacher, batch.mix(), mixer.site))
    step = count(lambda: mixer(model, batch, CrossEntropy()).backward())
    assert stopped / forward == pytest.approx(share, abs=0.02)
    assert 2.8 < step / vanilla < 3.0
    adversarial = MIXERS["adautomix"]()
    adversarial.prepare(model)
    whole = count(lambda: adversarial(model, batch, CrossEntropy()).backward())
    assert whole / vanilla == pytest.approx(3.0, abs=0.1)


@pytest.mark.long
@pytest.mark.parametrize(
    "net, channels",
    [("resnet18", 256), ("resnext50_32x4d", 1024), ("efficientnet_b0", 112), ("mobilenetv2_100", 96)]
    + [("deit_small_patch16_224", 384), ("swin_tiny_patch4_window7_224", 384), ("convnext_tiny", 384)]
    + [("pvt_tiny", 320), ("moganet_tiny", 128), ("resnet18_cifar", 256)],
)
def test_the_site_is_a_map_of_fourteen_cells(net, channels):
    with torch.device("meta"):
        model = load_timm().create_model(net)
        site, found = stop("AutoMix", model, None)
        z = upto(model, torch.empty(1, 3, 224, 224), site)
    side = 56 if net.endswith("cifar") else 14
    assert found == channels and z.shape == (1, channels, side, side)


def test_its_parameters_follow_their_own_rates_and_the_rules_of_decay():
    model = network()
    mixer = prepared("automix", model, block={"lr": 0.2, "min_lr": 0.01, "momentum": 0.0})
    cfg = Config(optim=Optim(lr=0.1, momentum=0.9, weight_decay=0.05, no_decay=["bias"]), epochs=4)
    cfg.schedule = Schedule(per="step", warmup_epochs=1)
    opt = optim.build(cfg.optim, model, mixer.param_groups())
    of = {id(p): group for group in opt.param_groups for p in group["params"]}
    for step, cosine in [(0, 1.0), (20, 0.5)]:
        optim.set_rates(opt, cfg, step, 10)
        block, head = of[id(mixer.block.query.weight)], of[id(mixer.head.weight)]
        assert block["lr"] == pytest.approx(0.01 + 0.19 * cosine) and block["momentum"] == 0
        assert head["lr"] == of[id(next(model.parameters()))]["lr"] and head["momentum"] == 0.9
    for layer in (mixer.head, mixer.block.query, mixer.block.value):
        assert of[id(layer.weight)]["weight_decay"] == 0.05 and of[id(layer.bias)]["weight_decay"] == 0
    assert len(of) == sum(p.requires_grad for p in [*model.parameters(), *mixer.parameters()])
    fixed = prepared("automix", model, block={"weight_decay": 0.3})
    opt = optim.build(cfg.optim, model, fixed.param_groups())
    assert {g["weight_decay"] for g in opt.param_groups for p in g["params"] if p is fixed.block.query.bias} == {0.3}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the teacher's input, asked for by dynamo
@pytest.mark.parametrize("name, graphs", [("automix", 3), ("adautomix", 4)])
def test_compiled_networks_take_the_same_step(name, graphs):
    """One graph of the model for each head, one of the teacher for each way in which it is called."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    losses, counter = [], CompileCounter()
    for compiled in (False, True):
        model = network()
        mixer = prepared(name, model)
        for net in (model, *mixer.companions()) if compiled else ():
            net.compile(backend=counter)
        losses.append([take_step(model, mixer, batch_of(seed=seed)) for seed in range(3)])
    assert torch.allclose(torch.stack(losses[0]), torch.stack(losses[1]), rtol=1e-4)
    assert counter.frame_count == graphs


def test_errors_are_one_line():
    with pytest.raises(ValueError, match="^AutoMix: test_resnet has no linear classifier, for which .*$"):
        MIXERS["automix"]().prepare(load_timm().create_model("test_resnet", num_classes=0))
    with pytest.raises(ValueError, match="^SAMix: test_resnet has no site 'block3'; choose one of .*, classifier$"):
        MIXERS["samix"](site="block3").prepare(network())
    with pytest.raises(ValueError, match="^AutoMix: block is {'rate': 1}; it may hold .*$"):
        MIXERS["automix"](block={"rate": 1})
    with pytest.raises(ValueError, match="^AutoMix: block is {'lr': 0.1}; lr and min_lr go together$"):
        MIXERS["automix"](block={"lr": 0.1})
    with pytest.raises(ValueError, match=r"^AutoMix: momentum must be \[first, last\] .*$"):
        MIXERS["automix"](momentum=0.9)
    with pytest.raises(ValueError, match="^AutoMix: block_prob is 2; it must be a number from 0 to 1$"):
        MIXERS["automix"](block_prob=2)


@every
def test_what_is_shown_is_a_mixed_batch_and_changes_nothing(name):
    model = network()
    mixer, batch = prepared(name, model), constants(6, (64, 64), seed=3)
    before = {key: copy.deepcopy(value) for key, value in mixer.state_dict().items()}
    x = mixer.shown(model, batch, CrossEntropy()).images
    for key, value in mixer.state_dict().items():
        same = value == before[key]
        assert same if isinstance(same, bool) else same.all(), key
    assert all(module.training for module in (*mixer.modules(), *model.modules()))
    low, high = (normalised(batch)[k, :, 0, 0][:, None, None] for k in (0, 5))
    assert not x.requires_grad and (x - batch.mix()).abs().max() > 0.1
    assert (x >= low - 1e-5).all() and (x <= high + 1e-5).all()


@pytest.mark.long
@pytest.mark.parametrize("name", ["automix", "adautomix"])
def test_runs_stop_and_resume(name, tmp_path, monkeypatch):
    """The command as it is: a picture, other predictors in the log, an exact resume, a dry run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))
    (tmp_path / "small.yaml").write_text(SMALL.partition("mixers:")[0] + f"mix: {name}\n" + OWN)
    words = ("accum=2", "optim.no_decay=[bias]", "precise_bn=20")
    assert run(*words, "out=whole") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        assert run(*words, "out=parts") == cli.TRY_AGAIN
    assert run(*words, "out=parts", resume=True) == 0
    same(tmp_path / "whole/last.pt", tmp_path / "parts/last.pt")
    last = rows(tmp_path / "whole", "val")[-1]
    assert {"top1", "q_one_top1", "k_mix_top1", "k_one_top1"} <= last.keys()
    assert run("--dry-run") == 0


@pytest.fixture
def group(tmp_path):
    """This process alone, as a group of processes."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@every
def test_processes_share_the_gradients_of_all_parameters(name, group):
    """DDP refuses the second step where a parameter had no part in the first one."""
    options = {"samples": 3} if name == "adautomix" else {"block_prob": 0.0}
    found = []
    for shared in (False, True):
        model = network()
        mixer = prepared(name, model, **options)
        task = Step(model, mixer)
        module = nn.parallel.DistributedDataParallel(task) if shared else task
        for seed in range(2):
            task.zero_grad()
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                module(batch_of(seed=seed)).backward()
        found.append(gradients(model, mixer))
    assert close(*found, rtol=1e-5)


class Step(nn.Module):
    """What DDP wraps."""

    def __init__(self, model: nn.Module, mixer: nn.Module):
        super().__init__()
        self.model, self.mixer = model, mixer

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.mixer(self.model, batch, CrossEntropy())


@pytest.mark.cuda
@every
def test_nothing_waits_for_the_device(name):
    model = network().cuda()
    mixer = prepared(name, model).cuda()
    given = [batch_of(seed=seed) for seed in (1, 2)]
    given = [Batch(b.images.cuda(), b.labels.cuda(), b.rng) for b in given]
    take_step(model, mixer, given[0])  # compiles kernels
    with no_waits():
        loss = take_step(model, mixer, given[1])
    assert loss.isfinite()


def test_the_mask_of_a_grid_is_that_of_the_pixels():
    """Nearest commutes with the sigmoid: the sums of the pass are those of the mask of all pixels."""
    batch = batch_of(3, (56, 42))
    logits = numbers(3, 7, 6)
    partner = torch.tensor([2, 0, 1], dtype=torch.int32)
    _, area, square = mix_logits(batch.images, partner, logits, batch.mean, batch.std)
    s = upsample(logits, (56, 42), "nearest").sigmoid().double()
    assert torch.allclose(area.double(), s.sum((1, 2)), rtol=1e-6)
    assert torch.allclose(s.mean((1, 2)), logits.double().sigmoid().mean((1, 2)), rtol=1e-6)
    assert torch.allclose(square.double(), s.square().sum((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("net, std", [("test_resnet", 0.01), ("deit_tiny_patch16_224", 0.02)])
def test_the_second_head_begins_as_the_benchmarks_does(net, std):
    mixer = MIXERS["automix"]()
    mixer.prepare(network(net))
    weights = mixer.head.weight.detach()
    assert weights.std().item() == pytest.approx(std, rel=0.15) and not mixer.head.bias.any()
