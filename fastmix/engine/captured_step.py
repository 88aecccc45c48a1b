"""The step captured in CUDA graphs: mix pass, forward, loss, backward, clipping and optimiser in one launch.

What a step draws on the host (plan, erased boxes, learning rates, the seed of dropout) is copied, without a wait, into
tensors that stay where they are; the graph reads them. There is one graph for each signature: what of a batch and its
plan decides which kernels run, and on how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fastmix.batch import Batch
from fastmix.config import Config
from fastmix.distributed import world
from fastmix.engine.lamb import Lamb
from fastmix.engine.optim import rates
from fastmix.engine.step import Part, Step
from fastmix.engine.task import Task
from fastmix.kernels.erase import Erase
from fastmix.kernels.host_to_device import refill
from fastmix.mixers.base import Mixer
from fastmix.mixers.settled import changed, rest, tensors

WARM = 3  # steps of a signature before its graph: they compile, choose algorithms, make the optimiser's state
WARM_SHARED = 11  # steps with DDP before any graph: until then it measures, and arranges its buckets
MOST = 16  # graphs; steps of further signatures are launched one kernel after the other
CONSTANT = ("bank",)  # tensors of a plan that no step changes
CAPTURE_THEMSELVES = ("reduce-overhead", "max-autotune")


def check(cfg: Config, mixer: Mixer, opt: torch.optim.Optimizer, device: torch.device) -> None:
    """Raises ValueError for a run whose step cannot be captured."""
    if device.type != "cuda":
        raise ValueError(f"cuda_graph: the device is {device.type}, which has no CUDA graphs; leave cuda_graph=false")
    if cfg.fidelity == "openmixup":
        raise ValueError("cuda_graph: fidelity openmixup mixes in groups, one after the other; leave cuda_graph=false")
    if cfg.model.compile in CAPTURE_THEMSELVES:
        raise ValueError(f"cuda_graph: model.compile={cfg.model.compile} captures graphs itself; choose one of the two")
    if mixer.uncaptured:
        raise ValueError(f"cuda_graph: {type(mixer).__name__} {mixer.uncaptured}; leave cuda_graph=false")
    if type(opt) not in (torch.optim.SGD, torch.optim.AdamW, Lamb):
        raise ValueError("cuda_graph: apex's optimiser cannot be captured; choose optim.fused=torch")
    if type(opt) is Lamb and cfg.precision == "fp16":
        raise ValueError("cuda_graph: lamb in fp16 waits for the device to see an overflow; choose precision=bf16")
    if cfg.ddp.compression == "powersgd":
        raise ValueError("cuda_graph: powersgd counts steps on the host; choose another ddp.compression")


class SideStream:
    """Runs work beside the current stream, and captures it: first calls and captures belong on one stream."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    def run(self, work: Callable[[], Any]) -> Any:
        """Does the work now, between what the current stream does before and after it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        current.wait_stream(self.stream)
        return result

    def capture(self, work: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
        """What does the work whenever it is called, on the current stream; not done yet. Loader threads go on."""
        graph, pool = torch.cuda.CUDAGraph(), Pool.of(self.device)
        with torch.cuda.graph(graph, pool.handle, self.stream, capture_error_mode="thread_local"):
            result = work()
        return Replay(graph, result, pool)


class Pool:
    """The memory that all graphs of a device work in: no result outlives the step that computed it, whoever's step.

    It lives as long as one of them. torch refuses a handle whose graphs have all gone, so the next gets a new one.
    """

    living: WeakValueDictionary[torch.device, Pool] = WeakValueDictionary()

    def __init__(self):
        self.handle = torch.cuda.graph_pool_handle()

    @classmethod
    def of(cls, device: torch.device) -> Pool:
        pool = cls.living.get(device)
        if pool is None:
            pool = cls.living[device] = cls()
        return pool


@dataclass
class Replay:
    """Calls do a captured work again and return its results, which the next call overwrites. It keeps the pool."""

    graph: torch.cuda.CUDAGraph
    result: list[Tensor]
    pool: Pool

    def __call__(self) -> list[Tensor]:
        self.graph.replay()
        return self.result


@dataclass
class Inputs:
    """A part as the device sees it: nothing of it is drawn any more, and its tensors can be replaced."""

    batch: Batch
    settled: Any

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What differs from step to step, by name."""
        batch = self.batch
        found = {"images": batch.images, "labels": batch.labels, "boxes": batch.erase and batch.erase.boxes}
        found |= {f"settled.{name}": value for name, value in tensors(self.settled).items() if not constant(name)}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def signature(self) -> tuple:
        """Equal where the same kernels run on tensors of the same shapes and, of constant ones, on the same."""
        shapes = [(key, tuple(value.shape), value.dtype) for key, value in self.tensors.items()]
        kept = [(name, value.data_ptr()) for name, value in tensors(self.settled).items() if constant(name)]
        return (*shapes, *rest(self.settled), *kept)

    def on(self, found: dict[str, Tensor]) -> Inputs:
        """The same on other tensors of those names."""
        erase = self.batch.erase and Erase(found["boxes"], self.batch.erase.fill)
        batch = replace(self.batch, images=found["images"], labels=found["labels"], erase=erase)
        return Inputs(batch, changed(self.settled, lambda name, value: found.get(f"settled.{name}", value)))


def constant(name: str) -> bool:
    """Whether a tensor of that name is the same in all steps."""
    return name.rpartition(".")[2] in CONSTANT


@dataclass
class Signature:
    """The steps of one signature: inputs, which stay where they are, steps taken, and the graph once it is captured."""

    inputs: list[Inputs]
    taken: int = 0
    replay: Callable[[], list[Tensor]] | None = field(default=None, repr=False)


class Loss(nn.Module):
    """A part's loss by what is settled of it. It is what DDP wraps: all that the graph holds goes through it."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, batch: Batch, settled: Any) -> Tensor:
        task = self.task
        task.tally.restart()
        return task.active.loss(task.model, batch, settled, task.criterion)


class CapturedStep(Step):
    """A Step that replays what the device does; see `check` for what it cannot be.

    The first WARM steps of a signature are launched one kernel after the other, the next is captured and replayed, so
    each batch is trained on once. The graph holds the addresses of weights and optimiser state: load a checkpoint
    before. Rates are fp32, as torch's fused optimisers read them on a GPU; checkpoints hold the exact ones, and fit
    runs without a graph. The losses that it returns are overwritten by the next step. With several processes the
    averages of gradients are in the graph, so all of them replay, whichever signature each has.
    """

    def __init__(self, cfg: Config, task: Task, *args, side: SideStream | None = None, **kwargs):
        """Arguments of Step; side: what runs and captures the work."""
        self.side = side or SideStream(task.noise.device)
        super().__init__(cfg, task, *args, **kwargs)
        self.steps = 0
        self.signatures: dict[tuple, Signature] = {}
        self.static = WeakValueDictionary()  # by part, name, shape, type: those of the signatures, which share them
        self.exact = [group["lr"] for group in self.opt.param_groups]
        self.rates = torch.tensor(self.exact, dtype=torch.float32, device=self.device)
        for group, rate in zip(self.opt.param_groups, self.rates, strict=True):
            group["lr"] = rate
        self.opt.register_state_dict_post_hook(self._with_exact_rates)

    def asked(self) -> nn.Module:
        return Loss(self.task)

    def shared(self, module: nn.Module) -> nn.Module:
        """DDP's own streams and events must be those that the capture sees: it is made where it is captured."""
        return self.side.run(partial(super().shared, module))

    def set_rates(self, step: int) -> float:
        lr, self.exact = rates(self.opt, self.cfg, step, self.epoch_steps)
        refill(self.rates, torch.tensor(self.exact, dtype=torch.float32))
        return lr

    def take(self, parts: list[Part]) -> list[Tensor]:
        inputs = [self._settled(k, *part) for k, part in enumerate(parts)]
        key, work = tuple(one.signature for one in inputs), partial(self._work, inputs)
        self.steps += 1
        found = self.signatures.get(key)
        if found is None:
            if len(self.signatures) == MOST:
                return work()
            found = self.signatures[key] = Signature(inputs)
        if found.taken < WARM or self.steps <= WARM_SHARED * (world() > 1):
            found.taken += 1
            return self.side.run(work)
        if found.replay is None:
            found.replay = self._capture(work)
        return found.replay()

    def _settled(self, part: int, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Inputs:
        """A part with all that the host decides about it, in the tensors that parts of its signature have."""
        task = self.task
        batch = task.batch(images, labels, rng)
        with torch.autocast(self.device.type, task.dtype, enabled=task.dtype != torch.float32):
            settled = task.active.settle(task.model, batch, task.criterion)
        return self._kept(part, Inputs(replace(batch, rng=None), settled))

    def _kept(self, part: int, inputs: Inputs) -> Inputs:
        """The same in tensors that stay where they are."""
        found = {}
        for name, value in inputs.tensors.items():
            key = part, name, tuple(value.shape), value.dtype
            found[name] = self.static.get(key)
            if found[name] is None:
                self.static[key] = found[name] = torch.empty(value.shape, dtype=value.dtype, device=self.device)
            refill(found[name], value)
        return inputs.on(found)

    def _work(self, inputs: list[Inputs]) -> list[Tensor]:
        """What is captured: it reads only tensors that lie on the device."""
        return self.descend(self.module, [(one.batch, one.settled) for one in inputs])

    def _capture(self, work: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
        try:
            self._capturable(True)
            return self.side.capture(work)
        finally:
            self._capturable(False)

    def _capturable(self, capturing: bool) -> None:
        """For AdamW, which asks for it while it is captured and warns of it otherwise; its fused kernel is the same."""
        for group in self.opt.param_groups:
            if "capturable" in group:
                group["capturable"] = capturing

    def _with_exact_rates(self, opt: torch.optim.Optimizer, state: dict) -> None:
        for group, lr in zip(state["param_groups"], self.exact, strict=True):
            group["lr"] = lr
