"""python -m fastmix.bench step: the whole training step on synthetic images, mixer by mixer, and timm's step beside it.

A step is mix, forward, backward and optimiser; data wait is not in it. timm's step is what its train script does: the
uint8 batch normalised by mul and add on the device, its Mixup class, soft-target cross-entropy, the same model,
precision, memory format and optimiser.
"""

from __future__ import annotations

import argparse

EPOCH_STEPS = 5004  # those of ImageNet-1k at 256 images a step: where the learning rate is in its schedule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="resnet50", help="a timm model")
    parser.add_argument("--mix", nargs="+", default=["mixup", "cutmix"], help="mixers with their default options")
    parser.add_argument("--teacher", metavar="FILE", help="weights of the teacher of attentivemix, supermix, tokenmix")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "fp16", "bf16"))
    parser.add_argument("--compile", default="off", choices=("off", "default", "reduce-overhead", "max-autotune"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=20)


def run(args: argparse.Namespace) -> list[dict]:
    """Rows in ms a step: `vanilla` and each mixer by fastmix, mixup and cutmix by timm, in one interleaved run."""
    import torch

    from fastmix import dist
    from fastmix.bench.measure import milliseconds, row
    from fastmix.config import Config, Data, Model
    from fastmix.task import precision

    device = dist.init(args.device)
    cfg = Config(
        precision=precision(args.precision, device),
        data=Data(size=args.size),
        model=Model(args.model, compile=args.compile),
        batch_total=args.batch,
    )
    generator = torch.Generator(device).manual_seed(0)
    shape = (args.batch, args.size, args.size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)
    labels = torch.randint(0, 1000, (args.batch,), device=device, generator=generator)
    names = dict.fromkeys(["vanilla", *args.mix])
    steps = {("fastmix", name): _ours(cfg, name, images, labels, args.teacher) for name in names}
    steps |= {("timm", name): _timm(cfg, name, images, labels) for name in ("mixup", "cutmix") if name in args.mix}
    times = milliseconds(steps, args.repeats, device.type)
    what = f"{args.batch}x{args.size}x{args.size}"
    kind = f"{cfg.precision}{' compiled' if args.compile != 'off' else ''}"
    return [
        row("step", f"{args.model} {name}", provider, what, kind, "ms", values, device=device.type)
        for (provider, name), values in times.items()
    ]


def _ours(cfg, name: str, images, labels, teacher: str | None):
    import inspect
    import itertools

    import torch

    from fastmix import models, optim
    from fastmix.mixers import MIXERS, build
    from fastmix.step import Step
    from fastmix.task import Task
    from fastmix.train import compile_networks

    options = {"weights": teacher} if name in MIXERS and "weights" in inspect.signature(MIXERS[name]).parameters else {}
    mixer = build(name, {name: options})
    model = models.build(cfg.model, 1000, 0, images.device).train()
    task = Task(model, mixer, cfg).to(images.device)
    opt = optim.build(cfg.optim, model, mixer.param_groups())
    compile_networks(cfg, model, mixer)
    scaler = torch.amp.GradScaler(images.device.type, enabled=cfg.precision == "fp16")
    step, count = Step(cfg, task, opt, scaler, EPOCH_STEPS), itertools.count()
    return lambda: step(images, labels, next(count))


def _timm(cfg, name: str, images, labels):
    import torch

    from fastmix import models, optim
    from fastmix.task import DTYPES

    model = models.build(cfg.model, 1000, 0, images.device).train()
    opt = optim.build(cfg.optim, model)
    if cfg.model.compile != "off":
        model.compile(mode=cfg.model.compile)
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy

    alpha = {"mixup_alpha": 0.2, "cutmix_alpha": 0.0} if name == "mixup" else {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}
    mixup, loss_of = Mixup(num_classes=1000, label_smoothing=0.0, **alpha), SoftTargetCrossEntropy()
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] * 255 for v in (cfg.data.mean, cfg.data.std))
    chw = images.permute(0, 3, 1, 2).contiguous()
    scaler = torch.amp.GradScaler(images.device.type, enabled=cfg.precision == "fp16")

    def step():
        x, y = mixup(chw.float().sub_(mean).div_(std), labels)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, DTYPES[cfg.precision], enabled=cfg.precision != "fp32"):
            loss = loss_of(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad(set_to_none=True)

    return step
