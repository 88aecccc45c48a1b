"""Batch-norm with ReLU and shortcuts by the kernels, beside torch's modules: what `test_norm_act.py` runs on a GPU.

TRITON_INTERPRET=1 python tests/kernels/norm_act_check.py [NAME ...]: in Triton's interpreter, all, or those named.
"""

from __future__ import annotations

import copy
import math
import sys
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastmix.kernels import norm_act as kernels
from fastmix.kernels.norm_act import CASES, gpu
from fastmix.kernels.norm_act.cases import Case
from fastmix.models import fused_norm

ROUNDING = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-7}  # at most; the interpreter cuts off
MORE = [
    Case((6, 10, 1, 1), "plain"),  # one value an image, channels that no block divides
    Case((2, 130, 9, 4), "normed"),
    Case((3, 24, 9, 9), "normed", training=False),
]
LAST = {"memory_format": torch.channels_last}


def modules(case: Case, dtype: torch.dtype, **options) -> tuple[dict[str, Tensor], list[nn.BatchNorm2d], nn.Module]:
    """Maps, norms and activation of a case, as modules of torch."""
    given, norms = case.arguments(dtype), []
    for one in filter(None, (given["norm"], given.get("second"))):
        norm = nn.BatchNorm2d(len(one.weight), **options)
        with torch.no_grad():
            norm.weight.copy_(one.weight)
            norm.bias.copy_(one.bias)
            if norm.track_running_stats:
                norm.running_mean.copy_(one.mean)
                norm.running_var.copy_(one.var)
        norms.append(norm.train(case.training))
    maps = {name: given[name] for name in ("x", "shortcut") if name in given}
    return maps, norms, nn.ReLU() if case.cap == math.inf else nn.ReLU6()


def told(way, maps: dict[str, Tensor], norms: list, act: nn.Module, grad: Tensor) -> dict[str, Tensor]:
    """All that a way of computing gives: the result, gradients, and running statistics."""
    maps = {name: value.detach().requires_grad_() for name, value in maps.items()}
    norms = [copy.deepcopy(norm) for norm in norms]
    out = way(maps["x"], norms[0], act, maps.get("shortcut"), *norms[1:])
    out.backward(grad.to(out.dtype))
    found = {"out": out.detach()} | {f"gradient of {name}": value.grad for name, value in maps.items()}
    for k, norm in enumerate(norms):
        found |= {f"gradient of {k}.{name}": p.grad for name, p in norm.named_parameters()}
        found |= {f"{k}.{name}": b for name, b in norm.named_buffers()}
    return found


def plainly(x, norm, act, shortcut=None, second=None) -> Tensor:
    z = norm(x)
    return act(z if shortcut is None else z + (shortcut if second is None else second(shortcut)))


def compared(case: Case, dtype: torch.dtype, device: str, **options) -> None:
    """The kernels, against torch's modules in float64: no further from them than torch's own in this type, and a
    rounding. Inputs lie away from where ReLU bends, so every way has the same mask.
    """
    maps, norms, act = modules(case, dtype, **options)
    grad = torch.randn(case.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = told(
        plainly, {k: v.double() for k, v in maps.items()}, [n.double() for n in copy.deepcopy(norms)], act, grad
    )
    assert ((exact["out"] == 0).float().mean() - 0.5).abs() < 0.4, "ReLU is put to use"
    maps, norms = {k: v.to(device) for k, v in maps.items()}, [norm.to(device) for norm in norms]
    grad = grad.to(device).contiguous(**LAST)
    assert fused_norm._possible(maps["x"], act, norms, norms, maps.get("shortcut"))
    found, theirs = (told(way, maps, norms, act, grad) for way in (fused_norm.norm_act, plainly))
    for name, wanted in exact.items():
        got, size = found[name].cpu().double(), wanted.abs().max()
        assert found[name].dtype == theirs[name].dtype and found[name].shape == theirs[name].shape, name
        apart = (theirs[name].cpu().double() - wanted).abs().max()
        kind = dtype if found[name].dtype == dtype else torch.float32
        assert (got - wanted).abs().max() <= apart + ROUNDING[kind] * size, (case, dtype, name)


def alike(one: Tensor, other: Tensor) -> bool:
    """Equal; on a GPU, whose convolutions and poolings add up in any order, nearly."""
    apart = (one - other).abs().max()
    return bool(apart <= 1e-3 * one.abs().max() if one.is_cuda else apart == 0)


# ---- checks ----


def every_case_in_fp32(device: str) -> None:
    for case in CASES + MORE:
        compared(case, torch.float32, device)


def cases_in_halves(device: str) -> None:
    for k, case in enumerate(CASES[2:5] + MORE):
        compared(case, (torch.float16, torch.bfloat16)[k % 2], device)


def programs_that_loop(device: str) -> None:
    """Over several tiles of rows, and of parts; on a GPU also as many as a step has."""
    with mock.patch.multiple(gpu, PROGRAMS=6, TILES=1, PARTS=2):
        compared(Case((2, 40, 31, 9), "plain"), torch.float32, device)
        compared(Case((2, 40, 15, 9)), torch.bfloat16, device)
    if device == "cuda":
        for shape in ((64, 64, 112, 112), (64, 256, 56, 56), (64, 2048, 7, 7)):
            compared(Case(shape, "normed"), torch.bfloat16, device)


def statistics(device: str) -> None:
    """Their momentum, or the mean over all batches; none at all; batches of one image."""
    for options in ({"momentum": None}, {"momentum": 0.01}, {"track_running_stats": False}, {"eps": 0.1}):
        compared(Case((3, 24, 9, 9), "normed"), torch.float32, device, **options)
    maps, (norm,), act = modules(Case((2, 16, 5, 5)), torch.float32, momentum=None)
    norm, batches = norm.to(device), [maps["x"].to(device) * k for k in (1, 2, 5)]
    for x in batches:
        fused_norm.norm_act(x.contiguous(**LAST), norm, act)
    wanted = torch.stack([x.double().var((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(norm.running_var.double(), wanted, rtol=1e-5, atol=0)
    assert norm.num_batches_tracked == 3


def a_far_mean(device: str) -> None:
    """Deviations a millionth of the mean, and a border of zeros before them: a sum of squares would drown them."""
    x = 1000 + 0.01 * torch.randn(4, 16, 24, 24, generator=torch.Generator().manual_seed(0))
    x[:, 8:, 0] = 0
    norm = nn.BatchNorm2d(16, track_running_stats=True, momentum=1.0).to(device)
    x = x.to(device).contiguous(**LAST)
    fused_norm.norm_act(x, norm, nn.ReLU())
    torch.testing.assert_close(norm.running_var.double(), x.double().var((0, 2, 3)), rtol=1e-2, atol=0)


def twice_the_same(device: str) -> None:
    """Bit for bit."""
    maps, norms, act = modules(Case((4, 40, 9, 7), "normed"), torch.bfloat16)
    maps, norms = {k: v.to(device) for k, v in maps.items()}, [norm.to(device) for norm in norms]
    grad = torch.randn(4, 40, 9, 7, dtype=torch.bfloat16, device=device)
    with mock.patch.object(gpu, "TILES", 1):
        first, second = (told(fused_norm.norm_act, maps, norms, act, grad) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def what_is_no_number(device: str) -> None:
    """Stays none, in its channel and its gradient, as with torch."""
    maps, norms, act = modules(Case((2, 8, 3, 3), "plain"), torch.float32)
    maps["x"][0, 3, 1, 1] = math.nan
    maps, norms = {k: v.to(device) for k, v in maps.items()}, [norm.to(device) for norm in norms]
    found, theirs = (told(way, maps, norms, act, torch.ones_like(maps["x"])) for way in (fused_norm.norm_act, plainly))
    for name in found:
        assert torch.equal(found[name].isnan(), theirs[name].isnan()), name


def networks() -> dict[str, tuple[nn.Module, int]]:
    """Small ones with all that is fused, and how many modules of each are."""
    from timm.models.mobilenetv3 import mobilenetv3_small_050
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    def resnet(block, **options) -> nn.Module:
        return ResNet(block, [1, 2, 1, 1], num_classes=5, channels=[8, 8, 16, 16], stem_width=8, **options)

    others = {"drop_path_rate": 0.2, "stem_type": "deep", "avg_down": True, "block_args": {"attn_layer": "se"}}
    return {
        "basic": (resnet(BasicBlock), 6),
        "bottleneck": (resnet(Bottleneck, cardinality=2, base_width=64), 6),
        "others": (resnet(Bottleneck, **others), 6),
        "mobilenet": (mobilenetv3_small_050(num_classes=5), 34),
    }


@torch.no_grad()
def without_biases(net: nn.Module) -> nn.Module:
    """The network with batch-norms whose ReLU stops about half of all values."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.zero_()
    return net


def smooth(net: nn.Module) -> nn.Module:
    """The network with what bends outside its norms replaced: there rounding decides on which side a value lies."""
    for parent in net.modules():
        gates = "fc1" in dict(parent.named_children()) or "conv_reduce" in dict(parent.named_children())
        for name, child in parent.named_children():
            if isinstance(child, nn.Hardswish) or gates and isinstance(child, nn.ReLU):
                setattr(parent, name, nn.SiLU())
            elif "sigmoid" in type(child).__name__.lower():
                setattr(parent, name, nn.Sigmoid())
    return net


def whole_networks(device: str) -> None:
    """A training step and an evaluation beside timm's, both held against float64. In the step every ReLU lets all
    through (a bias of 6 deviations): else two ways might differ in which values they stop. Which of the values is
    farthest off is rounding's luck, by how much the farthest one is less so."""
    torch.manual_seed(0)
    given = torch.randn(4, 3, 16, 16).to(device).contiguous(**LAST)
    for name, (model, count) in networks().items():
        for module in smooth(model).modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 6.0)
                nn.init.uniform_(module.weight, 0.5, 1.0)
        model = model.to(device, **LAST).train()
        fused, exact, found = copy.deepcopy(model), copy.deepcopy(model).double(), []
        assert fused_norm.fuse(fused) == count and fused_norm.fuse(fused) == 0
        for net in (exact, model, fused):
            x = given.to(next(net.parameters()).dtype)
            torch.manual_seed(1)  # of dropped paths
            logits = net(x)
            logits.square().sum().backward()
            values = dict(net.named_buffers()) | {k: p.grad for k, p in net.named_parameters()}
            values |= {"logits": logits, "evaluated": without_biases(net.eval())(x)}
            found.append({key: value.detach() for key, value in values.items()})
        little = 1e-3 * max(p.grad.abs().max() for p in exact.parameters())
        theirs, ours = (
            max(
                float((other[key].double() - wanted).abs().max() / (wanted.abs().max() + little))
                for key, wanted in found[0].items()
            )
            for other in found[1:]
        )
        assert ours <= 10 * theirs + 1e-3, (name, ours, theirs)


def what_is_fused(device: str) -> None:
    """Every norm of a ResNet; of a MobileNet those with ReLU."""
    real, x = kernels.norm_act, torch.randn(2, 3, 16, 16).to(device).contiguous(**LAST)
    for name in ("bottleneck", "mobilenet"):
        model = networks()[name][0].to(device, **LAST)
        fused_norm.fuse(model)
        with mock.patch.object(kernels, "norm_act", wraps=real) as calls:
            model(x)
        # Of each call x, norm, cap, and where there are any, shortcut and second norm.
        normed = sum(isinstance(given, kernels.Norm) for call in calls.call_args_list for given in call.args)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        fits = [norm for norm in norms if type(getattr(norm, "act", nn.ReLU())) is nn.ReLU]
        assert normed == len(fits) > 4 and (len(fits) < len(norms)) == (name == "mobilenet")


def under_autocast(device: str) -> None:
    """bf16 maps, fp32 weights: gradients have the types of what they are of."""
    model = networks()["bottleneck"][0].to(device, **LAST)
    fused_norm.fuse(model)
    with (
        torch.autocast(device, torch.bfloat16),
        mock.patch.object(kernels, "norm_act", wraps=kernels.norm_act) as calls,
    ):
        out = model.layer1(torch.rand(2, 64, 8, 8, device=device).contiguous(**LAST))
    assert {call.args[0].dtype for call in calls.call_args_list} == {out.dtype} == {torch.bfloat16}
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.layer1.parameters())


def checkpointed(device: str) -> None:
    """Activations computed again: the same gradients; running statistics move twice, as torch's do."""
    x = torch.randn(2, 3, 16, 16).to(device).contiguous(**LAST)
    plain = networks()["basic"][0].to(device, **LAST).train()
    fused_norm.fuse(plain)
    again = copy.deepcopy(plain)
    again.set_grad_checkpointing(True)
    for net in (plain, again):
        net(x).square().sum().backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        assert alike(one.grad, other.grad)
    assert plain.layer1[0].bn1.num_batches_tracked == 1 and again.layer1[0].bn1.num_batches_tracked == 2


def hooks(device: str) -> None:
    """Who waits for a norm's own output gets it, and the result is the same."""
    model, seen = networks()["basic"][0].to(device, **LAST).train(), []
    x = torch.randn(2, 3, 16, 16).to(device).contiguous(**LAST)
    nn.init.ones_(model.layer2[0].bn2.weight)
    fused_norm.fuse(model)
    before = model(x)
    for norm in (model.bn1, model.layer2[0].bn2, model.layer2[0].downsample[-1]):
        norm.register_forward_hook(lambda module, given, output: seen.append(output.clone()))
    apart = (model(x) - before).abs().max()
    assert apart <= (1e-2 if x.is_cuda else 1e-5) * before.abs().max()  # convolutions in TF32
    assert len(seen) == 3 and all((value < 0).any() for value in seen), "not yet activated"


def compiled(device: str) -> None:
    """A compiled network has timm's operations, in one graph, and so would have what is exported."""
    model = networks()["bottleneck"][0].to(device, **LAST).eval()
    x = torch.randn(2, 3, 16, 16).to(device).contiguous(**LAST)
    fused = copy.deepcopy(model)
    fused_norm.fuse(fused)
    graphs = [torch.export.export(net, (x,)).graph for net in (model, fused)]
    theirs, ours = (sorted(str(node.target) for node in graph.nodes if node.op == "call_function") for graph in graphs)
    assert ours == theirs and "aten.batch_norm.default" in ours
    assert alike(torch.compile(fused, backend="eager", fullgraph=True)(x), model(x))


# ---- two processes ----


def process() -> None:
    """One of two, which share statistics and have 3 and 5 images of a batch: beside one that has all of them."""
    from timm import layers

    rank = dist.get_rank()
    given, norms, act = modules(Case((8, 24, 5, 5), "normed"), torch.float32)
    grad = torch.randn(8, 24, 5, 5, generator=torch.Generator().manual_seed(1))
    maps64 = {name: value.double() for name, value in given.items()}
    exact = told(plainly, maps64, [norm.double() for norm in copy.deepcopy(norms)], act, grad)
    own = slice(0, 3) if rank == 0 else slice(3, 8)
    shared = [nn.SyncBatchNorm.convert_sync_batchnorm(norm) for norm in norms]
    maps = {name: value[own].contiguous(**LAST) for name, value in given.items()}
    found = told(fused_norm.norm_act, maps, shared, act, grad[own])
    for name, wanted in exact.items():
        got = found[name]
        if wanted.ndim == 4:
            wanted = wanted[own]
        elif name.startswith("gradient"):
            dist.all_reduce(got)
        assert (got.double() - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name
    timms = layers.convert_sync_batchnorm(layers.BatchNormAct2d(24))
    assert fused_norm.fuse(timms) == 1
    whole = nn.BatchNorm2d(24)(given["x"]).relu()
    torch.testing.assert_close(timms(maps["x"]), whole[own], rtol=1e-4, atol=1e-5)
    fixed = told(fused_norm.norm_act, maps, [norm.eval() for norm in shared], act, grad[own])
    alone = told(plainly, maps, [norm.eval() for norm in norms], act, grad[own])
    torch.testing.assert_close(fixed["out"], alone["out"], rtol=1e-5, atol=1e-6)


CHECKS = [
    every_case_in_fp32,
    cases_in_halves,
    programs_that_loop,
    statistics,
    a_far_mean,
    twice_the_same,
    what_is_no_number,
    whole_networks,
    what_is_fused,
    under_autocast,
    checkpointed,
    hooks,
    compiled,
]


def main() -> int:
    import time

    for check in CHECKS:
        if not sys.argv[1:] or check.__name__ in sys.argv[1:]:
            began = time.process_time()
            check("cpu")
            print(f"{check.__name__}: {time.process_time() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
