"""The training loop: epochs, data, validation, saving and reporting around the steps; no method's name appears here."""

from __future__ import annotations

import math

import torch

from fastmix.distributed import average_buffers, total, world
from fastmix.engine.captured_step import CapturedStep
from fastmix.engine.checkpoint import State
from fastmix.engine.ema import Ema
from fastmix.engine.evaluate import evaluate
from fastmix.engine.loaders import resolution
from fastmix.engine.log import Clock, Log
from fastmix.engine.phases import Phases
from fastmix.engine.precise_bn import precise_bn
from fastmix.engine.step import Step
from fastmix.engine.task import Task


def train(cfg, task: Task, data, val, opt, scaler, ema: Ema | None, state: State, log: Log) -> None:
    """Runs the remaining steps of `state`; returns early when `state.stop` was set, with everything saved."""
    device, epoch_steps = data.device, len(data)
    steps, kind = cfg.epochs * epoch_steps, CapturedStep if cfg.cuda_graph else Step
    phases, take = Phases(cfg, task), None
    clock, state.meter = Clock(), state.meter.to(device)
    while not state.stopped:
        epoch, first = divmod(state.step, epoch_steps)
        if first == 0 and state.validated < epoch and (epoch % cfg.val_every == 0 or state.step == steps):
            if cfg.precise_bn:
                for model in [task.model, *([ema.module] if ema else [])]:
                    precise_bn(model, task, data, state.step)
            validate(task, val, ema, state, log, epoch)
        if first == 0 and state.step:
            state.save()
        if state.step == steps:
            break
        changed = phases.enter(epoch)
        for line in changed:
            log.say(line)
        if changed or take is None:
            take = None  # before the next one wraps the same parameters
            take = kind(cfg, task, opt, scaler, epoch_steps, ema)
        task.train()
        data.skipped.clear()  # of the first picture, and of precise_bn
        clock.read()
        for images, labels, _ in clock.waiting(data.epoch(epoch, first, resolution(cfg, epoch))):
            for loss in take(images, labels, state.step):
                state.record(loss)
            state.step += 1
            log.bar.update()
            saving = cfg.save_every and state.step % cfg.save_every == 0
            stopping = state.stop and world() == 1  # several processes agree on it in report()
            if saving or stopping or state.step % cfg.log_every == 0 or state.step % epoch_steps == 0:
                report(state, log, clock, take.lr, state.step / epoch_steps)  # waits for the device
                if state.stopped:
                    break
                if saving:
                    state.save()
        tell_replaced(data, state, log, epoch)
    if state.stopped:
        state.save()


def tell_replaced(data, state: State, log: Log, epoch: int) -> None:
    """Lists the damaged images that others have replaced in skipped.txt of the run folder, and tells their number."""
    count = len(data.skipped)
    if world() > 1:
        count = int(total(torch.tensor([count], device=data.device)))
    if count:
        with open(state.folder / "skipped.txt", "a", encoding="utf-8") as file:
            file.writelines(f"epoch {epoch}: {line}\n" for line in data.skipped)
        data.skipped.clear()
        log.say(f"epoch {epoch}: {count} damaged images replaced by others, listed in {state.folder / 'skipped.txt'}")


def report(state: State, log: Log, clock: Clock, lr: float, epoch: float) -> None:
    """One line of the log: the mean loss since the last one. Raises FloatingPointError if it is not finite."""
    loss, count, stop = total(torch.cat([state.meter[:2], state.meter.new_tensor([state.stop])])).tolist()
    if not math.isfinite(loss):
        bad = int(state.meter[2]) or state.step
        raise FloatingPointError(f"the loss is not finite at step {bad}")
    state.stopped, loss = stop > 0, loss / max(count, 1)
    pace = clock.read()
    pace["images_per_s"] = round(pace["images_per_s"] * world(), 1)
    log("train", step=state.step, epoch=round(epoch, 4), loss=loss, lr=lr, **pace)
    log.show(state.step, f"{pace['images_per_s']:.0f} images/s, waiting {pace['data_wait']:.0%}, loss {loss:.3f}")
    state.meter.zero_()


def validate(task: Task, val, ema: Ema | None, state: State, log: Log, epoch: int) -> None:
    """Validates the model, and its average where there is one; keeps the best checkpoint."""
    others = task.mixer.predictors(task.model) | ({"ema": ema.module} if ema else {})
    average_buffers(task.model)
    result = evaluate(task.model, task, val)
    for name, model in others.items():
        average_buffers(model)
        result |= {f"{name}_{key}": value for key, value in evaluate(model, task, val).items() if key != "images"}
    log("val", step=state.step, epoch=epoch, **result)
    score = result["ema_top1" if ema else "top1"]
    state.best, is_best = max(state.best, score), score > state.best
    average = f" (average {result['ema_top1']:.2f} %)" if ema else ""
    log.say(f"epoch {epoch}: top-1 {result['top1']:.2f} %{average}, best {state.best:.2f} %")
    state.validated, state.result = epoch, result
    if is_best:
        state.save("best.pt")
    state.keep(epoch)
