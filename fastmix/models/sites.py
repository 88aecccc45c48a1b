"""Sites: the places inside a backbone whose features can be read or replaced, by names that all backbones share.

Any other module is a site by its path ("layer3"), which is how models that are not timm's have some; their classifier,
features and attention are found by looking at one pass (fastmix/models/own.py).

Each place has one forward hook (`Tap`), which stays and does nothing until a `with` arms it. torch.compile builds one
graph for each combination of armed sites and functions and uses it again for other tensors, if the hooks are there when
it first sees the model: a mixer's prepare() calls `install`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmix.models import own

STEMS = ("maxpool", "stem", "patch_embed", "stages.0.embed", "bn1")  # the first that a model has is its stem
ALIGNED = 8  # columns of values that every kernel of fused attention takes
LASTS = ("norm", "bn2", "norm_pre")  # the first that a model has gives what forward_features does; else its last stage


class Tap:
    """The hook of one place: changes its output, or keeps it, while armed. A copied model's taps are new, not armed."""

    def __init__(self, late: bool = False):
        self.late = late  # whether the model was compiled without this hook
        self.changes: tuple[tuple, ...] = ()

    def __call__(self, module: nn.Module, given: tuple, output: Tensor) -> Tensor | None:
        for change, values in self.changes:
            changed = change(given[0] if given else None, output, *values)
            output = output if changed is None else changed
        return output if self.changes else None

    def __deepcopy__(self, memo: dict) -> Tap:
        return Tap()


class Reading:
    """What a site gave in the last forward pass; `graph`: with what a gradient needs, else detached."""

    def __init__(self, model: nn.Module, graph: bool = False):
        self.model, self.graph = model, graph
        self.seen: tuple[Tensor, Tensor] | None = None

    @property
    def value(self) -> Tensor | None:
        """A map [B,C,h,w]; None before the first pass."""
        return None if self.seen is None else as_map(self.model, *self.seen)


@dataclass
class Attention:
    """Queries and keys [B,heads,N,d] of one block in the last forward pass, detached, and what q k' is scaled by.

    The first `prefix` of the N tokens, the class token before all, are no patches. Products and softmax are float32.
    """

    scale: float
    prefix: int
    q: Tensor | None = None
    k: Tensor | None = None

    def rows(self, first: int, last: int | None = None) -> Tensor:
        """How much the tokens first..last attend to each of the N tokens, the mean over the heads. float32 [B,n,N]"""
        with torch.no_grad(), torch.autocast(self.q.device.type, enabled=False):
            logits = self.q[:, :, first:last].float() @ (self.scale * self.k.float()).mT
            return logits.softmax(-1).mean(1)

    @property
    def value(self) -> Tensor:
        """How much the class token attends to each patch; the rest, up to 1, is for the prefix. float32 [B,h*w]"""
        return self.rows(0, 1)[:, 0, self.prefix :]

    @property
    def received(self) -> Tensor:
        """How much each patch is attended to by the patches, on average. float32 [B,h*w]"""
        return self.rows(self.prefix)[:, :, self.prefix :].mean(1)

    @torch.no_grad()
    def applied(self, values: Tensor) -> Tensor:
        """What each token gets of one value a token, float32 [B,N]: the mean over the heads of A values, as a token's
        values are mixed. The attention A is never made; computed as the model does, so in half precision to 2**-9.
        """
        same = values.to(self.q.dtype)[:, None, :, None]
        same = same.expand(-1, self.q.shape[1], -1, ALIGNED).contiguous()
        return F.scaled_dot_product_attention(self.q, self.k, same, scale=self.scale)[..., 0].float().mean(1)


def name_of(model: nn.Module) -> str:
    """The name under which timm made the model, or that of its class."""
    return getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__


def sites(model: nn.Module) -> dict[str, str]:
    """Names of a timm model's sites, in the order of the forward pass -> the modules whose output they are.

    "stem", then "stage1" to "stage4", of stride 4 to 32 (a quarter of it behind the stem of CIFAR), or "block0",
    "block1", ... of a ViT, which has one stride. PVT's stem gives no map and has no name. `rewrite` and `read` also
    know "features", what forward_features gives to the head: behind the last stage, normed where the model does so;
    `rewrite` also "classifier", from the features [B,C] that are judged to the logits.
    Raises ValueError for a model that does not tell its stages.
    """
    stages = getattr(model, "feature_info", None)
    if not stages:
        inside = ", ".join(name for name, _ in model.named_children())
        told = f"{name_of(model)} does not tell its stages (feature_info), as timm's models do"
        raise ValueError(f"{told}; name a module, of: {inside}")
    stages = [(info["module"], info["reduction"]) for info in stages]
    stem = next((path for path in STEMS if _has(model, path)), None)
    found = {"stem": stem} if stem else {}
    if len({stride for _, stride in stages}) == 1:
        return found | {f"block{k}": path for k, (path, _) in enumerate(stages)}
    return found | {f"stage{int(math.log2(stride)) - 1}": path for path, stride in stages if stride >= 4}


def install(model: nn.Module, *more: str) -> None:
    """Makes the hooks of all sites, and of queries and keys where there is a class token; call it before compile().

    more: paths of modules that are sites, too. One that is first used in a compiled model works too, but eagerly.
    Raises ValueError for a path that the model does not have.
    """
    for module in (*_places(model).values(), *[place(model, site) for site in more]):
        _tap(model, module)
    for block in _attended(model):
        for module in _projections(block):
            _tap(model, module)


def place(model: nn.Module, site: str) -> nn.Module:
    """The module whose output is the site; raises ValueError for one that the model does not have."""
    places = _places(model)
    if site in places:
        return places[site]
    if site and _has(model, site):
        return model.get_submodule(site)
    known = ", ".join([*places, *(name for name, _ in model.named_children() if not _is_timms(model))])
    raise ValueError(f"{name_of(model)} has no site {site!r}; choose one of {known}")


@contextmanager
def rewrite(model: nn.Module, site: str, change: Callable[..., Tensor | None], *values) -> Iterator[None]:
    """Inside, change(input, output, *values) of the site's module replaces its output, in its own layout (None: stays).

    `change` is a function of a module, its tensors come in `values`: a compiled model then has one graph for it. (A
    function made anew for each pass is compiled anew: run those under torch.compiler.set_stance("force_eager").)
    Raises ValueError for a site that the model does not have.
    """
    with _armed(model, place(model, site), change, *values):
        yield


@contextmanager
def read(model: nn.Module, site: str, graph: bool = False) -> Iterator[Reading]:
    """Inside, the yielded Reading holds the site's output of the last forward pass as a map [B,C,h,w].

    graph: a gradient flows through it; else it is detached.

    Raises ValueError for a site that the model does not have.
    """
    reading = Reading(model, graph)
    with rewrite(model, site, _keep, reading):
        yield reading


def stops(model: nn.Module, site: str) -> bool:
    """Whether the model can be run up to that site alone: to a stage of timm's, or a block."""
    return _is_timms(model) and sites(model).get(site) in [info["module"] for info in model.feature_info]


def upto(model: nn.Module, x: Tensor, site: str) -> Tensor:
    """The site's output [B,C,h,w] for images [B,3,H,W]: like `read`, but the layers behind it are not run.

    With a graph, where gradients are on. Raises ValueError for a site at which the model does not stop.
    """
    if not stops(model, site):
        stages = [info["module"] for info in getattr(model, "feature_info", [])]
        inner = [name for name, path in sites(model).items() if path in stages]
        raise ValueError(f"{name_of(model)} does not stop at {site!r}; choose one of {', '.join(inner)}")
    index = [info["module"] for info in model.feature_info].index(sites(model)[site])
    options = {"norm": False, "stop_early": True, "intermediates_only": True}
    return model.forward_intermediates(x, indices=[index], **options)[0]


def channels(model: nn.Module, site: str) -> int:
    """How many channels a site's output has; raises ValueError for a site that the model does not have."""
    if stops(model, site):
        path = sites(model)[site]
        return next(info["num_chs"] for info in model.feature_info if info["module"] == path)
    module = place(model, site)
    path = next(path for path, found in model.named_modules() if found is module)
    found = own.seen(model).channels
    if path not in found:
        raise ValueError(f"{name_of(model)} gives no map at {site!r}; choose one of {', '.join(found)}")
    return found[path]


def classes(model: nn.Module) -> int:
    """How many classes a model knows; raises ValueError where it gives no logits."""
    told = getattr(model, "num_classes", None)
    return told if isinstance(told, int) else own.seen(model).classes


def prefix(model: nn.Module) -> int:
    """How many of a transformer's tokens are no patches: they come first."""
    if _is_timms(model):
        return getattr(model, "num_prefix_tokens", 0)
    return 1 if own.seen(model).attention else 0


def stride(model: nn.Module) -> int:
    """Pixels a side of a patch of the last block."""
    return model.feature_info[-1]["reduction"] if _is_timms(model) else own.seen(model).patch


@contextmanager
def attention_inputs(model: nn.Module, last: bool = False) -> Iterator[list[Attention]]:
    """Inside, queries and keys in the last forward pass, block by block where the class token passes: of a ViT in all,
    of PVT in those of its last stage; last: in the last block alone. Attention stays fused.

    Raises ValueError for a model without a class token.
    """
    blocks = _attended(model)
    if not blocks:
        raise ValueError(
            f"{name_of(model)} has no class token whose attention can be read; of the benchmark's backbones DeiT-T, "
            "DeiT-S, DeiT-B and PVT-T have one"
        )
    blocks = blocks[-1:] if last else blocks
    found = [Attention(_scale(block), prefix(model)) for block in blocks]
    with ExitStack() as stack:
        for block, attention in zip(blocks, found, strict=True):
            if isinstance(block, nn.MultiheadAttention):
                stack.enter_context(_armed(model, block, _keep_projected, attention, block))
                continue
            stack.enter_context(_armed(model, block.q_norm, _keep_q, attention))
            stack.enter_context(_armed(model, block.k_norm, _keep_k, attention))
        yield found


@contextmanager
def class_attention(model: nn.Module) -> Iterator[Attention]:
    """Inside, the last block's attention in the last forward pass: `value` is that of the class token to each patch.

    Raises ValueError for a model without a class token.
    """
    with attention_inputs(model, last=True) as found:
        yield found[0]


def as_map(model: nn.Module, given: Tensor, output: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """A site's output as a map [B,C,h,w], where `given` is what its module was given; a view, class token left out.

    grid: (h, w), which PVT's tokens behind its last stage do not tell.
    """
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else output
    if hasattr(model, "to_map"):
        return model.to_map(output, grid or (given.shape[-2] // 2, given.shape[-1] // 2))
    if hasattr(model, "patch_embed"):
        h, w = model.patch_embed.grid_size
    else:
        h = w = math.isqrt(output.shape[1])
    return output[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))


def last_map(model: nn.Module, x: Tensor) -> Tensor:
    """The feature map [B,C,h,w] whose mean `classifier` judges; the network behind it is not run, nothing is compiled.

    ConvNeXt normalises after its pooling: here at each place of the map.
    Raises ValueError for a model that classifies from a class token.
    """
    if not _is_timms(model):
        return _own_map(model, x)
    if getattr(model, "global_pool", None) == "token":
        raise ValueError(f"{name_of(model)} classifies from a class token, not from a map; choose another model")
    features = as_map(model, x, model.forward_features(x))
    norm = getattr(getattr(model, "head", None), "norm", None)
    return features if norm is None else norm(features)


def classifier(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [classes,C] and bias [classes] of the model's linear classifier; raises ValueError if it has none."""
    linear = _linear(model)
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"{name_of(model)} has no linear classifier")
    return linear.weight, linear.bias


def _is_timms(model: nn.Module) -> bool:
    """Whether it tells its stages, as timm's models and ours do."""
    return bool(getattr(model, "feature_info", None))


def _linear(model: nn.Module) -> nn.Module | None:
    if hasattr(model, "get_classifier"):
        return model.get_classifier()
    path = own.seen(model).classifier
    return None if path is None else model.get_submodule(path)


def _own_map(model: nn.Module, x: Tensor) -> Tensor:
    """`last_map` of a model that is not timm's, whose whole pass is run."""
    path = own.seen(model).features
    if path is None or own.seen(model).attention:
        raise ValueError(f"{name_of(model)} has no map whose mean a linear classifier judges; choose another method")
    kept = []
    with torch.compiler.set_stance("force_eager"), rewrite(model, path, lambda given, output: kept.append(output)):
        model(x)
    return as_map(model, x, kept[0])


def _places(model: nn.Module) -> dict[str, nn.Module]:
    """The modules at all the names that `rewrite` knows."""
    if not _is_timms(model):
        found = {"features": own.seen(model).features, "classifier": own.seen(model).classifier}
        return {site: model.get_submodule(path) for site, path in found.items() if path}
    found = {site: model.get_submodule(path) for site, path in sites(model).items()}
    last = next((path for path in LASTS if _has(model, path)), None)
    found["features"] = model.get_submodule(last) if last else [*found.values()][-1]
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    return found | {"classifier": head} if isinstance(head, nn.Linear) else found


def _has(model: nn.Module, path: str) -> bool:
    try:
        return isinstance(model.get_submodule(path), nn.Module)
    except AttributeError:
        return False


def _attended(model: nn.Module) -> list[nn.Module]:
    """The attention modules of the blocks that the class token passes, if they tell their queries and keys."""
    if not _is_timms(model):
        return [model.get_submodule(path) for path in own.seen(model).attention]
    host = model.stages[-1] if isinstance(getattr(model, "stages", None), nn.Sequential) else model
    blocks = [] if getattr(host, "cls_token", None) is None else [block.attn for block in host.blocks]
    return blocks if all(hasattr(block, "q_norm") and hasattr(block, "k_norm") for block in blocks) else []


def _projections(block: nn.Module) -> tuple[nn.Module, ...]:
    """The modules whose outputs, or inputs, say the queries and keys of an attention."""
    return (block,) if isinstance(block, nn.MultiheadAttention) else (block.q_norm, block.k_norm)


def _scale(block: nn.Module) -> float:
    """What q k' is multiplied by."""
    return block.head_dim**-0.5 if isinstance(block, nn.MultiheadAttention) else block.scale


def _tap(model: nn.Module, module: nn.Module) -> Tap:
    tap = next((hook for hook in module._forward_hooks.values() if isinstance(hook, Tap)), None)
    if tap is None:
        tap = Tap(late=model._compiled_call_impl is not None)
        module.register_forward_hook(tap)
    return tap


@contextmanager
def _armed(model: nn.Module, module: nn.Module, change: Callable[..., Tensor | None], *values) -> Iterator[None]:
    tap = _tap(model, module)
    before = tap.changes
    tap.changes = (*before, (change, values))
    try:
        with torch.compiler.set_stance("force_eager") if tap.late else nullcontext():
            yield
    finally:
        tap.changes = before


def _keep(given: Tensor, output: Tensor, reading: Reading) -> None:
    reading.seen = (given, output) if reading.graph else (given.detach(), output.detach())


def _keep_q(given: Tensor, output: Tensor, attention: Attention) -> None:
    attention.q = output.detach()


def _keep_k(given: Tensor, output: Tensor, attention: Attention) -> None:
    attention.k = output.detach()


@torch.no_grad()
def _keep_projected(given: Tensor, output: tuple, attention: Attention, block: nn.MultiheadAttention) -> None:
    """Queries and keys of self-attention by torch's module, which keeps them to itself: projected once more."""
    both = 2 * block.embed_dim
    bias = None if block.in_proj_bias is None else block.in_proj_bias[:both]
    projected = F.linear(given.detach(), block.in_proj_weight[:both], bias)
    attention.q, attention.k = projected.unflatten(2, (2, block.num_heads, block.head_dim)).permute(2, 0, 3, 1, 4)
