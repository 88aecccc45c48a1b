"""Sites: the places inside a backbone whose features can be read or replaced, by names that all backbones share.

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
            changed = change(given[0], output, *values)
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
        raise ValueError(f"{name_of(model)} does not tell its stages (feature_info), as timm's models do")
    stages = [(info["module"], info["reduction"]) for info in stages]
    stem = next((path for path in STEMS if _has(model, path)), None)
    found = {"stem": stem} if stem else {}
    if len({stride for _, stride in stages}) == 1:
        return found | {f"block{k}": path for k, (path, _) in enumerate(stages)}
    return found | {f"stage{int(math.log2(stride)) - 1}": path for path, stride in stages if stride >= 4}


def install(model: nn.Module) -> None:
    """Makes the hooks of all sites, and of queries and keys where there is a class token; call it before compile().

    A site that is first used in a compiled model works too, but eagerly.
    """
    for module in _places(model).values():
        _tap(model, module)
    for block in _attended(model):
        for module in (block.q_norm, block.k_norm):
            _tap(model, module)


@contextmanager
def rewrite(model: nn.Module, site: str, change: Callable[..., Tensor | None], *values) -> Iterator[None]:
    """Inside, change(input, output, *values) of the site's module replaces its output, in its own layout (None: stays).

    `change` is a function of a module, its tensors come in `values`: a compiled model then has one graph for it. (A
    function made anew for each pass is compiled anew: run those under torch.compiler.set_stance("force_eager").)
    Raises ValueError for a site that the model does not have.
    """
    places = _places(model)
    if site not in places:
        raise ValueError(f"{name_of(model)} has no site {site!r}; choose one of {', '.join(places)}")
    with _armed(model, places[site], change, *values):
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


def upto(model: nn.Module, x: Tensor, site: str) -> Tensor:
    """The site's output [B,C,h,w] for images [B,3,H,W]: like `read`, but the layers behind it are not run.

    With a graph, where gradients are on. Raises ValueError for a site that the model does not have, or its stem.
    """
    named = sites(model)
    stages = [info["module"] for info in model.feature_info]
    inner = {name: stages.index(path) for name, path in named.items() if path in stages}
    if site not in inner:
        raise ValueError(f"{name_of(model)} does not stop at {site!r}; choose one of {', '.join(inner)}")
    options = {"norm": False, "stop_early": True, "intermediates_only": True}
    return model.forward_intermediates(x, indices=[inner[site]], **options)[0]


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
    found = [Attention(block.scale, model.num_prefix_tokens) for block in blocks]
    with ExitStack() as stack:
        for block, attention in zip(blocks, found, strict=True):
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
    h, w = model.patch_embed.grid_size
    return output[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))


def last_map(model: nn.Module, x: Tensor) -> Tensor:
    """The feature map [B,C,h,w] whose mean `classifier` judges; the network behind it is not run, nothing is compiled.

    ConvNeXt normalises after its pooling: here at each place of the map.
    Raises ValueError for a model that classifies from a class token.
    """
    if getattr(model, "global_pool", None) == "token":
        raise ValueError(f"{name_of(model)} classifies from a class token, not from a map; choose another model")
    features = as_map(model, x, model.forward_features(x))
    norm = getattr(getattr(model, "head", None), "norm", None)
    return features if norm is None else norm(features)


def classifier(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [classes,C] and bias [classes] of the model's linear classifier; raises ValueError if it has none."""
    linear = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"{name_of(model)} has no linear classifier")
    return linear.weight, linear.bias


def _places(model: nn.Module) -> dict[str, nn.Module]:
    """The modules at all the names that `rewrite` knows."""
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
    host = model.stages[-1] if isinstance(getattr(model, "stages", None), nn.Sequential) else model
    blocks = [] if getattr(host, "cls_token", None) is None else [block.attn for block in host.blocks]
    return blocks if all(hasattr(block, "q_norm") and hasattr(block, "k_norm") for block in blocks) else []


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
