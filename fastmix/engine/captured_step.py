"""The step captured in CUDA graphs: mix pass, forward, loss, backward, clipping and optimiser in one launch.

What a step draws on the host (plan, erased boxes, learning rates, the seed of dropout) is copied, without a wait, into
tensors that stay where they are; the graph reads them. There is one graph for each signature: what of a batch and its
plan decides which kernels run, and on how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from fastmix.batch import Batch
from fastmix.config import Config
from fastmix.distributed import world
from fastmix.engine.optim import rates
from fastmix.engine.step import Part, Step
from fastmix.kernels.erase import Erase
from fastmix.kernels.host_to_device import refill
from fastmix.kernels.plan import Plan
from fastmix.mixers.base import Mixer

WARM = 3  # steps of a signature before its graph: they compile, choose algorithms, make the optimiser's state
MOST = 16  # graphs; steps of further signatures are launched one kernel after the other
CONSTANT = ("bank",)  # tensors of a plan that no step changes
CAPTURE_THEMSELVES = ("reduce-overhead", "max-autotune")


def check(cfg: Config, mixer: Mixer, opt: torch.optim.Optimizer, device: torch.device) -> None:
    """Raises ValueError for a run whose step cannot be captured."""
    if device.type != "cuda":
        raise ValueError(f"cuda_graph: the device is {device.type}, which has no CUDA graphs; leave cuda_graph=false")
    if world() > 1:
        raise ValueError(f"cuda_graph: {world()} processes; a captured step is one process's, leave cuda_graph=false")
    if cfg.fidelity == "openmixup":
        raise ValueError("cuda_graph: fidelity openmixup mixes in groups, one after the other; leave cuda_graph=false")
    if cfg.model.compile in CAPTURE_THEMSELVES:
        raise ValueError(f"cuda_graph: model.compile={cfg.model.compile} captures graphs itself; choose one of the two")
    if not mixer.replayable:
        name = type(mixer).__name__
        raise ValueError(f"cuda_graph: {name} does more than plan, and cannot be captured; leave cuda_graph=false")
    if type(opt) not in (torch.optim.SGD, torch.optim.AdamW):
        what = "optim.name=lamb" if cfg.optim.name == "lamb" else "apex's optimiser"
        raise ValueError(f"cuda_graph: {what} cannot be captured; choose sgd or adamw, with optim.fused=torch")


class SideStream:
    """Runs a step's work beside the current stream, and captures it: first calls and captures belong on one stream."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    def run(self, work: Callable[[], list[Tensor]]) -> list[Tensor]:
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
    plan: Plan | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What differs from step to step, by name."""
        batch, plan = self.batch, {} if self.plan is None else vars(self.plan)
        found = {"images": batch.images, "labels": batch.labels, "boxes": batch.erase and batch.erase.boxes}
        found |= {key: value for key, value in plan.items() if isinstance(value, Tensor) and key not in CONSTANT}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def signature(self) -> tuple:
        """Equal where the same kernels run on tensors of the same shapes and, of constant ones, on the same."""
        shapes = [(key, tuple(value.shape), value.dtype) for key, value in self.tensors.items()]
        plan = {} if self.plan is None else vars(self.plan)
        flags = [(key, value) for key, value in plan.items() if not isinstance(value, Tensor)]
        constant = [(key, plan[key].data_ptr()) for key in CONSTANT if plan.get(key) is not None]
        return (*shapes, *flags, *constant)

    def on(self, tensors: dict[str, Tensor]) -> Inputs:
        """The same on other tensors of those names."""
        erase = self.batch.erase and Erase(tensors["boxes"], self.batch.erase.fill)
        batch = replace(self.batch, images=tensors["images"], labels=tensors["labels"], erase=erase, rng=None)
        if self.plan is None:
            return Inputs(batch, None)
        plan = replace(self.plan, **{key: value for key, value in tensors.items() if key in vars(self.plan)})
        return Inputs(batch, plan.to(batch.images.device))


@dataclass
class Signature:
    """The steps of one signature: inputs, which stay where they are, steps taken, and the graph once it is captured."""

    inputs: list[Inputs]
    taken: int = 0
    replay: Callable[[], list[Tensor]] | None = field(default=None, repr=False)


class CapturedStep(Step):
    """A Step that replays what the device does; see `check` for what it cannot be.

    The first WARM steps of a signature are launched one kernel after the other, the next is captured and replayed, so
    each batch is trained on once. The graph holds the addresses of weights and optimiser state: load a checkpoint
    before. Rates are fp32, as torch's fused optimisers read them on a GPU; checkpoints hold the exact ones, and fit
    runs without a graph. The losses that it returns are overwritten by the next step.
    """

    def __init__(self, *args, side: SideStream | None = None, **kwargs):
        """Arguments of Step; side: what runs and captures the work."""
        super().__init__(*args, **kwargs)
        self.side = side or SideStream(self.device)
        self.signatures: dict[tuple, Signature] = {}
        self.static = WeakValueDictionary()  # by part, name, shape, type: those of the signatures, which share them
        self.exact = [group["lr"] for group in self.opt.param_groups]
        self.rates = torch.tensor(self.exact, dtype=torch.float32, device=self.device)
        for group, rate in zip(self.opt.param_groups, self.rates, strict=True):
            group["lr"] = rate
        self.opt.register_state_dict_post_hook(self._with_exact_rates)

    def set_rates(self, step: int) -> float:
        lr, self.exact = rates(self.opt, self.cfg, step, self.epoch_steps)
        refill(self.rates, torch.tensor(self.exact, dtype=torch.float32))
        return lr

    def take(self, parts: list[Part]) -> list[Tensor]:
        inputs = [self._placed(k, *part) for k, part in enumerate(parts)]
        key, work = tuple(one.signature for one in inputs), partial(self._work, inputs)
        found = self.signatures.get(key)
        if found is None:
            if len(self.signatures) == MOST:
                return work()
            found = self.signatures[key] = Signature(inputs)
        if found.taken < WARM:
            found.taken += 1
            return self.side.run(work)
        if found.replay is None:
            found.replay = self._capture(work)
        return found.replay()

    def _placed(self, part: int, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Inputs:
        """A part with all that the host decides about it, in the tensors that parts of its signature have."""
        batch = self.task.batch(images, labels, rng)
        drawn, tensors = Inputs(batch, self.task.active.plan(batch)), {}
        for name, value in drawn.tensors.items():
            key = part, name, tuple(value.shape), value.dtype
            tensors[name] = self.static.get(key)
            if tensors[name] is None:
                self.static[key] = tensors[name] = torch.empty(value.shape, dtype=value.dtype, device=self.device)
            refill(tensors[name], value)
        return drawn.on(tensors)

    def _work(self, inputs: list[Inputs]) -> list[Tensor]:
        """What is captured: it reads only tensors that lie on the device."""
        return self.descend(self._loss, [(one.batch, one.plan) for one in inputs])

    def _loss(self, batch: Batch, plan: Plan | None) -> Tensor:
        return self.task.active.loss(self.task.model, batch, plan, self.task.criterion)

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
