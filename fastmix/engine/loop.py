"""The training loop: epochs, data, validation, saving and reporting around the steps; no method's name appears here."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastmix.distributed import average_buffers, total, world
from fastmix.engine.captured_step import CapturedStep
from fastmix.engine.checkpoint import State
from fastmix.engine.ema import Ema
from fastmix.engine.evaluate import evaluate, logits
from fastmix.engine.loaders import resolution
from fastmix.engine.log import Clock, Log
from fastmix.engine.phases import Phases
from fastmix.engine.precise_bn import precise_bn
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.models.saliency import evaluated
from fastmix.system import resident_memory


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
                due = cfg.log_clean and state.step % (cfg.log_every * cfg.log_clean) == 0
                clean = clean_hits(task, images, labels) if due else None
                report(task, state, log, clock, take.lr, clean)  # waits for the device
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
        log.warn(f"epoch {epoch}: {count} damaged images replaced by others, listed in {state.folder / 'skipped.txt'}")


@torch.no_grad()
def clean_hits(task: Task, images: Tensor, labels: Tensor) -> Tensor:
    """Of the batch, neither mixed nor augmented: how many the model gets right, and of how many; float32 [2].

    In eval mode, so that no statistic changes and nothing is drawn. Does not wait.
    """
    with evaluated(task.model):
        hits = logits(task.model, task, images, labels).argmax(1) == labels
    return torch.stack([hits.sum(), torch.ones_like(hits).sum()]).float()


def report(task: Task, state: State, log: Log, clock: Clock, lr: float, clean: Tensor | None) -> None:
    """One line of the log: the mean loss since the last one, and what `tally` and `clean_hits` have of it.

    Raises FloatingPointError if the loss is not finite.
    """
    cfg, meter, tally = task.cfg, state.meter, task.tally
    mine = [meter[:2], meter.new_tensor([state.stop]), meter.new_zeros(2) if clean is None else clean]
    loss, count, stop, hits, images, *sums = total(torch.cat([*mine, tally.sums.flatten()])).tolist()
    if not math.isfinite(loss):
        bad = int(state.meter[2]) or state.step
        raise FloatingPointError(f"the loss is not finite at step {bad}")
    state.stopped, loss = stop > 0, loss / max(count, 1)
    pace = clock.read()
    pace["images_per_s"] = round(pace["images_per_s"] * world(), 1)
    epoch = cfg.epochs * state.step / state.steps
    more = tally.means(sums) | ({"clean_top1": 100 * hits / images} if images else {})
    more["memory_mb"] = round(memory(meter.device) / 2**20, 1)
    log("train", step=state.step, epoch=round(epoch, 4), loss=loss, lr=lr, **pace, **more)
    words = [f"epoch {epoch:.1f} of {cfg.epochs}, loss {loss:.3f}"]
    words += [f"top-1 {state.score:.2f} %"] if state.result else []
    log.show(state.step, ", ".join([*words, f"{pace['images_per_s']:.0f} images/s, waiting {pace['data_wait']:.0%}"]))
    state.meter.zero_()
    tally.sums.zero_()


def memory(device: torch.device) -> int:
    """Bytes: the most that torch has held on a GPU so far; on a CPU what of the process lies in memory now."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_memory()


def validate(task: Task, val, ema: Ema | None, state: State, log: Log, epoch: int) -> None:
    """Validates the model, and its average where there is one; keeps the best checkpoint."""
    others = task.mixer.predictors(task.model) | ({"ema": ema.module} if ema else {})
    average_buffers(task.model)
    result = evaluate(task.model, task, val)
    for name, model in others.items():
        average_buffers(model)
        result |= {f"{name}_{key}": value for key, value in evaluate(model, task, val).items() if key != "images"}
    log("val", step=state.step, epoch=epoch, **result)
    state.validated, state.result = epoch, result
    state.best, is_best = max(state.best, state.score), state.score > state.best
    average = f" (average {result['ema_top1']:.2f} %)" if ema else ""
    log.say(f"epoch {epoch}: top-1 {result['top1']:.2f} %{average}, best {state.best:.2f} %")
    if is_best:
        state.save("best.pt")
    state.keep(epoch)
