"""A run from its config to its exported weights: builds the parts, trains them in the loop, tells what was reached."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch

from fastmix import distributed, files, mixers, models
from fastmix.config import Config, dump
from fastmix.engine import captured_step, export, loaders, loop, optim, picture, stopping
from fastmix.engine.checkpoint import State
from fastmix.engine.ema import Ema
from fastmix.engine.log import Log
from fastmix.engine.task import Task, precision
from fastmix.errors import foreign, words
from fastmix.mixers.base import Mixer
from fastmix.models import pretrained, seen
from fastmix.models.info import Info
from fastmix.runs import data_seen, follower, run_folder


class Failed(Exception):
    """Why a run that had begun could not go on, in a line: loss or weights that are not finite, a write that failed."""


def train(cfg: Config, name: str, resume: bool = False, quiet: bool = False) -> str | None:
    """Trains as `cfg` says; `name` names the run folder where the config does not. quiet: only warnings are told.

    Returns what was reached, as a line, on the first process, else nothing; None where the run was stopped and saved.
    Raises ValueError for what cannot be trained, before anything is written, and Failed after that.
    """
    device = distributed.init(cfg.device, cfg.cuda_graph)
    try:
        cfg = seen.resolved(cfg)
        cfg.precision = precision(cfg.precision, device)
        mixer = mixers.build(cfg.mix, cfg.mixers, cfg.fidelity)
        follower.require(cfg.track)
        data, val = loaders.training(cfg, device), loaders.validation(cfg, device)
        cfg.model.classes = loaders.classes(cfg, data, val)
        cfg.loss.class_weights = class_weights(cfg.loss.class_weights, data.labels[data.rows], cfg.model.classes)
        info, folder = described(cfg, data.class_names), run_folder.choose(cfg, name, resume)
        resumed = resume and (folder / State.LAST).exists()
        begun = replace(cfg.model, weights="" if resumed else cfg.model.weights)
        model, told = pretrained.build(begun, info.classes, cfg.seed, device)
        require_compiler(cfg)
        require_ddp(cfg, mixer, device)
        models.require_sizes(model, cfg.model, loaders.sizes(cfg))
        export.require(model, cfg.model.name)
        task = Task(model, mixer, cfg).to(device)
        told += mixer.begin(lambda: pretrained.parts(begun))
        if cfg.model.unfreeze is None:
            task.frozen.set(thawed=False)
        opt = optim.build(cfg.optim, model, mixer.param_groups())
        if cfg.cuda_graph:
            captured_step.check(cfg, mixer, opt, device)
        scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")
        ema = Ema(model, cfg.ema.decay, cfg.ema.ramp_steps) if cfg.ema.decay else None
        parts = {"task": task, "opt": opt, "scaler": scaler} | ({"ema": ema.module} if ema else {})
        state = State(folder, cfg, parts, cfg.epochs * len(data))
        lead = distributed.rank() == 0
        distributed.barrier()  # all processes have looked for a free folder
        with run_folder.held(state.folder) if lead else nullcontext():
            told += [state.restore()] if resumed else []
            first, note = picture.first_batch(task, data) if lead and state.step == 0 else (None, "")
            told += [note]
            if lead:
                if not state.last.exists():
                    state.require_same()
                _begin(state, info, data_seen.record(len(data.rows), len(val.rows), data.class_names), first)
            distributed.barrier()
            if cfg.model.compile != "off":
                task.compile(mode=cfg.model.compile)
            torch.backends.cudnn.benchmark = True
            return _train(cfg, name, data, val, scaler, ema, state, info, told, quiet)
    finally:
        distributed.close()


def _begin(state: State, info: Info, seen_data: str, first: np.ndarray | None) -> None:
    """Writes what a run folder holds from its begin: config, model, data, versions, the picture of the first batch.

    Where one cannot be written, those before it go again.
    """
    folder, before = state.folder, {*state.folder.iterdir()}
    try:
        files.write_text(folder / "config.yaml", dump(state.cfg))
        files.write_text(folder / "model.json", info.text + "\n")
        files.write_text(folder / data_seen.FILE, seen_data)
        files.write_text(folder / "versions.json", json.dumps(run_folder.versions(), indent=1) + "\n")
        if first is not None:
            picture.save(folder / "first_batch.png", first)
    except OSError:
        for path in {*folder.iterdir()} - before:
            path.unlink()
        raise


def _train(
    cfg: Config, name: str, data, val, scaler, ema: Ema | None, state: State, info: Info, told: list[str], quiet: bool
) -> str | None:
    """The loop from where `state` is, and the export; `told` is what is to be said first."""
    task, opt, folder = state.parts["task"], state.parts["opt"], state.folder
    lead, began, first = distributed.rank() == 0, time.perf_counter(), state.step
    log = Log(folder / "log.jsonl", state.steps, state.step, lead, quiet, cfg.track)
    what = f"{cfg.model.name}, {cfg.mix}, {cfg.model.classes} classes, {len(data.rows)} images, {cfg.epochs} epochs"
    log.say(f"{name}: {what}, {cfg.precision} on {data.device.type} -> {folder}")
    frozen = [task.frozen.text] if cfg.model.freeze else []
    for line in loaders.warnings(data, val):
        log.warn(line)
    for line in filter(None, [*told, *frozen, *loaders.choices(cfg, data, val)]):
        log.say(line)
    try:
        with stopping.by_signals(state), distributed.together():
            loop.train(cfg, task, data, val, opt, scaler, ema, state, log)
        seconds = time.perf_counter() - began
        if state.stopped:
            log.warn(f"stopped at step {state.step} of {state.steps}, saved; continue with --resume out={folder}")
            return None
    except FloatingPointError as error:
        raise Failed(f"{error}; {state.kept()}. Try a lower optim.lr, or optim.clip=1") from error
    except ValueError as error:  # a damaged image, after the first batch
        raise Failed(f"{error}; {state.kept()}") from error
    except OSError as error:
        raise Failed(f"{words(error)}; {state.kept()}. --resume out={folder} goes on from there") from error
    finally:
        log.close()
    if not lead:
        return ""
    export.save(folder / "model.safetensors", ema.module if ema else task.model, info)
    images = (state.step - first) * cfg.batch_total
    return (
        f"done: top-1 {state.score:.2f} % (best {state.best:.2f} %) after {cfg.epochs} epochs, {seconds:.0f} s, "
        f"{images / seconds:.0f} images/s -> {folder}"
    )


def class_weights(asked: str | list[float], labels: np.ndarray, classes: int) -> str | list[float]:
    """The factors of the classes in the loss, of a config's `loss.class_weights`: "none" or a list.

    balanced: images / classes / images of the class, of the classes that have images, so that their mean over the
    images is 1. Raises ValueError for a list of another length.
    """
    if asked == "balanced":
        counts = np.bincount(labels, minlength=classes)
        mean = len(labels) / max(1, int(np.count_nonzero(counts)))
        return [mean / n if n else 1.0 for n in counts.tolist()]
    if isinstance(asked, list) and len(asked) != classes:
        raise ValueError(f"loss.class_weights has {len(asked)} values; there are {classes} classes")
    return asked


def require_ddp(cfg: Config, mixer: Mixer, device: torch.device) -> None:
    """Raises ValueError where gradients cannot be averaged as the config says."""
    if cfg.ddp.static_graph and not mixer.only_plans:
        name = type(mixer).__name__
        raise ValueError(f"ddp.static_graph: {name} does more than plan, so steps may differ; leave it false")
    if cfg.ddp.static_graph and cfg.accum > 1:  # torch learns the graph in the first backward pass, and averages in it
        raise ValueError(f"ddp.static_graph: torch has it for steps of one part alone, and accum is {cfg.accum}")
    if cfg.ddp.compression in ("bf16", "powersgd") and device.type != "cuda":  # gloo knows no order of powersgd's parts
        raise ValueError(f"ddp.compression is {cfg.ddp.compression}, which torch sends between GPUs alone; take fp16")
    if cfg.ddp.compression == "powersgd" and cfg.precision == "fp16":
        raise ValueError(
            "ddp.compression is powersgd, which adds to a step what it did not send of the last one: with fp16 that "
            "may be infinite; set precision to bf16 or fp32"
        )


def require_compiler(cfg: Config) -> None:
    """Raises ValueError where the config wants compiled networks, and there is nothing that compiles C++ for torch."""
    if cfg.model.compile != "off":
        from torch._inductor.cpp_builder import get_cpp_compiler

        with foreign(f"model.compile is {cfg.model.compile}, which needs a C++ compiler such as g++, or compile=off"):
            get_cpp_compiler()


def described(cfg: Config, classes: list[str]) -> Info:
    """The model that a run trains, as one must know it to use it."""
    data, names = cfg.data, [str(k) for k in range(cfg.model.classes)]
    view = {"size": data.val_size or data.size, "resize": data.val_resize, "interpolation": data.interpolation}
    names[: len(classes)] = classes
    return Info(cfg.model.name, names, **view, mean=data.mean, std=data.std, args=cfg.model.args)
