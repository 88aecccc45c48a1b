"""Config: dataclasses, filled strictly from YAML files and key=value words.

    cfg = load("configs/r50_300ep.yaml", ["mix=cutmix", "data.train=train.beton", "epochs=3"])

A file may name others under `base:` (a path or a list, relative to the file); later files and then the words win, key
by key. Under `rows:` it may hold settings that one `mix` changes: `rows: {automix: {schedule: {min_lr: 0.05}}}`. An
unknown key or a value of the wrong type is a ValueError of one line that names the key and the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import yaml

from fastmix import bases
from fastmix.ranges import RISING, SIZE, Range, cast, fill
from fastmix.yaml12 import parse

Share = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, above=True)]
Decay = Annotated[float, Range(0, 1, below=True)]
Rate = Annotated[float, Range(0, 1000)]
Aspect = Annotated[float, Range(0.01, 100)]
Strength = Annotated[float, Range(0, 10)]
Spread = Annotated[float, Range(0.001, 10)]
Byte = Annotated[int, Range(0, 255)]
Level = Annotated[float, Range(0, 255)]
Pixels = Annotated[int, Range(8, 4096)]
Epoch = Annotated[int, Range(0, 100_000)]
Count = Annotated[int, Range(1, 1_000_000)]
Steps = Annotated[int, Range(0, 1_000_000_000)]
AsModel = Literal["model"]
Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow", "csv"]


@dataclass
class Data:
    """Where images come from and how one becomes an input of the model."""

    loader: str = "beton"
    train: str | list[str] = ""
    """A .beton file, a folder of class folders, or shapes:train (built-in drawings). Several .beton files are one data
    set: a list, or a pattern (`train-*.beton`, `train-{000..127}.beton`)."""
    val: str | list[str] = ""
    locality: Literal["none", "shard"] = "none"
    """shard: each machine reads its own shards of `train` alone, which mixes images less; see docs/data.md."""
    window: Count | None = None
    """With locality=shard, of how many of its shards a machine mixes the images at a time; null: of all."""
    cache_size: Annotated[str, SIZE] | None = None
    """Of `train` elsewhere, what copies of shards may take of a machine's disk (50GiB); null: all are copied first."""
    split: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of each class of `train` that is kept for validation, by the seed; then `val` stays empty."""
    balance: Literal["none", "sqrt", "equal"] = "none"
    """How often classes of different size are shown: as they are, by the root of their size, or equally."""
    size: Pixels | AsModel = 224
    """Pixels a side. Here, and for val_size, val_resize, interpolation, mean and std, `model` takes what the weights of
    timm's model were trained with."""
    crop: Literal["rrc", "pad", "centre", "none"] = "rrc"
    """Training crop: rrc (RandomResizedCrop), pad (random crop of the padded image), centre, or none (stretched)."""
    scale: Annotated[tuple[Part, Part], RISING] = (0.08, 1.0)
    ratio: Annotated[tuple[Aspect, Aspect], RISING] = (3 / 4, 4 / 3)
    pad: Annotated[int, Range(0, 4096)] = 4
    """Pixels around the image, with crop=pad."""
    pad_mode: Literal["zeros", "reflect"] = "zeros"
    """What they show: black, or the image mirrored without repeating its edge; it must have more than `pad` a side."""
    flip: Share = 0.5
    val_size: Pixels | AsModel | None = None
    """Validation size in pixels; null: as `size`."""
    val_resize: Pixels | AsModel | None = 256
    """Short side before the centre crop at validation; null: no resize."""
    interpolation: Literal["bilinear", "bicubic", "model"] = "bicubic"
    decode: Literal["fast", "exact", "gpu"] = "fast"
    """Training images: fast (a bounded difference, see docs/loaders.md), exact, or gpu. Validation: exact or gpu."""
    mean: tuple[Share, Share, Share] | AsModel = (0.485, 0.456, 0.406)
    std: tuple[Spread, Spread, Spread] | AsModel = (0.229, 0.224, 0.225)
    repeats: Annotated[int, Range(1, 64)] = 1
    """Crops of an image in a batch (repeated augmentation); an epoch then has 1 / repeats of the images."""
    ramp: tuple[Annotated[int, Range(32, 4096)], Epoch, Epoch] | None = None
    """Progressive resolution: pixels at the start, the epoch until which it stays, the one from which it is `size`."""
    workers: Annotated[int, Range(1, 1024)] | None = None
    """Decoding threads of a process; null: its share of the machine's cores."""
    os_cache: Literal["auto", "memory", "disk"] = "auto"
    """The loader beton's file: memory (the system keeps it), disk (larger than that, read by record), or auto."""
    bad: Literal["raise", "skip"] = "raise"
    """A damaged image: raise, or skip (replaced in training, left out in validation; counted and listed)."""


@dataclass
class Augment:
    """Augmentations of single training images on the device, before erasing and the mix."""

    kind: Literal["none", "randaugment", "three"] = "none"
    """none; randaugment (timm's rand-m<magnitude>-n<n>-mstd<std>-p<prob>-inc1); three (DeiT III: grey, solarised or
    blurred)."""
    n: Annotated[int, Range(1, 16)] = 2
    magnitude: Strength = 9.0
    std: Annotated[float, Range(0, float("inf"))] = 0.5
    """Deviation of the magnitude; .inf: uniform from 0 to `magnitude`."""
    prob: Share = 0.5
    variant: Literal["timm", "mmcls", "fixmatch"] = "timm"
    """mmcls: posterizing keeps a bit less; fixmatch: its 14 operations; see fastmix/engine/augment.py."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    fill: tuple[Byte, Byte, Byte] | None = None
    """Colour of what a turn or shift uncovers; null: data.mean. (mmcls's recipes: 104, 116, 124.)"""
    jitter: tuple[Strength, Strength, Strength] = (0.0, 0.0, 0.0)
    """Colour jitter after it: brightness, contrast, saturation (DeiT III: 0.3 each)."""


@dataclass
class Erase:
    """Random erasing, before the mix."""

    prob: Share = 0.0
    mode: Literal["pixel", "uint8", "constant"] = "pixel"
    """pixel: N(0,1) in normalised units; uint8: Gaussian in pixel units (`mean`, `std`), clipped; constant: zero."""
    mean: tuple[Level, Level, Level] = (104.0, 116.0, 124.0)
    std: tuple[Level, Level, Level] = (58.0, 57.0, 58.0)


@dataclass
class Model:
    """A timm backbone by name."""

    name: str = "resnet50"
    classes: Count | None = None
    """null: as many as the training data has."""
    args: dict = field(default_factory=dict)
    """Further arguments of timm.create_model, such as drop_path_rate."""
    weights: str = ""
    """What training begins with: a file, a run folder, or timm (timm's own, downloaded); empty: initialised anew."""
    freeze: list[str] = field(default_factory=list)
    """Parameters that do not train, and their batch-norm statistics: patterns of names, or backbone (all but the
    classifier)."""
    unfreeze: Epoch | None = None
    """The epoch, from 0, from which all train; null: never."""
    norm_stats: Literal["train", "keep"] = "train"
    """keep: batch-norms use, and never change, the statistics that they begin with: those of `weights`."""
    channels_last: bool = True
    sync_bn: bool = False
    """Batch-norm statistics over all processes of a step's part; with several processes it needs GPUs."""
    fused_norm: Literal["auto", "off"] = "off"
    """auto: batch-norm, ReLU and a shortcut's sum are one operation where they can be, in ResNets and MobileNets on a
    GPU; not measured on one yet, so off."""
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    """off, or a torch.compile mode: default, reduce-overhead, max-autotune."""


@dataclass
class Optim:
    """SGD, AdamW or LAMB, and which parameters decay."""

    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    lr: Rate = 0.1
    momentum: Decay = 0.9
    nesterov: bool = False
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Part = 1e-8
    weight_decay: Strength = 1e-4
    no_decay: list[str] = field(default_factory=list)
    """Not decayed: "norm" (parameters of at most one dimension that are no bias), "bias", or a pattern of names."""
    layer_decay: Part = 1.0
    """Factor of the learning rate from a layer to the one below it, as timm counts layers; 1: the same in all."""
    clip: Annotated[float, Range(0, 1_000_000, above=True)] | None = None
    """Largest global gradient norm; null: no clipping. (LAMB has a bound of 1 of its own.)"""
    fused: Literal["auto", "torch"] = "auto"
    """auto: NVIDIA apex's optimisers on a GPU where they are installed, else torch's; torch: never apex."""


@dataclass
class Schedule:
    """Cosine from lr to min_lr, by epoch or by step, and a linear warm-up by step."""

    per: Literal["epoch", "step"] = "epoch"
    min_lr: Rate = 0.0
    warmup: Literal["factor", "ramp"] = "factor"
    """factor: the warm-up multiplies the cosine (mmcv); ramp: it climbs to lr, then the cosine goes on (timm)."""
    warmup_epochs: Annotated[float, Range(0, 100_000)] = 0.0
    warmup_factor: Share = 1e-5
    """Share of the learning rate at the first step."""


@dataclass
class Loss:
    """Cross-entropy (ce) or binary cross-entropy (bce)."""

    kind: Literal["ce", "bce"] = "ce"
    smoothing: Decay = 0.0
    threshold: Decay | None = None
    """bce: targets above it become 1, the others 0; null: soft targets."""
    reduction: Literal["sum", "mean"] = "sum"
    """bce: sum or mean over the classes."""
    class_weights: Literal["none", "balanced"] | list[Rate] = "none"
    """Factor of each class in the loss: a list, or balanced (images / classes / images of the class)."""


@dataclass
class Ema:
    """Moving average of the weights; validated and exported beside, or instead of, the raw ones."""

    decay: Decay = 0.0
    """0: none."""
    ramp_steps: Steps = 0
    """The decay grows linearly from 0.9 of its value over so many steps."""
    every: Count = 1
    """Steps between updates."""


@dataclass
class Ddp:
    """How several processes average their gradients: options of torch's DistributedDataParallel, see docs/scale.md."""

    compression: Literal["none", "bf16", "fp16", "powersgd"] = "none"
    """What is sent of a gradient: all of it, half of its bits, or a matrix of rank `powersgd_rank`."""
    powersgd_rank: Annotated[int, Range(1, 1024)] = 1
    powersgd_start: Annotated[int, Range(2, 1_000_000)] = 1000
    """Steps of which all is sent, before powersgd begins."""
    bucket_mb: Annotated[int, Range(1, 10_000)] | None = None
    """Megabytes of gradients that are sent together; null: torch's 25, and 1 for the first."""
    static_graph: bool = False
    """Every step computes its loss in the same way; for methods that only plan."""
    bucket_view: bool = False
    """Gradients lie in the memory that is sent, which saves as much as they take."""


@dataclass
class Column:
    """The column of the published tables that a file stands for, in their words (configs/published.csv); a label."""

    table: str = ""
    backbone: str = ""
    setting: str = ""
    gpu_batch: int | None = None
    """Images of one GPU in the published runs: fidelity openmixup mixes among so many. null: all of a part."""

    @property
    def name(self) -> str:
        """TABLE/BACKBONE/SETTING, or nothing."""
        return "/".join((self.table, self.backbone, self.setting)) if self.table else ""


@dataclass
class Config:
    """A run. One file holds a column of the benchmark, `mix` picks the row from its `mixers`."""

    mix: str = "vanilla"
    fidelity: Literal["paper", "openmixup"] = "paper"
    """paper: a method does what its paper says. openmixup: what the code of the published tables does, errors included,
    where a row says nothing else (docs/recipes.md); mixed among column.gpu_batch images, one draw for all processes."""
    mixers: dict = field(default_factory=lambda: {"vanilla": {}})
    epochs: Annotated[int, Range(1, 100_000)] = 300
    batch_total: Count = 256
    """Images of one optimiser step, over all processes and accumulated parts."""
    accum: Count = 1
    """Parts that a process splits its share of a step into; each draws its own mix."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """fp32, fp16, bf16, or auto: bf16 where the device computes in it, else fp16 (GPU) or fp32."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: str = ""
    """The run folder; empty: runs/<config>_<mix>_s<seed>, with a number behind where that exists."""
    log_every: Count = 50
    """Steps between lines of log.jsonl; the loop waits for the device only then."""
    track: Tracker | list[Tracker] = field(default_factory=list)
    """What the log is handed on to besides: a list of tensorboard, wandb, trackio, mlflow, csv, or one of them."""
    log_grad_norm: bool = False
    """Log the gradient's norm; with optim.clip it is logged anyway."""
    log_mixed: bool = False
    """Log the share of the samples that are mixed."""
    log_clean: Annotated[int, Range(0, 1_000_000)] = 0
    """Log lines from one to the next with the accuracy on the step's clean images, a forward pass more; 0: none."""
    save_every: Steps = 0
    """Steps between checkpoints, besides one an epoch; 0: none."""
    val_every: Count = 1
    """Epochs between validations; the last epoch always is validated."""
    precise_bn: Steps = 0
    """Training images over which batch-norm statistics are measured anew before each validation; 0: none."""
    mix_off: Share = 0.0
    """Share of the epochs, the last ones, in which images are not mixed."""
    keep: Annotated[int, Range(0, 10_000)] = 0
    """Checkpoints epoch_N.pt kept of the latest validated epochs, beside last.pt and best.pt."""
    cuda_graph: bool = False
    """Replay the step as one CUDA graph (docs/design.md): with torch's optimisers or LAMB, for all but RecursiveMix."""
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    erase: Erase = field(default_factory=Erase)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    loss: Loss = field(default_factory=Loss)
    ema: Ema = field(default_factory=Ema)
    ddp: Ddp = field(default_factory=Ddp)
    column: Column = field(default_factory=Column)


FREE_TO_CHANGE = ("out", "log_every", "save_every", "val_every", "data.workers", "device", "data.train", "data.val")
FREE_TO_CHANGE += ("data.cache_size", "track", "log_grad_norm", "log_mixed", "log_clean", "model.fused_norm")
FREE_TO_CHANGE += ("ddp.bucket_mb", "ddp.static_graph", "ddp.bucket_view")
FREE_TO_CHANGE += ("cuda_graph", "column.table", "column.backbone", "column.setting", "column.gpu_batch")
"""Keys in which a resumed run may differ."""


def load(path: str | Path, words: list[str] | tuple[str, ...] = ()) -> Config:
    """The config of a YAML file (or of an installed one, by name) with key=value words over it.

    What the file says of the chosen `mix` under `rows:` goes over the rest of the file, and the words over that.
    """
    path = find(path)
    tree = bases.read(path)
    rows, known = (
        cast(tree.pop("rows", {}), dict, str(path), "rows"),
        cast(tree.get("mixers", {}), dict, str(path), "mixers"),
    )
    if unknown := [name for name in rows if name not in known or not isinstance(rows[name], dict)]:
        raise ValueError(f"{path}: rows.{unknown[0]} must be settings of a row, which is one of {', '.join(known)}")
    mix = str([tree.get("mix", ""), *(word[4:] for word in words if word.startswith("mix="))][-1])
    return from_tree(over(bases.merged(tree, rows.get(mix, {})), words), str(path))


def over(tree: dict, words: list[str] | tuple[str, ...]) -> dict:
    """A config's nested dicts, changed by key=value words. Raises ValueError."""
    for word in words:
        key, sep, text = word.partition("=")
        if not sep or not key:
            raise ValueError(f"{word!r} is no setting: write key=value, such as epochs=3 or data.train=FILE")
        node = tree
        *parents, last = key.split(".")
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise ValueError(f"{word!r}: {name!r} is a single value and has no keys below it")
        node[last] = parse(text, f"{word!r}") if text else ""
    return tree


def find(path: str | Path) -> Path:
    """The path itself, or the installed config of that name."""
    path = Path(path)
    if path.is_file():
        return path
    from importlib.resources import files

    try:
        folder = Path(str(files("fastmix.configs")))
    except ModuleNotFoundError:
        folder = Path("configs")
    for candidate in (folder / path.name, folder / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, known, 1)
    raise ValueError(f"{path}: no such config file" + (f"; did you mean {folder / near[0]}.yaml?" if near else ""))


def from_tree(tree: dict, where: str) -> Config:
    """A Config from nested dicts, its keys, types and ranges checked; `where` begins the errors."""
    cfg = fill(Config, cast(tree, dict, where, "the config"), where)
    data, optim = cfg.data, cfg.optim
    cfg.track = list(dict.fromkeys([cfg.track] if isinstance(cfg.track, str) else cfg.track))
    if data.ramp and data.ramp[1] > data.ramp[2]:
        raise ValueError(f"{where}: data.ramp is {list(data.ramp)}; its epochs must be from low to high")
    known = "model" not in (data.val_resize, data.val_size, data.size)  # or models.seen tells them later
    if known and data.val_resize is not None and data.val_resize < (data.val_size or data.size):
        size = f"data.val_size {data.val_size}" if data.val_size else f"data.size {data.size}"
        raise ValueError(f"{where}: data.val_resize is {data.val_resize}; it must be at least {size}, or null")
    if data.split and data.val:
        raise ValueError(f"{where}: data.split keeps images of data.train for validation: set it to 0 to use data.val")
    if data.window and data.locality != "shard":
        raise ValueError(f"{where}: data.window is {data.window}; it needs data.locality=shard")
    if data.cache_size and (data.split or data.bad == "skip"):
        raise ValueError(f"{where}: data.cache_size is {data.cache_size}; it needs data.split=0 and data.bad=raise")
    if data.balance != "none" and data.repeats > 1:
        raise ValueError(f"{where}: data.balance is {data.balance}; it needs data.repeats=1, not {data.repeats}")
    if cfg.batch_total % cfg.accum:
        raise ValueError(f"{where}: accum is {cfg.accum}; it must divide batch_total, which is {cfg.batch_total}")
    if optim.nesterov and not optim.momentum:
        raise ValueError(f"{where}: optim.nesterov is true; it needs optim.momentum above 0")
    for key, value in cfg.model.args.items():
        if str(key).endswith("_rate") and value is not None:  # dropout and drop path, of every model of timm
            cast(value, Decay, where, f"model.args.{key}")
    return cfg


def checked(cfg: Config, where: str) -> Config:
    """The config again, after a command changed values in it. Raises ValueError as from_tree."""
    return from_tree(_plain(dataclasses.asdict(cfg)), where)


def to_tree(cfg) -> dict:
    """The config as nested dicts and lists, as YAML or JSON can hold it."""
    return parse(yaml.safe_dump(_plain(dataclasses.asdict(cfg))), "the config")


def dump(cfg: Config) -> str:
    """The resolved config as YAML that `load` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(cfg)), sort_keys=False)


def get(cfg, key: str):
    """The value of a dotted key."""
    for name in key.split("."):
        cfg = getattr(cfg, name)
    return cfg


def flat(cfg: Config) -> dict:
    """Plain values by dotted keys; an empty mapping is a value."""
    return dict(_flatten(_plain(dataclasses.asdict(cfg))))


def left_open(cfg: Config) -> set[str]:
    """Keys whose values a run finds by itself: in the config.yaml that it writes they are others."""
    keys = {"precision"} if cfg.precision == "auto" else set()
    keys |= {"model.classes"} if cfg.model.classes is None else set()
    keys |= {"loss.class_weights"} if cfg.loss.class_weights == "balanced" else set()
    keys |= {f"data.{name}" for name, value in vars(cfg.data).items() if value == "model"}
    return keys | ({"data.val_size"} if cfg.data.size == "model" and cfg.data.val_size is None else set())


def differences(a: Config, b: Config, ignore: tuple[str, ...] = ()) -> list[str]:
    """Dotted keys in which two configs differ."""
    flat_a, flat_b = dict(_flatten(to_tree(a))), dict(_flatten(to_tree(b)))
    keys = sorted(k for k in {*flat_a, *flat_b} if flat_a.get(k) != flat_b.get(k))
    return [k for k in keys if k not in ignore]


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _flatten(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
