"""What a training step must cost on a GPU, worked out from the model alone: nothing here is measured.

The model's forward and backward pass run on tensors that have shapes and no memory; every operation that torch
dispatches is counted with what it must read and write:

- eager: an operation reads its inputs and writes its outputs. Batch-norm reads its input twice (statistics, then the
  result), its backward pass gradient and input twice, that of layer-norm too; the backward pass of a convolution or of
  an attention reads the output's gradient twice (one product for each of two gradients).
- fused: an operation on single values is done where its first input is made, and reads only its others.
  Nothing is done twice. No compiler gets there; it bounds what fusing can give.

The optimiser (SGD with momentum) reads weights, gradients and momentum, and writes two of them, in fp32. Arithmetic is
three times the forward pass's multiply-adds. The rate is that of a GPU that does both one after the other, each at
full speed: matrix products at the published peak, traffic at the rate of a copy. No real kernels are that good.
Not counted: casts to fp32 that CUDA's autocast makes and the CPU's does not (layer-norm), workspaces, loading, mixing.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastmix.bench import measure
from fastmix.bench.gpus import GPUS

FLOPS = {"a100": 312, "h100": 989, "h200": 989, "b200": 2250}  # TFLOP/s in bf16, dense: NVIDIA's data sheets
TWICE = {  # operation: the arguments, by place, that it reads twice
    "native_batch_norm": (0,),
    "_native_batch_norm_legit": (0,),
    "_batch_norm_with_update": (0,),
    "cudnn_batch_norm": (0,),
    "native_batch_norm_backward": (0, 1),
    "batch_norm_backward": (0, 1),
    "cudnn_batch_norm_backward": (0, 1),
    "native_layer_norm_backward": (0, 1),
    "convolution_backward": (0,),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (0,),
}
COPIES = ("_to_copy", "clone", "copy_")  # on single values, too; torch does not mark them as such
UNREAD = ("copy_", "fill_", "zero_")  # the first argument is written alone
EMPTY = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")  # no memory is touched
OPTIMISER = 5 * 4  # bytes of a parameter


class Traffic(TorchDispatchMode):
    """Adds up the bytes that the operations must move: `eager` and `fused`."""

    def __init__(self):
        super().__init__()
        self.eager = self.fused = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        given = args, kwargs or {}
        out = operation(*args, **given[1])
        name = operation._schema.name.removeprefix("aten::")
        outputs, inputs = _tensors(out), _tensors(given)
        if is_free(operation, given, out):
            return out
        if name in UNREAD:
            inputs = inputs[1:]
        again = sum(_bytes(args[k]) for k in TWICE.get(name, ()))
        written = sum(map(_bytes, outputs))
        self.eager += sum(map(_bytes, inputs)) + again + written
        if name in COPIES or torch.Tag.pointwise in operation.tags:
            self.fused += sum(map(_bytes, inputs[1:]))
        else:
            self.fused += sum(map(_bytes, inputs)) + again + written
        return out


def is_free(operation, given, out) -> bool:
    """Whether an operation touches no memory: it gives views of what it was given, or empty tensors."""
    own = {tensor.untyped_storage()._cdata for tensor in _tensors(given)}
    view = not operation._schema.is_mutable and all(t.untyped_storage()._cdata in own for t in _tensors(out))
    return view or operation._schema.name.removeprefix("aten::") in EMPTY


@dataclass(frozen=True)
class Floor:
    """A step: images, multiply-adds of the forward pass of one, bytes that all must move, parameters, and the bytes of
    memory by what they are for (fastmix/engine/dryrun.py)."""

    batch: int
    macs: int
    eager: int
    fused: int
    memory: dict[str, int]

    def rate(self, gpu: str, moved: int) -> float:
        """images/s where arithmetic and memory traffic (`eager` or `fused`) come one after the other."""
        arithmetic = 6 * self.macs * self.batch / (FLOPS[gpu] * 1e12)
        return self.batch / (arithmetic + moved / (GPUS[gpu].copy * 1e12))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    models = ["resnet50", "deit_small_patch16_224", "convnext_tiny"]
    parser.add_argument("--models", nargs="+", default=models, help="timm's")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--fused-norm", default="off", choices=("auto", "off"), help="as model.fused_norm")
    parser.add_argument("--gpu", nargs="+", choices=GPUS, default=["h200"])


def run(args: argparse.Namespace) -> list[dict]:
    """The rows of all models. Raises ValueError for a size or a count below 1, or an unknown model."""
    rows = []
    for name in args.models:
        found = floor(name, args.batch, args.size, args.precision, args.fused_norm)
        what = (
            name,
            f"{args.batch}x{args.size}x{args.size}",
            args.precision + " fused norm" * (args.fused_norm == "auto"),
        )

        def row(provider: str, unit: str, value: float, gpu: str = "", what=what) -> None:
            name, shape, dtype = what
            cells = measure.row("floor", name, f"{provider}, predicted", shape, dtype, f"{unit}, predicted", [value])
            rows.append(cells | {"hardware": f"{GPUS[gpu].name if gpu else 'any'}: counted, not measured"})

        row("any", "GFLOP/image", 6 * found.macs / 1e9)
        row("eager", "GB", sum(found.memory.values()) / 1e9)
        for provider, moved in (("eager", found.eager), ("fused", found.fused)):
            row(provider, "MB/image", moved / args.batch / 1e6)
            for gpu in args.gpu:
                row(provider, "images/s", found.rate(gpu, moved), gpu)
    return rows


def floor(name: str, batch: int, size: int, precision: str = "bf16", fused: str = "off") -> Floor:
    """Of a timm model with 1000 classes under autocast; fused: as model.fused_norm. Raises ValueError without one."""
    from fastmix import models
    from fastmix.config import Config, Data, Model
    from fastmix.engine import dryrun
    from fastmix.engine.task import DTYPES
    from fastmix.models.fused_norm import fuse

    cfg = Config(data=Data(size=size), model=Model(name), precision=precision, batch_total=batch)
    with torch.device("meta"):
        model = models.build(cfg.model, 1000, device="meta")
    if fused == "auto":
        fuse(model)
    count = OPTIMISER * sum(p.numel() for p in model.parameters())
    eager, fused = traffic(model, (batch, 3, size, size), DTYPES[precision])
    return Floor(batch, dryrun.macs(model, cfg), eager + count, fused + count, dryrun.memory(model, cfg, 1))


def traffic(model: nn.Module, shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that forward and backward pass must move, eager and fused, for images of this shape [B,3,H,W]."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    named = [*model.named_parameters(), *model.named_buffers()]
    with FakeTensorMode():
        fake = {key: torch.empty(v.shape, dtype=v.dtype, requires_grad=v.requires_grad) for key, v in named}
        images = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
        labels = torch.empty(shape[0], dtype=torch.int64)
        with Traffic() as moved:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                logits = torch.func.functional_call(model, fake, (images,))
            nn.functional.cross_entropy(logits.float(), labels).backward()
    return moved.eager, moved.fused


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Of what is in memory: an expanded tensor is no larger than what it was."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
