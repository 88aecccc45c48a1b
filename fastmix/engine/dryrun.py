"""What a run would be, without its data and without training: `python -m fastmix.train CONFIG --dry-run`.

The model runs once on a batch that has shapes and no memory (torch's FakeTensorMode), so this takes seconds on any
machine. Nothing is written.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fastmix import config, distributed, mixers, models
from fastmix.config import Config
from fastmix.distributed import world
from fastmix.engine import loaders, optim
from fastmix.engine.augment import augmentation
from fastmix.engine.task import DTYPES, criterion, precision
from fastmix.models import pretrained, seen
from fastmix.models.frozen import Frozen
from fastmix.pipelines import loader_class
from fastmix.pipelines.sources import remote, shapes
from fastmix.pipelines.sources.resolve import exists, words
from fastmix.runs import data_seen, follower
from fastmix.runs.tables import markdown

PROCESSES = (1, 2, 4, 8)  # for which a step's parts are told
FP32 = 4  # bytes


def describe(cfg: Config) -> dict:
    """Sizes, schedule, parameter groups, memory and resolved choices of a run, as plain values.

    Raises ValueError as the run itself would, but not for data that is not there if a column says how large it is.
    """
    device = distributed.init(cfg.device)
    cfg = seen.resolved(copy.deepcopy(cfg))
    cfg.precision = precision(cfg.precision, device)
    mixer = mixers.build(cfg.mix, cfg.mixers, cfg.fidelity)
    augmentation(cfg), criterion(cfg)
    follower.require(cfg.track)
    data, found = _data(cfg, device)
    classes = cfg.model.classes = loaders.classes(cfg, data) if found else cfg.model.classes or data.classes
    told = _weights(cfg, data.class_names if found else [str(k) for k in range(classes)])
    for key in ("pretrained", "checkpoint_path"):  # the same network, without fetching its weights
        cfg.model.args.pop(key, None)
    with torch.device("meta"):
        model = models.build(cfg.model, classes, device="meta")
        models.require_sizes(model, cfg.model, loaders.sizes(cfg))
        mixer.prepare(model)
    frozen = Frozen(model, cfg.model.freeze)
    if cfg.model.unfreeze is None:
        frozen.set(thawed=False)
    groups = optim.param_groups(cfg.optim, model) + optim.own_groups(cfg.optim, mixer.param_groups())
    optimiser, slots = _optimiser(cfg, device)
    steps = len(data)
    return {
        "config": config.dump(cfg),
        "data": {"images": len(data.rows), "classes": classes, "found": found},
        "warnings": loaders.warnings(data),
        "batch": batch(cfg),
        "steps": {"epoch": steps, "run": cfg.epochs * steps, "images": cfg.epochs * steps * cfg.batch_total},
        "schedule": schedule(cfg, steps),
        "groups": [_group(group, cfg.optim) for group in groups],
        "model": {"name": cfg.model.name, "parameters": _count(model.parameters()), "multiply_adds": macs(model, cfg)},
        "memory": memory(model, cfg, slots),
        "weights": told + ([frozen.text] if cfg.model.freeze else []),
        "resolved": _resolved(cfg, device, optimiser),
    }


def text(found: dict) -> str:
    """`describe` for people: the config as YAML, then the rest in lines and small tables."""
    data, size, steps, model = (found[key] for key in ("data", "batch", "steps", "model"))
    cost = 3 * model["multiply_adds"] * steps["images"]
    opened = "" if data["found"] else " (not opened)"
    others = [n for n in PROCESSES if n != size["processes"] and size["total"] % (n * size["parts"]) == 0]
    parts = "".join(f"; {size['total'] // (n * size['parts']):,} on {n}" for n in others)
    rates = [[row["at"], f"{row['epoch']:g}", f"{row['step']:,}", f"{row['lr']:.4g}"] for row in found["schedule"]]
    groups = [
        [f"{row['weight_decay']:g}", f"{row['lr_scale']:.4g}", f"{row['tensors']:,}", f"{row['parameters']:,}"]
        for row in found["groups"]
    ]
    held = found["memory"] | {"together": sum(found["memory"].values())}
    return "\n".join(
        [
            found["config"],
            f"data: {data['images']:,} images, {data['classes']:,} classes{opened}",
            *found["warnings"],
            f"batch: {size['total']:,} = processes {size['processes']} x parts {size['parts']} x images "
            f"{size['part']:,}{parts}",
            f"steps: {steps['epoch']:,} an epoch, {steps['run']:,} in all; {steps['images']:,} images",
            f"model: {model['name']}, {model['parameters']:,} parameters, {model['multiply_adds'] / 1e9:.3f}e9 "
            f"multiply-adds an image; {cost:.1e} in all, where backward counts as two forward passes",
            *found["weights"],
            "",
            markdown(["schedule", "epoch", "step", "learning rate"], rates),
            markdown(["weight decay", "lr scale", "tensors", "parameters"], groups),
            markdown(["memory of a process", "GiB"], [[name, f"{v / 2**30:.3f}"] for name, v in held.items()]),
            markdown(["what", "resolved"], [list(row) for row in found["resolved"].items()]).rstrip(),
        ]
    )


def batch(cfg: Config) -> dict[str, int]:
    """total = processes x parts x part: the images of a step, of all processes, and of one forward pass."""
    return {
        "total": cfg.batch_total,
        "processes": world(),
        "parts": cfg.accum,
        "part": cfg.batch_total // (world() * cfg.accum),
    }


def schedule(cfg: Config, steps: int) -> list[dict]:
    """The learning rate at the first step of these epochs, and at the last step: `at`, `epoch`, `step`, `lr`."""
    end = cfg.epochs * steps
    points = {"start": 0, "end of warm-up": round(cfg.schedule.warmup_epochs * steps)}
    points |= {name: cfg.epochs * k // 4 * steps for k, name in ((1, "quarter"), (2, "half"), (3, "three quarters"))}
    points |= {"last epoch": end - steps, "last step": end - 1}
    if not cfg.schedule.warmup_epochs:
        del points["end of warm-up"]
    return [
        {
            "at": name,
            "epoch": round(step / steps, 2),
            "step": step,
            "lr": optim.learning_rate(cfg.schedule, cfg.optim.lr, step, steps, cfg.epochs),
        }
        for name, step in sorted(points.items(), key=lambda point: point[1])
        if step < end
    ]


@torch.no_grad()
def macs(model: nn.Module, cfg: Config) -> int:
    """Multiply-adds of convolutions and matrix products for one image at the training size, forward.

    The model is on the meta device.
    """
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, cfg.data.size, cfg.data.size, device="meta"))
    model.train()
    return counter.get_total_flops() // 2


def memory(model: nn.Module, cfg: Config, slots: int) -> dict[str, int]:
    """Bytes on each process: weights, gradients, optimiser, average, and activations of one forward pass.

    slots: tensors of a parameter's size that the optimiser keeps. Activations are what autograd saves for the backward
    pass of a part, with the half-precision copies of the weights; a mixer's own passes, workspaces and the
    fragmentation of memory are not in it, and a compiled model keeps less.
    """
    weights, buffers = FP32 * _count(model.parameters()), sum(b.nbytes for b in model.buffers())
    return {
        "weights": weights + buffers,
        "gradients": weights,
        "optimiser": slots * weights,
        "average": weights + buffers if cfg.ema.decay else 0,
        "activations": _activations(model, cfg),
    }


def _activations(model: nn.Module, cfg: Config) -> int:
    """Bytes of the memory that a forward pass keeps for the backward one, each piece once, weights excluded."""
    kept: dict[int, torch.UntypedStorage] = {}
    size, dtype = (batch(cfg)["part"], 3, cfg.data.size, cfg.data.size), DTYPES[cfg.precision]
    named = [*model.named_parameters(), *model.named_buffers()]
    with FakeTensorMode():
        fake = {
            name: torch.empty(value.shape, dtype=value.dtype, requires_grad=value.requires_grad)
            for name, value in named
        }
        own = {value.untyped_storage()._cdata for value in fake.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return tensor

        images = torch.empty(size, dtype=dtype, memory_format=torch.channels_last)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logits = torch.func.functional_call(model, fake, (images,))
            nn.functional.log_softmax(logits.float(), 1)
    return sum(storage.nbytes() for storage in kept.values())


def _data(cfg: Config, device: torch.device):
    """The training loader, and whether it is that of the data itself and not one of the same length."""
    source, name = cfg.data.train, cfg.column.table.split("_")[0]
    every = words(source)
    for url in filter(remote.is_url, [*every, *words(cfg.data.val)]):
        remote.parse(url)
    loader_class(cfg.data.loader)  # of data that is not here, another one takes the place
    if cfg.data.loader == "synthetic":
        return loaders.training(cfg, device), True
    if isinstance(source, str) and source.startswith(shapes.PREFIX):
        count = shapes.parse(source)[1]["n"], len(shapes.SHAPES)
    elif every and all(exists(word) and not remote.is_url(word) for word in every):
        return loaders.training(cfg, device), True
    elif name in data_seen.PUBLISHED:
        count = data_seen.PUBLISHED[name].train, data_seen.PUBLISHED[name].classes
    else:
        raise ValueError(
            f"data.train is {source!r}, which is not here, and no column of the tables says how large it is: give "
            "data.loader=synthetic 'data.train=n=IMAGES&classes=CLASSES'"
        )
    made = replace(cfg.data, loader="synthetic", train="n={}&classes={}".format(*count))
    return loaders.training(replace(cfg, data=made), device), False


def _weights(cfg: Config, names: list[str]) -> list[str]:
    """What the run begins with, in lines: the file is opened and held against the model; nothing is downloaded."""
    if cfg.model.weights == pretrained.TIMM:
        return [f"weights: timm's of {cfg.model.name}, not looked for"]
    return pretrained.build(cfg.model, names)[1] if cfg.model.weights else []


def _optimiser(cfg: Config, device: torch.device) -> tuple[str, int]:
    """What the optimiser resolves to, and how many tensors of a parameter's size it keeps: seen on one of them."""
    one = nn.Linear(3, 2, bias=False, device=device)
    opt = optim.build(replace(cfg.optim, layer_decay=1.0), one)
    one.weight.grad = torch.ones_like(one.weight)
    opt.step()
    fused = " (fused)" if opt.defaults.get("fused") else ""
    kept = [value for value in opt.state[one.weight].values() if isinstance(value, Tensor)]
    return f"{type(opt).__module__.split('.')[0]} {type(opt).__name__}{fused}", sum(
        value.shape == one.weight.shape for value in kept
    )


def _group(group: dict, cfg: config.Optim) -> dict:
    return {
        "weight_decay": group.get("weight_decay", cfg.weight_decay),
        "lr_scale": group.get("lr_scale", 1.0),
        "tensors": len(group["params"]),
        "parameters": _count(group["params"]),
    }


def _resolved(cfg: Config, device: torch.device, optimiser: str) -> dict[str, str]:
    from fastmix.pipelines.jpeg.turbo import library

    cuda = device.type == "cuda"
    return {
        "device": f"cuda, {torch.cuda.get_device_name(device)}" if cuda else "cpu",
        "precision": cfg.precision,
        "optimiser": optimiser,
        "mix pass": "Triton" if cuda else "numba",
        "batch-norm": "fused where it can be" if cuda and cfg.model.fused_norm == "auto" else "torch's own",
        "compile": cfg.model.compile,
        "loader": cfg.data.loader,
        "JPEG": "TurboJPEG 3, parts of an image" if library() else "simplejpeg, whole images",
        "NVIDIA apex": _there("apex.optimizers"),
        "ffcv": _there("ffcv"),
        "DALI": _there("nvidia.dali"),
    }


def _there(package: str) -> str:
    try:
        return "installed" if find_spec(package) else "not installed"
    except ModuleNotFoundError:
        return "not installed"


def _count(parameters) -> int:
    return sum(p.numel() for p in parameters)
