"""Config: dataclasses, filled strictly from YAML files and key=value words.

    cfg = load("configs/r50_300ep.yaml", ["mix=cutmix", "data.train=train.beton", "epochs=3"])

A file may name others under `base:` (a path or a list, relative to the file); later files and then the words win, key
by key. Under `rows:` it may hold settings that one `mix` changes: `rows: {automix: {schedule: {min_lr: 0.05}}}`. An
unknown key or a value of the wrong type is a ValueError of one line that names the key and the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass
class Data:
    """Where images come from and how one becomes an input of the model."""

    loader: str = "beton"
    train: str = ""
    """A .beton file, a folder of class folders, or shapes:train (built-in drawings)."""
    val: str = ""
    size: int = 224
    crop: str = "rrc"
    """Training crop: rrc (RandomResizedCrop), pad (zero-padded random crop), centre, or none (stretched)."""
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    flip: float = 0.5
    val_size: int | None = None
    """Validation size in pixels; null: as `size`."""
    val_resize: int | None = 256
    """Short side before the centre crop at validation; null: no resize."""
    interpolation: str = "bicubic"
    decode: str = "fast"
    """Training images: fast (a bounded difference, see docs/loaders.md), exact, or gpu. Validation: exact or gpu."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    repeats: int = 1
    """Crops of an image in a batch (repeated augmentation); an epoch then has 1 / repeats of the images."""
    ramp: tuple[int, int, int] | None = None
    """Progressive resolution: pixels at the start, the epoch until which it stays, the one from which it is `size`."""
    workers: int | None = None
    """Decoding threads of a process; null: its share of the machine's cores."""
    os_cache: str = "auto"
    """The loader beton's file: memory (the system keeps it), disk (larger than that, read by record), or auto."""
    bad: str = "raise"
    """A damaged image: raise, or skip (left out and counted)."""


@dataclass
class Augment:
    """Augmentations of single training images on the device, before erasing and the mix."""

    kind: str = "none"
    """none; randaugment (timm's rand-m<magnitude>-n<n>-mstd<std>-p<prob>-inc1); three (DeiT III: grey, solarised or
    blurred)."""
    n: int = 2
    magnitude: float = 9.0
    std: float = 0.5
    """Deviation of the magnitude; .inf: uniform from 0 to `magnitude`."""
    prob: float = 0.5
    variant: str = "timm"
    """mmcls: posterizing keeps a bit less, see fastmix/engine/augment.py."""
    interpolation: str = "bicubic"
    fill: tuple[int, int, int] | None = None
    """Colour of what a turn or shift uncovers; null: data.mean. (mmcls's recipes: 104, 116, 124.)"""
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour jitter after it: brightness, contrast, saturation (DeiT III: 0.3 each)."""


@dataclass
class Erase:
    """Random erasing, before the mix."""

    prob: float = 0.0
    mode: str = "pixel"
    """pixel: N(0,1) in normalised units; uint8: Gaussian in pixel units (`mean`, `std`), clipped; constant: zero."""
    mean: tuple[float, float, float] = (104.0, 116.0, 124.0)
    std: tuple[float, float, float] = (58.0, 57.0, 58.0)


@dataclass
class Model:
    """A timm backbone by name."""

    name: str = "resnet50"
    classes: int | None = None
    """null: as many as the training data has."""
    args: dict = field(default_factory=dict)
    """Further arguments of timm.create_model, such as drop_path_rate."""
    channels_last: bool = True
    sync_bn: bool = False
    """Batch-norm statistics over all processes of a step's part; with several processes it needs GPUs."""
    compile: str = "off"
    """off, or a torch.compile mode: default, reduce-overhead, max-autotune."""


@dataclass
class Optim:
    """SGD, AdamW or LAMB, and which parameters decay."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    no_decay: list[str] = field(default_factory=list)
    """Not decayed: "norm" (parameters of at most one dimension that are no bias), "bias", or a pattern of names."""
    layer_decay: float = 1.0
    """Factor of the learning rate from a layer to the one below it, as timm counts layers; 1: the same in all."""
    clip: float | None = None
    """Largest global gradient norm; null: no clipping. (LAMB has a bound of 1 of its own.)"""
    fused: str = "auto"
    """auto: NVIDIA apex's optimisers on a GPU where they are installed, else torch's; torch: never apex."""


@dataclass
class Schedule:
    """Cosine from lr to min_lr, by epoch or by step, and a linear warm-up by step."""

    per: str = "epoch"
    min_lr: float = 0.0
    warmup: str = "factor"
    """factor: the warm-up multiplies the cosine (mmcv); ramp: it climbs to lr, then the cosine goes on (timm)."""
    warmup_epochs: float = 0.0
    warmup_factor: float = 1e-5
    """Share of the learning rate at the first step."""


@dataclass
class Loss:
    """Cross-entropy (ce) or binary cross-entropy (bce)."""

    kind: str = "ce"
    smoothing: float = 0.0
    threshold: float | None = None
    """bce: targets above it become 1, the others 0; null: soft targets."""
    reduction: str = "sum"
    """bce: sum or mean over the classes."""


@dataclass
class Ema:
    """Moving average of the weights; validated and exported beside, or instead of, the raw ones."""

    decay: float = 0.0
    """0: none."""
    ramp_steps: int = 0
    """The decay grows linearly from 0.9 of its value over so many steps."""
    every: int = 1
    """Steps between updates."""


@dataclass
class Column:
    """The column of the published tables that a file stands for, in their words (configs/published.csv); a label."""

    table: str = ""
    backbone: str = ""
    setting: str = ""
    gpu_batch: int | None = None
    """Images of one GPU in the published runs: fidelity openmixup mixes among so many. null: all of a part."""


@dataclass
class Config:
    """A run. One file holds a column of the benchmark, `mix` picks the row from its `mixers`."""

    mix: str = "vanilla"
    fidelity: str = "paper"
    """paper: a method does what its paper says. openmixup: what the code of the published tables does, errors included,
    where a row says nothing else (docs/recipes.md); mixed among column.gpu_batch images, one draw for all processes."""
    mixers: dict = field(default_factory=lambda: {"vanilla": {}})
    epochs: int = 300
    batch_total: int = 256
    """Images of one optimiser step, over all processes and accumulated parts."""
    accum: int = 1
    """Parts that a process splits its share of a step into; each draws its own mix."""
    precision: str = "auto"
    """fp32, fp16, bf16, or auto: bf16 where the device computes in it, else fp16 (GPU) or fp32."""
    seed: int = 0
    device: str = "auto"
    out: str = ""
    """The run folder; empty: runs/<config>_<mix>_s<seed>, with a number behind where that exists."""
    log_every: int = 50
    """Steps between lines of log.jsonl; the loop waits for the device only then."""
    save_every: int = 0
    """Steps between checkpoints, besides one an epoch; 0: none."""
    val_every: int = 1
    """Epochs between validations; the last epoch always is validated."""
    precise_bn: int = 0
    """Training images over which batch-norm statistics are measured anew before each validation; 0: none."""
    cuda_graph: bool = False
    """Replay the step as one CUDA graph (docs/design.md): on one GPU, with SGD or AdamW, for methods that only plan."""
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    erase: Erase = field(default_factory=Erase)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    loss: Loss = field(default_factory=Loss)
    ema: Ema = field(default_factory=Ema)
    column: Column = field(default_factory=Column)


CHOICES = {
    "data.crop": ("rrc", "pad", "centre", "none"),
    "data.interpolation": ("bilinear", "bicubic"),
    "data.decode": ("fast", "exact", "gpu"),
    "data.os_cache": ("auto", "memory", "disk"),
    "data.bad": ("raise", "skip"),
    "augment.kind": ("none", "randaugment", "three"),
    "augment.variant": ("timm", "mmcls"),
    "augment.interpolation": ("nearest", "bilinear", "bicubic"),
    "erase.mode": ("pixel", "uint8", "constant"),
    "model.compile": ("off", "default", "reduce-overhead", "max-autotune"),
    "optim.name": ("sgd", "adamw", "lamb"),
    "optim.fused": ("auto", "torch"),
    "schedule.per": ("epoch", "step"),
    "schedule.warmup": ("factor", "ramp"),
    "loss.kind": ("ce", "bce"),
    "loss.reduction": ("sum", "mean"),
    "fidelity": ("paper", "openmixup"),
    "precision": ("auto", "fp32", "fp16", "bf16"),
    "device": ("auto", "cpu", "cuda"),
}
FREE_TO_CHANGE = ("out", "log_every", "save_every", "val_every", "data.workers", "device", "data.train", "data.val")
FREE_TO_CHANGE += ("cuda_graph", "column.table", "column.backbone", "column.setting", "column.gpu_batch")
"""Keys in which a resumed run may differ."""
AT_LEAST_ONE = ("epochs", "batch_total", "accum", "log_every", "val_every", "data.size", "data.repeats", "ema.every")


def load(path: str | Path, words: list[str] | tuple[str, ...] = ()) -> Config:
    """The config of a YAML file (or of an installed one, by name) with key=value words over it.

    What the file says of the chosen `mix` under `rows:` goes over the rest of the file, and the words over that.
    """
    path = find(path)
    tree = _read(path, ())
    rows, known = tree.pop("rows", {}), tree.get("mixers", {})
    if unknown := [name for name in rows if name not in known or not isinstance(rows[name], dict)]:
        raise ValueError(f"{path}: rows.{unknown[0]} must be settings of a row, which is one of {', '.join(known)}")
    mix = [tree.get("mix", ""), *(word[4:] for word in words if word.startswith("mix="))][-1]
    return from_tree(over(_merge(tree, rows.get(mix, {})), words), str(path))


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
        node[last] = _parse(text, f"{word!r}") if text else ""
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
    """A Config from nested dicts, each key and type checked; `where` begins the errors."""
    cfg = _fill(Config, tree, where, "")
    for key, allowed in CHOICES.items():
        if (value := get(cfg, key)) not in allowed:
            raise ValueError(f"{where}: {key} is {value!r}; choose one of {', '.join(allowed)}")
    for key in AT_LEAST_ONE:
        if get(cfg, key) < 1:
            raise ValueError(f"{where}: {key} is {get(cfg, key)}; it must be at least 1")
    return cfg


def to_tree(cfg) -> dict:
    """The config as nested dicts and lists, as YAML or JSON can hold it."""
    return yaml.load(yaml.safe_dump(_plain(dataclasses.asdict(cfg))), _Loader)


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


def differences(a: Config, b: Config, ignore: tuple[str, ...] = ()) -> list[str]:
    """Dotted keys in which two configs differ."""
    flat_a, flat_b = dict(_flatten(to_tree(a))), dict(_flatten(to_tree(b)))
    keys = sorted(k for k in {*flat_a, *flat_b} if flat_a.get(k) != flat_b.get(k))
    return [k for k in keys if k not in ignore]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans: `5e-5` is a number (PyYAML reads text), `off` is text (PyYAML reads false)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":bool", ":float", ":int"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$", re.IGNORECASE),
    "-+.0123456789",
)
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan")),
)


def _parse(text: str, where: str):
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _read(path: Path, above: tuple[Path, ...]) -> dict:
    if path in above:
        raise ValueError(f"{path}: `base:` leads back to itself")
    if not path.is_file():
        raise ValueError(f"{above[-1]}: base {path} does not exist" if above else f"{path}: no such config file")
    tree = _parse(path.read_text(encoding="utf-8"), str(path)) or {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a config is a mapping of keys to values")
    bases = tree.pop("base", [])
    merged: dict = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, _read(path.parent / base, (*above, path)))
    return _merge(merged, tree)


def _merge(low: dict, high: dict) -> dict:
    out = dict(low)
    for key, value in high.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merge(out[key], value) if both else value
    return out


def _fill(kind: type, tree: dict, where: str, prefix: str):
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in hints:
            known = [prefix + k for k in hints]
            near = difflib.get_close_matches(prefix + str(key), known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {prefix + str(key)!r}; {hint}")
    return kind(**{key: _cast(value, hints[key], where, prefix + key) for key, value in tree.items()})


def _cast(value, hint, where: str, key: str):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {key} is {value!r}; it must be a mapping of keys to values")
        return _fill(hint, value, where, key + ".")
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _cast(value, args[0], where, key)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        if origin is tuple and len(value) != len(args):
            raise ValueError(f"{where}: {key} is {value!r}; it must hold {len(args)} values")
        return origin(_cast(v, args[0], where, key) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, origin or hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    name = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}
    raise ValueError(f"{where}: {key} is {value!r}; it must be {name.get(hint, 'a list')}")


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
