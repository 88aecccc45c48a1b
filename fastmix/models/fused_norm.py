"""Batch-norm with what follows it as one operation (kernels/norm_act) in timm's ResNets, ResNeXts and MobileNets.

`fuse` gives modules a class with another `forward`: blocks of ResNets and their stem, and timm's batch-norm with an
activation, which MobileNets are made of. Modules, parameters, buffers and their names stay, and so do checkpoints and
what is exported. Fused is what the kernels do: ReLU and ReLU6, on a GPU, in channels-last. Anything else takes the way
of timm, which gives the same: other activations, dropped paths and attention before a shortcut, a compiled model
(which fuses by itself), and a norm or an activation whose own output a hook waits for.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from timm.layers.norm_act import SyncBatchNormAct
from timm.models._manipulate import checkpoint_seq
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastmix.kernels import norm_act as kernels
from fastmix.kernels._triton import INTERPRETED
from fastmix.kernels.norm_act.passes import without_memory

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CAPS = {nn.ReLU: math.inf, nn.ReLU6: 6.0}


def fuse(model: nn.Module) -> int:
    """Has the modules of a model that can be fused do so from now on, where the kernels run; how many there are."""
    found = [module for module in model.modules() if type(module) in FUSED and _fits(module)]
    for module in found:
        module.__class__ = FUSED[type(module)]
    return len(found)


def norm_act(
    x: Tensor, norm: nn.Module, act: nn.Module, shortcut: Tensor | None = None, second: nn.Module | None = None
) -> Tensor:
    """act(norm(x) + shortcut), where `second`, if given, norms the shortcut: fused, or else module by module."""
    if _possible(x, act, [norm, second], [act, norm, second], shortcut):
        return kernels.norm_act(x, _told(norm), CAPS[type(act)], shortcut, None if second is None else _told(second))
    x = norm(x)
    if shortcut is not None:
        x += shortcut if second is None else second(shortcut)
    return act(x)


class _FusedResNet(ResNet):
    def forward_features(self, x: Tensor) -> Tensor:
        x = self.maxpool(norm_act(self.conv1(x), self.bn1, self.act1))
        stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        if self.grad_checkpointing:
            return checkpoint_seq(stages, x, flatten=True)
        for stage in stages:
            x = stage(x)
        return x


class _FusedBasicBlock(BasicBlock):
    def forward(self, x: Tensor) -> Tensor:
        y = self.aa(norm_act(self.conv1(x), self.bn1, self.act1))
        return _with_shortcut(self, self.conv2(y), self.bn2, self.act2, x)


class _FusedBottleneck(Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        y = norm_act(self.conv1(x), self.bn1, self.act1)
        y = self.aa(norm_act(self.conv2(y), self.bn2, self.act2))
        return _with_shortcut(self, self.conv3(y), self.bn3, self.act3, x)


class _FusedNormAct:
    """Of timm's batch-norm with an activation; the module's own hooks see what they saw."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.drop, nn.Identity) and _possible(x, self.act, [self], [self.act]):
            return kernels.norm_act(x, _told(self), CAPS[type(self.act)])
        return super().forward(x)


class _FusedBatchNormAct(_FusedNormAct, BatchNormAct2d):
    pass


class _FusedSyncBatchNormAct(_FusedNormAct, SyncBatchNormAct):
    pass


FUSED = {
    ResNet: _FusedResNet,
    BasicBlock: _FusedBasicBlock,
    Bottleneck: _FusedBottleneck,
    BatchNormAct2d: _FusedBatchNormAct,
    SyncBatchNormAct: _FusedSyncBatchNormAct,
}


def _fits(module: nn.Module) -> bool:
    """Whether a module has nothing that its fused forward leaves out."""
    return isinstance(getattr(module, "drop_block", None), nn.Identity | None)


def _with_shortcut(block: nn.Module, y: Tensor, norm: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """The end of a block: what its last convolution gave, normed, and the block's input, perhaps sampled down."""
    down = block.downsample
    if block.se is not None or block.drop_path is not None:
        y = norm(y)
        for part in filter(None, (block.se, block.drop_path)):
            y = part(y)
        y += x if down is None else down(x)
        return act(y)
    if down is None:
        return norm_act(y, norm, act, x)
    if isinstance(down, nn.Sequential) and isinstance(down[-1], NORMS) and not down._forward_hooks:
        *before, last = down
        for part in before:
            x = part(x)
        return norm_act(y, norm, act, x, last)
    return norm_act(y, norm, act, down(x))


def _possible(
    x: Tensor,
    act: nn.Module,
    norms: list[nn.Module | None],
    passed_over: list[nn.Module | None],
    shortcut: Tensor | None = None,
) -> bool:
    """Whether the kernels do what these modules do, and nobody waits for the output of one that is passed over."""
    norms = [norm for norm in norms if norm is not None]
    return (
        not torch.compiler.is_compiling()
        and (x.is_cuda or INTERPRETED or without_memory(x))
        and type(act) in CAPS
        and x.dtype in kernels.DTYPES
        and all(isinstance(norm, NORMS) and norm.affine for norm in norms)
        and (x.numel() > x.shape[1] or not any(_of_batch(norm) for norm in norms))
        and all(_lies_right(value, x) for value in (x, shortcut) if value is not None)
        and not any(getattr(module, hooks) for module in passed_over if module is not None for hooks in HOOKS)
    )


def _lies_right(value: Tensor, x: Tensor) -> bool:
    like = (value.dtype, value.shape) == (x.dtype, x.shape)
    return like and x.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)


def _of_batch(norm: _BatchNorm) -> bool:
    """Whether it norms by the statistics of the batch."""
    return norm.training or norm.running_mean is None


def _told(norm: _BatchNorm) -> kernels.Norm:
    """A batch-norm for the kernels; it counts the batch, as its own forward would."""
    moves, of_batch, momentum, group = norm.training and norm.track_running_stats, _of_batch(norm), norm.momentum, None
    if moves and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # the mean over all batches
            momentum = 1.0 / float(norm.num_batches_tracked)
    if isinstance(norm, nn.SyncBatchNorm) and norm.training and dist.is_initialized():
        group = norm.process_group or dist.group.WORLD
        group = group if group.size() > 1 else None
    running = (norm.running_mean, norm.running_var) if moves or not of_batch else (None, None)
    return kernels.Norm(norm.weight, norm.bias, *running, of_batch, momentum or 0.0, norm.eps, group)
