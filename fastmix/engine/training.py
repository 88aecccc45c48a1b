"""A run from its config to its exported weights: builds the parts, trains them in the loop, tells what was reached."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import torch
from torch import nn

from fastmix import distributed, files, mixers, models
from fastmix.config import Config, dump
from fastmix.engine import captured_step, loaders, loop, optim, picture
from fastmix.engine.checkpoint import State
from fastmix.engine.ema import Ema
from fastmix.engine.log import Log
from fastmix.engine.task import Task, precision
from fastmix.models import weights
from fastmix.models.info import KEY, Info
from fastmix.runs import run_folder


def train(cfg: Config, name: str, resume: bool = False) -> str:
    """Trains as `cfg` says; `name` names the run folder where the config does not.

    Returns what was reached, as a line; empty where the run was stopped, and on all processes but the first. Raises
    FloatingPointError where the loss is not finite, ValueError for what cannot be trained.
    """
    device = distributed.init(cfg.device)
    cfg.precision = precision(cfg.precision, device)
    mixer = mixers.build(cfg.mix, cfg.mixers)
    data, val = loaders.training(cfg, device), loaders.validation(cfg, device)
    cfg.model.classes = loaders.classes(cfg, data, val)
    model = models.build(cfg.model, cfg.model.classes, cfg.seed, device)
    task = Task(model, mixer, cfg).to(device)
    opt = optim.build(cfg.optim, model, mixer.param_groups())
    if cfg.cuda_graph:
        captured_step.check(cfg, mixer, opt, device)
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")
    ema = Ema(model, cfg.ema.decay, cfg.ema.ramp_steps) if cfg.ema.decay else None

    folder = run_folder.choose(cfg, name, resume)
    parts = {"task": task, "opt": opt, "scaler": scaler} | ({"ema": ema.module} if ema else {})
    state = State(folder, cfg, parts)
    if resume and state.last.exists():
        state.restore()
    steps, lead = cfg.epochs * len(data), distributed.rank() == 0
    distributed.barrier()  # all processes have looked for a free folder
    if lead:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(dump(cfg), encoding="utf-8")
        files.write_text(folder / "model.json", described(cfg, data.class_names).text + "\n")
        (folder / "versions.json").write_text(json.dumps(run_folder.versions(), indent=1) + "\n", encoding="utf-8")
    if lead and state.step == 0:
        picture.first_batch(task, data, folder / "first_batch.png")
    distributed.barrier()
    compile_networks(cfg, model, mixer)
    torch.backends.cudnn.benchmark = True

    signal.signal(signal.SIGTERM, lambda *_: setattr(state, "stop", True))
    log, began, first = Log(folder / "log.jsonl", steps, state.step, lead), time.perf_counter(), state.step
    what = f"{cfg.model.name}, {cfg.mix}, {cfg.model.classes} classes, {data.n} images, {cfg.epochs} epochs"
    log.say(f"{name}: {what}, {cfg.precision} on {device.type} -> {folder}")
    try:
        loop.train(cfg, task, data, val, opt, scaler, ema, state, log)
        if state.stop:
            log.say(f"stopped at step {state.step} of {steps}, saved; continue with --resume out={folder}")
            return ""
    finally:
        log.close()
        distributed.close()
    if not lead:
        return ""
    export(folder / "model.safetensors", ema.module if ema else model, described(cfg, data.class_names))
    seconds, images = time.perf_counter() - began, (state.step - first) * cfg.batch_total
    score = state.result["ema_top1" if ema else "top1"]
    return (
        f"done: top-1 {score:.2f} % (best {state.best:.2f} %) after {cfg.epochs} epochs, {seconds:.0f} s, "
        f"{images / seconds:.0f} images/s -> {folder}"
    )


def compile_networks(cfg: Config, model: nn.Module, mixer: mixers.Mixer) -> None:
    """Compiles the model, and networks of the method's own, if the config says so."""
    if cfg.model.compile != "off":
        # Graphs of one class: in train and eval mode, of each site and head. Not in torch.compiler.config before 2.9.
        torch._dynamo.config.recompile_limit = 64
        for net in (model, *mixer.companions()):
            net.compile(mode=cfg.model.compile)


def described(cfg: Config, classes: list[str]) -> Info:
    """The model that a run trains, as one must know it to use it."""
    data, names = cfg.data, [str(k) for k in range(cfg.model.classes)]
    seen = {"size": data.val_size or data.size, "resize": data.val_resize, "interpolation": data.interpolation}
    names[: len(classes)] = classes
    return Info(cfg.model.name, names, **seen, mean=data.mean, std=data.std, args=cfg.model.args)


def export(path: Path, model: nn.Module, info: Info) -> None:
    """The weights alone, as timm loads them, and in the file's metadata what the model is; atomic."""
    with files.whole(path) as part:
        weights.write(part, model, {KEY: info.text})
