"""A pretended GPU: torch's CPU build runs the project as on a CUDA device, without computing what would lie there.

A tensor on cuda:0 is torch's FakeTensor (shape, strides, type and device, no numbers); tensors of the host are real.
What a real GPU would refuse, or make the host wait for, is noted with its place. Numbers that the host asks for are
zero. For a process of its own, started by `python -m gpu`: torch.cuda is patched for good.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastmix.kernels import host_to_device
from gpu import streams
from gpu.launches import Launches
from gpu.page_locked import PageLocked
from helpers import ROOT

DEVICE = torch.device("cuda", 0)
BY_VALUE = {"nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
INDEXED = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
ALIGNED = 256  # bytes; where the allocator's memory begins


class Gpu(TorchDispatchMode):
    """Tensors on cuda:0 within it are pretended.

    faults: how often each was seen, by (kind, what, where). The kinds: "mixed", devices; "wait", of the host for the
    device; "pageable", a copy from memory that is not page-locked, which waits too; and those of `Launches`.
    sent: copies from the host; launches: Triton's.
    """

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.faults: Counter[tuple[str, str, str]] = Counter()
        self.memory, self.launches, self.sent = PageLocked(), Launches(self.note), 0

    def note(self, kind: str, what: str) -> None:
        self.faults[kind, what, place()] += 1

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        made_there = torch.device(kwargs.get("device") or "cpu").type == "cuda"
        if not made_there and not any(isinstance(t, FakeTensor) for t in tensors):
            return operation(*args, **kwargs)
        name = operation._schema.name.removeprefix("aten::")
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], kwargs.get("device")) if name == "_to_copy" else (args[1], args[0].device)
            target = source.device if target is None else torch.device(target)
            if target.type != source.device.type:
                waiting = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] and args[2]))
                return self.copied(operation, source, target, waiting, args, kwargs)
        if name == "_local_scalar_dense":
            self.note("wait", "item")
            return torch.zeros((), dtype=tensors[0].dtype).item()
        if name == "lift_fresh":  # of what torch.tensor made
            return args[0]
        if name in BY_VALUE:
            self.note("wait", name)
        if name in INDEXED:
            args = (args[0], [self.index(args[0], each) for each in args[1]], *args[2:])
        elif hosts := [t for t in tensors if t.device.type == "cpu" and t.ndim]:
            self.note("mixed", f"{name} with {about(hosts[0])} of the host")
        if name.startswith("_fused_"):  # has no fake version; it changes its arguments in place
            return None
        with self.fake:
            return operation(*args, **kwargs)

    def copied(self, operation, source: Tensor, target: torch.device, waiting: bool, args: tuple, kwargs: dict):
        """A copy from the host, or to it."""
        if target.type == "cpu":
            self.note("wait", f"copy of {about(source)} to the host")
            if operation._schema.name == "aten::copy_":
                return args[0]
            return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        self.sent += 1
        if not self.memory.locked(source):
            self.note("pageable", f"copy of {about(source)}")
        elif waiting:
            self.note("wait", f"copy of {about(source)} without non_blocking")
        fake = self.fake.from_tensor(source)
        with self.fake:
            return operation(*(fake if value is source else value for value in args), **kwargs)

    def index(self, indexed: Tensor, index: Tensor | None) -> Tensor | None:
        if index is None:
            return None
        if index.dtype in (torch.bool, torch.uint8):
            self.note("wait", f"indexed by a mask, {about(index)}")
        if index.device != indexed.device:
            self.note("mixed", f"{about(indexed)} of {indexed.device} indexed by {about(index)} of {index.device}")
            return torch.empty(index.shape, dtype=index.dtype, device=indexed.device)
        return index


def about(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def place(stack: traceback.StackSummary | None = None, depth: int = 3) -> str:
    """The innermost lines of the project and of timm that led here, or in a stack, the last call first."""
    lines = []
    for frame in reversed(stack or traceback.extract_stack()):
        name = frame.filename.rpartition("/site-packages/")[2].removeprefix(f"{ROOT}/")
        if name.startswith(("fastmix/", "kernels/", "pipelines/", "timm/")):
            lines.append(f"{name}:{frame.lineno}")
    return " < ".join(lines[:depth])


def placed(module: torch.nn.Module) -> torch.nn.Module:
    """module.to(DEVICE), where a part of it may lie there already: a FakeTensor cannot be given other memory."""
    for part in module.modules():
        if any(t.device.type == "cpu" for t in [*part.parameters(recurse=False), *part.buffers(recurse=False)]):
            part._apply(lambda t: t if t.is_cuda else t.to(DEVICE), recurse=False)
    return module


def install() -> None:
    """torch.cuda says that there is a GPU."""

    answers = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "get_device_capability": (9, 0),
        "get_device_name": "pretended",
        "mem_get_info": (10**11, 10**11),
    }
    nothing = ("_lazy_init", "set_device", "manual_seed", "manual_seed_all")
    for name, answer in answers.items() | dict.fromkeys(nothing).items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    for name in ("device", "device_of"):
        setattr(torch.cuda, name, lambda *args: nullcontext())
    for name, stand_in in streams.IN_TORCH.items():
        setattr(torch.cuda, name, stand_in)
    for name in ("tensor", "as_tensor"):  # which copy below the level that Gpu sees
        setattr(torch, name, _made_on_the_host(getattr(torch, name)))
    Tensor.record_stream = lambda tensor, stream: None  # torch's own takes torch's own streams only
    FakeTensor.data_ptr = lambda self: ALIGNED + self.storage_offset() * self.element_size()


def _made_on_the_host(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args, device: torch.device | str | None = None, **options) -> Tensor:
        if torch.device(device or "cpu").type == "cuda":
            return function(*args, **options).to(device)
        return function(*args, **options) if device is None else function(*args, device=device, **options)

    return made


@contextmanager
def pretending(kind: type[Gpu] = Gpu) -> Iterator[Gpu]:
    """The GPU, after install(). Constants that an earlier one was sent are not its own."""
    host_to_device.constants.clear()
    gpu, one_thread = kind(), torch.autograd.set_multithreading_enabled(False)
    heard = streams.listening(lambda what: gpu.note("wait", what))
    with one_thread, gpu.launches.watched(), heard, gpu.memory, gpu:
        yield gpu
