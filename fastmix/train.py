"""python -m fastmix.train CONFIG [key=value ...] [--resume]: trains a model and leaves a run folder.

The folder holds config.yaml (resolved) and versions.json, log.jsonl, last.pt and best.pt, a picture of the first mixed
batch, and model.safetensors, which timm.create_model(..., checkpoint_path=...) loads.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from itertools import takewhile
from pathlib import Path

from fastmix import cli, config


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser("python -m fastmix.train", description="Train a model from a config.")
    parser.add_argument("config", help="a YAML file, such as configs/r50_300ep.yaml")
    parser.add_argument("settings", nargs="*", help="key=value over the file, such as mix=cutmix optim.lr=0.2")
    parser.add_argument("--resume", action="store_true", help="continue the run in its folder, or begin it")
    parser.add_argument("--dry-run", action="store_true", help="print what the run would be, without data, and end")
    args = parser.parse_intermixed_args(argv)
    cfg = config.load(args.config, args.settings)
    if not args.dry_run:
        return train(cfg, Path(args.config).stem, args.resume)

    from fastmix import distributed
    from fastmix.engine import dryrun

    found = dryrun.describe(cfg)
    if distributed.rank() == 0:
        print(dryrun.text(found))
    distributed.close()
    return 0


def train(cfg: config.Config, name: str, resume: bool = False) -> int:
    """Trains as `cfg` says; `name` names the run folder where the config does not. Returns an exit code."""
    import torch

    from fastmix import distributed, mixers, models
    from fastmix.engine import captured_step, loaders, loop, optim, picture
    from fastmix.engine.checkpoint import State
    from fastmix.engine.ema import Ema
    from fastmix.engine.log import Log
    from fastmix.engine.task import Task, precision

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

    folder = run_folder(cfg, name, resume)
    parts = {"task": task, "opt": opt, "scaler": scaler} | ({"ema": ema.module} if ema else {})
    state = State(folder, cfg, parts)
    if resume and state.last.exists():
        state.restore()
    steps, lead = cfg.epochs * len(data), distributed.rank() == 0
    distributed.barrier()  # all processes have looked for a free folder
    if lead:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.dump(cfg), encoding="utf-8")
        (folder / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n", encoding="utf-8")
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
            return 0
    except FloatingPointError as error:
        print(f"fastmix train: error: {error}", file=sys.stderr)
        return 1
    finally:
        log.close()
        distributed.close()
    if lead:
        export(folder / "model.safetensors", ema.module if ema else model)
        seconds, images = time.perf_counter() - began, (state.step - first) * cfg.batch_total
        score = state.result["ema_top1" if ema else "top1"]
        print(
            f"done: top-1 {score:.2f} % (best {state.best:.2f} %) after {cfg.epochs} epochs, {seconds:.0f} s, "
            f"{images / seconds:.0f} images/s -> {folder}"
        )
    return 0


def compile_networks(cfg: config.Config, model, mixer) -> None:
    """Compiles the model, and networks of the method's own, if the config says so."""
    import torch

    if cfg.model.compile != "off":
        torch._dynamo.config.recompile_limit = 64  # of one class: in train and eval mode, of each site and head
        for net in (model, *mixer.companions()):
            net.compile(mode=cfg.model.compile)


def run_folder(cfg: config.Config, name: str, resume: bool) -> Path:
    """The folder that the config names, or the next free one of runs/; with resume the latest that exists.

    Raises ValueError where a run stands already that is not to be continued.
    """
    if cfg.out:
        folder = Path(cfg.out)
        if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists: continue that run with --resume, or choose another out=FOLDER")
        return folder
    base = Path("runs") / f"{name}_{cfg.mix}_s{cfg.seed}"
    numbered = [base, *(base.with_name(f"{base.name}-{k}") for k in range(2, 1000))]
    taken = list(takewhile(Path.exists, numbered))
    return taken[-1] if resume and taken else numbered[len(taken)]


def export(path: Path, model) -> None:
    """The weights alone, as timm loads them; atomic."""
    import os

    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, part)
    os.replace(part, path)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the commit of a source checkout."""
    import platform
    import subprocess
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in ("fastmix", "torch", "torchvision", "timm", "triton", "numpy", "numba", "simplejpeg"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        found["commit"] = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found["commit"] = ""
    return found


if __name__ == "__main__":
    sys.exit(cli.run(main, "train"))
