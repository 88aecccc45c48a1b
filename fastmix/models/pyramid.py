"""What PVT, MogaNet and Wide ResNets share: stages on halving maps, a linear classifier, what timm's models have."""

from __future__ import annotations

from collections.abc import Sequence

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth, 0 at the first block to `rate` at the last, linear in the block's index; a list a stage."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:k]) for k in range(len(depths))]
    return [[rate * (start + k) / last for k in range(depth)] for start, depth in zip(starts, depths, strict=True)]


def pretrained_cfg(first_conv: str, **more) -> dict:
    """timm's description of a model without published weights: its input and the names of its ends."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "min_input_size": (3, 32, 32),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": first_conv,
        "classifier": "head",
    } | more


def create(cls: type[Pyramid], name: str, pretrained: bool, stages: int = 4, **kwargs) -> Pyramid:
    """timm's builder: default arguments from the registered description, `features_only` by forward_intermediates.

    Raises ValueError where published weights are asked for: there are none.
    """
    if pretrained:
        raise ValueError(f"{name} has no published weights here; leave pretrained out, or give checkpoint_path")
    features = {"out_indices": tuple(range(stages)), "feature_cls": "getter"}
    return build_model_with_cfg(cls, name, False, feature_cfg=features, **kwargs)


class Stage(nn.Module):
    """Blocks on maps of one size; `run` applies them one by one, recomputed in the backward pass where asked."""

    def __init__(self, blocks: Sequence[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def run(self, x: Tensor, *args) -> Tensor:
        for block in self.blocks:
            if self.grad_checkpointing:
                x = checkpoint(block, x, *args, use_reentrant=False)
            else:
                x = block(x, *args)
        return x


class Pyramid(nn.Module):
    """`stages`, then `norm`, a pooling (`pool`) and `head`, as timm's models name and offer them.

    Stages map [B,C,H,W] to [B,C',H',W']; where a last stage does not, `to_map` tells how its output becomes one.
    """

    pooling: str

    def __init__(
        self,
        stages: Sequence[Stage],
        norm: nn.Module,
        dims: Sequence[int],
        in_chans: int,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
    ):
        super().__init__()
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**k, "module": f"stages.{k}"} for k, dim in enumerate(dims)
        ]
        self.stages = nn.Sequential(*stages)
        self.norm = norm
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def pool(self, x: Tensor) -> Tensor:
        """Features of `forward_features` to [B,C]; of a map [B,C,H,W] the mean."""
        return x.mean((2, 3))

    def to_map(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The last stage's output as a map [B,C,H,W] of `size`."""
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.stages(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [B,classes] from `forward_features`; pre_logits: the [B,C] that the classifier would get."""
        x = self.head_drop(self.pool(x) if self.global_pool else x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """(forward_features(x), maps [B,C,H,W] of the stages `indices`): the last n if an int, all if None.

        norm: the final norm also on the last stage's map. stop_early: later stages are not run, and the first of the
        pair is then the last wanted stage's output. intermediates_only: the maps alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"forward_intermediates: output_fmt must be NCHW, not {output_fmt}")
        take, last = feature_take_indices(len(self.stages), indices)
        maps = []
        for k, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            size = x.shape[-2] // 2, x.shape[-1] // 2
            x = stage(x)
            final = k == len(self.feature_info) - 1
            normed = self.norm(x) if final else x
            if k in take:
                chosen = normed if norm else x
                maps.append(self.to_map(chosen, size) if final else chosen)
        return maps if intermediates_only else (normed, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what the maps of `indices` do not need; returns the indices that are left to take."""
        take, last = feature_take_indices(len(self.stages), indices)
        shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_norm or shorter:
            self.norm = nn.Identity()
        if shorter:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier, started as the first one was; 0 classes: none. Raises ValueError for another pooling."""
        if global_pool not in (None, "", self.pooling):
            raise ValueError(f"{type(self).__name__}: global_pool must be {self.pooling!r} or '', not {global_pool!r}")
        if global_pool is not None:
            self.global_pool = global_pool
        self.num_classes = num_classes
        if not num_classes:
            self.head = nn.Identity()
            return
        like = next(self.parameters())
        self.head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        self.head.train(self.training)
        self.init_linear(self.head)

    def init_linear(self, linear: nn.Linear) -> None:
        """Starts a linear layer as the model's authors do."""
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass: less memory, a forward pass more."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """The order of the parameters in depth, for timm's layer decay: a group a block, coarse: a group a stage."""
        previous = (99999,)  # timm's mark for "with the group before"
        fine = [
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.norm", previous),
            (r"^stages\.(\d+)\.", (0,)),
            (r"^norm", previous),
        ]
        stem = r"^stages\.0\.(?!blocks|norm)"
        return {"stem": stem, "blocks": [(r"^stages\.(\d+)", None), fine[-1]] if coarse else fine}
