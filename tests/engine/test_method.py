"""Method in a plain loop against the trainer's step, and what wraps a module: DDP, FSDP2, compile, checkpoints."""

import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmix import MIXERS, Method, config
from fastmix.batch import Batch
from fastmix.engine import optim
from fastmix.engine.method import step_rng
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.mixers import build
from fastmix.mixers.cutmix import CutMix
from fastmix.targets import Targets
from helpers import attending, own, teaching
from helpers.forked import two_processes
from helpers.tasks import CLASS_TOKEN, OPTIONS, batch, network

pytestmark = pytest.mark.gradient

every = pytest.mark.parametrize("name", MIXERS)
STEPS = 3


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return teaching.teacher_file(tmp_path_factory.mktemp("teacher"), teaching.trained())


def options(name: str, teacher: str) -> dict:
    found = dict(OPTIONS.get(name, {}))
    return found | {"weights": teacher} if "teacher" in found else found


def gradients(opt: torch.optim.Optimizer) -> list[list[torch.Tensor]]:
    """Those of each step to come, group by group."""
    found = []

    def keep(opt, args, kwargs):
        found.append([p.grad.clone() for group in opt.param_groups for p in group["params"]])

    opt.register_step_pre_hook(keep)
    return found


def labelled(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch(6, seed=seed)
    return images, labels % attending.CLASSES


def by_the_trainer(name: str, given: dict, model: nn.Module) -> tuple[list, list, nn.Module]:
    cfg = config.Config(precision="fp32", epochs=1, seed=5, optim=config.Optim(lr=0.05, momentum=0.9))
    cfg.schedule.warmup_epochs = 0
    task = Task(model, build(name, {name: given}), cfg).train()
    opt = optim.build(cfg.optim, model, task.mixer.param_groups())
    found = gradients(opt)
    step = Step(cfg, task, opt, torch.amp.GradScaler("cpu", enabled=False), STEPS)
    losses = [step(*labelled(k), k)[0] for k in range(STEPS)]
    return losses, found, task


def by_a_loop(name: str, given: dict, model: nn.Module) -> tuple[list, list, nn.Module]:
    method = Method(name, model, rng=5, total_steps=STEPS, **given).train()
    opt = torch.optim.SGD(method.param_groups(lr=0.05, weight_decay=1e-4), momentum=0.9, fused=True)
    found, losses = gradients(opt), []
    for k in range(STEPS):
        torch.manual_seed(step_rng(5, k, 0, 1).integers(2**63))  # dropout, as the trainer seeds it
        loss = method(*labelled(k))
        losses.append(loss.detach())
        loss.backward()
        opt.step()
        opt.zero_grad()
        method.after_step()
    return losses, found, method


def vit() -> nn.Module:
    model = attending.network((64, 64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.reset_classifier(teaching.CLASSES)
    return model


MODELS = {"cnn": lambda: network("mixup"), "vit": vit, "own": lambda: own.made(own.Plain)}
MODELS |= {"own vit": lambda: own.made(own.Tokens)}
PLACES = {"vit": ["block0", "block1"], "own": ["layer1", "layer2"], "own vit": ["blocks.0", "blocks.1"]}


def works(name: str, kind: str) -> bool:
    """Whether the method knows such a model: attention of a class token, or a map."""
    return kind in ("vit", "own vit") if name in CLASS_TOKEN else name != "snapmix" or kind in ("cnn", "own")


def placed(name: str, kind: str) -> dict:
    """Options of a method that needs places inside a model which is not timm's."""
    if kind not in PLACES:
        return {}
    if name == "choice":
        return {"of": {"mixup": {"prob": 0.5}, "automix": {"prob": 0.5, "site": PLACES[kind][1]}}}
    takes = inspect.signature(MIXERS[name]).parameters
    return {"site": PLACES[kind][1]} if "site" in takes else {"sites": PLACES[kind]} if "sites" in takes else {}


ELSEWHERE = ("cutmix", "automix", "transmix")  # in quick runs tried on other models than a small ResNet
PAIRS = [
    pytest.param(name, kind, marks=[] if kind == "cnn" or name in ELSEWHERE else [pytest.mark.long])
    for name in MIXERS
    for kind in MODELS
]


@pytest.mark.parametrize("name, kind", PAIRS)
def test_a_loop_takes_the_trainers_steps(name, kind, teacher):
    """The same losses and gradients, bit for bit, for the same seed."""
    given = options(name, teacher) | placed(name, kind)
    if not works(name, kind):
        with pytest.raises(ValueError, match="has no (class token|map|linear classifier)|from a class token, not"):
            Method(name, MODELS[kind](), **given)(*batch(6))
        return
    losses, theirs, task = by_the_trainer(name, given, MODELS[kind]())
    found, ours, method = by_a_loop(name, given, MODELS[kind]())
    assert torch.equal(torch.stack(losses), torch.stack(found))
    for one, two in zip(theirs, ours, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    one, two = task.state_dict(), method.state_dict()
    assert one.keys() == two.keys() - {"_extra_state"}
    assert all(torch.equal(v, two[key]) for key, v in one.items() if isinstance(v, torch.Tensor))


def test_the_losses_are_the_written_out_ones():
    """Of mixup by hand: torch's cross-entropy of both labels, on images that are normalised and mixed in float64."""
    model, (images, labels) = network("mixup"), batch(6)
    method = Method("mixup", model, alpha=1.0, rng=3)
    plan = MIXERS["mixup"](1.0).plan(Batch(images, labels, step_rng(3, 0, 0)))
    x = images.double() / 255
    x = ((x - torch.tensor(method.mean)) / torch.tensor(method.std)).permute(0, 3, 1, 2)
    lam, other = float(plan.own[0]), plan.partner.long()
    logits = copy.deepcopy(model)((lam * x + (1 - lam) * x[other]).float())
    wanted = lam * F.cross_entropy(logits, labels) + (1 - lam) * F.cross_entropy(logits, labels[other])
    torch.testing.assert_close(method(images, labels), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(method.last.partner, plan.partner) and torch.equal(method.last.weights[:, 0], plan.own)
    assert torch.equal(method.last.plan.table, plan.table)


def test_what_automix_reports_is_the_models_own_mixture(teacher):
    method = Method("automix", network("automix"))
    method(*batch(6))
    assert method.last.labels.shape == (6, 2) and method.last.plan is None
    assert torch.equal(method.last.labels[:, 1], batch(6)[1][method.last.partner.long()])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "strided"])
def test_layouts_of_whole_pixels(layout):
    images, labels = batch(6)
    given = images if layout == "NHWC" else images.permute(0, 3, 1, 2)
    given = given.contiguous() if layout == "NCHW" else given
    model = network("cutmix")
    assert torch.equal(Method("cutmix", copy.deepcopy(model))(given, labels), Method("cutmix", model)(images, labels))


def normalised(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """As a loader of floats gives them, [B,3,H,W]."""
    return Batch(images, torch.arange(len(images)), None, dtype=dtype).mix().contiguous()


def smooth(name: str) -> nn.Module:
    """The method's network without ReLU, in which a rounding flips nothing."""
    model = network(name)
    for module in [*model.modules()]:
        for child, part in module.named_children():
            if isinstance(part, nn.ReLU):
                setattr(module, child, nn.SiLU())
            elif isinstance(part, nn.MaxPool2d):
                setattr(module, child, nn.AvgPool2d(part.kernel_size, part.stride, part.padding))
    return model


@every
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planar", "channels-last"])
def test_floats_give_the_loss_of_whole_pixels(name, layout, teacher):
    images, labels = batch(6)
    losses, grads = [], []
    for given in (images, normalised(images).to(memory_format=layout)):
        model = smooth(name)
        torch.manual_seed(0)  # dropout
        loss = Method(name, model, rng=5, **options(name, teacher))(given, labels)
        loss.backward()
        losses.append(loss.detach())
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    assert (grads[0] - grads[1]).norm() < 1e-4 * grads[0].norm()


def test_mixed_floats_lie_as_they_were_given():
    images, labels = batch(6)
    method = Method("mixup", network("mixup"))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            x, _ = method.mix(normalised(images, dtype).to(memory_format=layout), labels)
            assert x.dtype == dtype and x.is_contiguous(memory_format=layout)


def test_a_batch_that_is_still_needed_is_not_overwritten():
    """Two forward passes before their backward passes: the gradient is that of each by itself."""
    model = smooth("mixup")
    grads = []
    for together in (False, True):
        method, losses = Method("mixup", model, rng=3), []
        for k in range(2):
            losses.append(method(*batch(6, seed=k)))
            if not together:
                losses[k].backward()
        if together:
            sum(losses).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
        x, _ = method.mix(*batch(6))
        place = x.data_ptr()
        assert method.mix(*batch(6))[0].data_ptr() != place
        del x
        assert method.mix(*batch(6))[0].data_ptr() == place, "memory that nobody needs is used again"
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_the_pixels_of_normalised_images_come_back():
    images, labels = batch(6)
    for dtype in (torch.float32, torch.float16):
        assert torch.equal(Batch(normalised(images, dtype).permute(0, 2, 3, 1), labels, None).pixels, images)


def test_mixed_inputs_and_their_targets():
    images, labels = batch(6)
    method = Method("cutmix", network("cutmix"), smoothing=0.1)
    x, (pairs, weights) = method.mix(images, labels, rng=step_rng(0, 0, 0))
    again, dense = method.mix(images, labels, dense=True, rng=step_rng(0, 0, 0))
    assert torch.equal(x, again)
    wanted = 0.9 * torch.einsum("bm,bmc->bc", weights, F.one_hot(pairs, 10).float()) + 0.01
    torch.testing.assert_close(dense, wanted)
    loss = Method("cutmix", method.model, smoothing=0.1)(images, labels, rng=step_rng(0, 0, 0))
    torch.testing.assert_close(F.cross_entropy(method.model(x), dense), loss)


@every
def test_only_methods_that_change_the_input_give_it(name, teacher):
    given = options(name, teacher)
    method, shown = Method(name, network(name), **given), batch(6)
    if not method.mixer.changes_input_only:
        with pytest.raises(ValueError, match=f"{type(method.mixer).__name__} does more than change the input"):
            method.mix(*shown)
        return
    loss = method(*shown)
    x, (labels, weights) = Method(name, network(name), **given).mix(*shown)
    twin = network(name)
    torch.testing.assert_close(method.criterion(twin(x), Targets(labels, weights)), loss)


@every
def test_soft_labels_that_are_one_hot_are_the_labels(name, teacher):
    images, labels = batch(6)
    given, loss = options(name, teacher), []
    classes = network(name).num_classes
    for target in (labels % classes, F.one_hot(labels % classes, classes).float()):
        torch.manual_seed(0)
        method = Method(name, network(name), rng=2, smoothing=0.1, **given)
        if target.is_floating_point() and not method.mixer.takes_soft:
            with pytest.raises(ValueError, match=f"{type(method.mixer).__name__} asks for the class of an image"):
                method(images, target)
            return
        loss.append(method(images, target).detach())
    torch.testing.assert_close(*loss)


def test_soft_labels_are_mixed_as_the_images_are():
    images, rng = batch(6)[0], np.random.default_rng(0)
    labels = torch.from_numpy(rng.random((6, 4), np.float32))
    method = Method("mixup", network("mixup"), alpha=1.0, granularity="sample")
    _, dense = method.mix(images, labels, dense=True)
    own = method.last.plan.own[:, None]
    torch.testing.assert_close(dense, own * labels + (1 - own) * labels[method.last.partner.long()])
    grouped = Method("comixup", network("comixup"), group=3, clean_lam=0.0)
    _, dense = grouped.mix(images, labels, dense=True)
    plan = grouped.last.plan
    wanted = sum(w[:, None] * labels[s.long()] for w, s in zip(plan.weights.T, plan.sources.T, strict=True))
    torch.testing.assert_close(dense, wanted)


@pytest.mark.parametrize("name", ["vanilla", "mixup", "cutmix", "resizemix", "saliencymix", "puzzlemix", "smoothmix"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_what_belongs_to_the_pixels_is_mixed_with_them(name, count):
    """Masks that are the images' own channels come back as the mixed images'."""
    images, labels = batch(6)
    x = normalised(images)
    channels = torch.arange(count) % 3
    mixed, _, (masks, same) = Method(name, network(name)).mix(x, labels, also=[x[:, channels], x])
    assert masks.shape[1] == count and torch.equal(masks, mixed[:, channels]) and torch.equal(same, mixed)
    for wrong in (x[:, :, 1:], x[1:], (x > 0).long(), x[0]):
        with pytest.raises(ValueError, match=r"also: must be floats \[6,K,64,64\]"):
            Method(name, network(name)).mix(x, labels, also=[wrong])


@pytest.mark.parametrize("loss", ["ce", "bce", "torch"])
def test_losses(loss):
    model, (images, labels) = network("mixup"), batch(6)
    given = nn.CrossEntropyLoss() if loss == "torch" else loss
    method = Method("mixup", copy.deepcopy(model), alpha=1.0, loss=given, smoothing=0.2)
    found = method(images, labels)
    x, dense = Method("mixup", model, alpha=1.0, smoothing=0.2).mix(images, labels, dense=True)
    if loss == "bce":
        wanted = F.binary_cross_entropy_with_logits(model(x), dense, reduction="none").sum(1).mean()
    else:
        wanted = F.cross_entropy(model(x), dense)
    torch.testing.assert_close(found, wanted)


def test_eval_mode_is_the_plain_model():
    images, labels = batch(6)
    model = network("automix")
    method = Method("automix", model).eval()
    logits = method(images)
    assert torch.equal(logits, model(Batch(images, labels, None).mix()))
    torch.testing.assert_close(method(images, labels), F.cross_entropy(logits, labels))
    assert torch.equal(method.mix(images, labels)[1][0], labels[:, None])
    method.train().mixing = False
    assert method.last.partner is None and method(images, labels).isfinite() and method.last.partner is None


def drawn(method: Method) -> list:
    found = []
    for _ in range(2):
        method(*batch(6))
        found += method.last.weights[:, 0].tolist()
    method.after_step()
    return found


def test_draws_follow_from_the_seed_and_go_on_after_a_checkpoint():
    method, other = (Method("mixup", network("mixup"), alpha=1.0, granularity="sample", rng=7) for _ in range(2))
    first = drawn(method)
    assert len({*first}) == len(first), "every pass draws anew"
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    second = drawn(method)
    assert not {*first} & {*second} and drawn(other) == second
    seeds = [Method("vanilla", network("mixup"), rng=rng).seed for rng in (
        np.random.default_rng(1), np.random.default_rng(1), torch.Generator().manual_seed(1), 1)]  # fmt: skip
    assert seeds[0] == seeds[1] and len({*seeds}) == 3


def test_groups_spare_what_they_are_told_and_keep_the_methods_own_rate():
    block = {"lr": 0.5, "min_lr": 0.1, "weight_decay": 0.0, "momentum": 0.8}
    method = Method("automix", network("automix"), block=block)
    groups = method.param_groups(lr=0.1, weight_decay=0.01, no_decay=("norm", "bias"))
    trained = [p for p in method.parameters() if p.requires_grad]
    assert {id(p) for group in groups for p in group["params"]} == {*map(id, trained)}
    assert sum(len(group["params"]) for group in groups) == len(trained)
    for group in groups:
        own = {id(p) for p in method.mixer.block.parameters()} & {*map(id, group["params"])}
        assert group["lr"] == (0.5 if own else 0.1)
        small = all(p.ndim <= 1 for p in group["params"])
        assert group["weight_decay"] == (0.0 if own or small else 0.01)
    torch.optim.SGD(groups, momentum=0.9)


@pytest.mark.parametrize(
    "made, says",
    [
        (lambda: Method("cutmax", nn.Identity()), "no mixer 'cutmax'; did you mean 'cutmix'"),
        (lambda: Method("cutmix", nn.Identity(), beta=1), "cutmix has no option 'beta'"),
        (lambda: Method(CutMix(), nn.Identity(), alpha=1), "alpha: options go with a mixer's name"),
        (lambda: Method("cutmix", nn.Identity(), loss="mse"), "loss is 'mse'; choose one of ce, bce"),
        (lambda: Method("vanilla", nn.Conv2d(3, 3, 1)).classes, "Conv2d cannot be looked at .*: say image_size=N"),
        (
            lambda: Method("cutmix", nn.Identity())(torch.zeros(2, 1, 8, 8), torch.arange(2)),
            r"images must be \[B,H,W,3\]",
        ),
        (
            lambda: Method("cutmix", nn.Identity())(*batch(2)[:1], torch.arange(3)),
            r"labels must be int64 \[B\] or float",
        ),
    ],
)
def test_mistakes_are_one_line(made, says):
    with pytest.raises(ValueError, match=says) as caught:
        made()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("on", [False, True], ids=["plain", "autocast"])
def test_what_the_model_is_given_follows_autocast(on):
    seen, model = [], network("mixup")
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=on):
        Method("mixup", model)(*batch(4)).backward()
    assert seen == [torch.bfloat16 if on else torch.float32]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules, which dynamo imports
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the teacher's input, asked for by dynamo
@pytest.mark.parametrize("name", ["cutmix", "automix"])
def test_compiled_networks_give_the_same_loss(name):
    images, labels = batch(6)
    wanted = Method(name, network(name))(images, labels)
    method = Method(name, network(name))
    method.compile(backend="aot_eager")
    outer = torch.compile(Method(name, network(name)), backend="aot_eager")
    for found in (method(images, labels), outer(images, labels)):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def process(teacher: str, out: str) -> None:
    """One of two processes: two steps of two methods in DDP and FSDP2; each process saves what it ends with."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    found = {}
    for name in ("cutmix", "automix"):
        for way in ("DDP", "FSDP2"):
            model = network(name).to(memory_format=torch.contiguous_format)
            method = Method(name, model)
            wrapped = DistributedDataParallel(method) if way == "DDP" else fully_shard(method)
            opt = torch.optim.SGD(method.param_groups(lr=0.05), momentum=0.9)
            for k in range(2):
                wrapped(*batch(4, seed=2 * k + dist.get_rank())).backward()
                opt.step()
                opt.zero_grad()
                method.after_step()
            values = [p.full_tensor() if way == "FSDP2" else p for p in method.parameters()]
            found[name, way] = torch.cat([p.detach().flatten() for p in values])
    torch.save(found, f"{out}.{dist.get_rank()}")


@pytest.mark.long
def test_two_processes_wrap_it(running, teacher, tmp_path):
    """Both processes end with the same weights, and DDP and FSDP2 with the same but for the order of sums."""
    two_processes(running, __file__, teacher, str(tmp_path / "weights"))
    one, two = (torch.load(tmp_path / f"weights.{rank}", weights_only=True) for rank in (0, 1))
    for name in ("cutmix", "automix"):
        for way in ("DDP", "FSDP2"):
            assert torch.equal(one[name, way], two[name, way])
        torch.testing.assert_close(one[name, "DDP"], one[name, "FSDP2"], rtol=1e-3, atol=1e-4)
