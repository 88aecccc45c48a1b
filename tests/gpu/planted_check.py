"""Plants faults on the pretended GPU, alone and in a method, and what only looks like one.

Exit code 1, and a line each, for what goes unseen or is none:
PYTHONPATH=.:tests python -m gpu planted_check
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from unittest.mock import patch

import numpy as np
import torch

from fastmix import MIXERS
from fastmix.kernels import host_to_device
from fastmix.kernels._triton import jit, tl
from fastmix.kernels.mix import mix
from fastmix.kernels.plan import Plan
from fastmix.mixers.mixup import MixUp
from gpu import pretended, streams, training_check
from gpu.pretended import DEVICE

THIRDS = (0.5, 0.5, 0.5)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, device=DEVICE)


def indices() -> torch.Tensor:
    return torch.tensor([0, 1])


def mixed_with(plan: Plan) -> torch.Tensor:
    return mix(zeros(4, 8, 8, 3, dtype=torch.uint8), plan, THIRDS, THIRDS)


def plan() -> Plan:
    return Plan.blend(np.array([1, 2, 3, 0], np.int32), 0.5)


def sent_without_locking() -> None:
    with patch.object(torch.Tensor, "pin_memory", lambda self: self):
        host_to_device.send(np.ones(4, np.float32), DEVICE)


@jit  # without `numbers`, as no kernel of the project is: Triton builds it again for some values of n
def scaled_kernel(values, out, n, N: tl.constexpr):
    tl.store(out, tl.load(values) * n)


def launched(values: torch.Tensor, n: int = 3, blocks: tuple[int, ...] = (1,)) -> None:
    scaled_kernel[blocks](values, zeros(1), n, 32)


FAULTS = {  # the kind, then what is done: the last of several is a later step
    "a host tensor added": ("mixed", lambda: zeros(3) + torch.zeros(3)),
    "a host tensor multiplied": ("mixed", lambda: zeros(3, 3) @ torch.zeros(3, 3)),
    "a host tensor chosen from": ("mixed", lambda: torch.where(zeros(3) > 0, torch.zeros(3), zeros(3))),
    "a host tensor joined": ("mixed", lambda: torch.cat([zeros(3), torch.zeros(3)])),
    "gathered by host indices": ("mixed", lambda: zeros(3, 3).gather(1, torch.zeros(3, 1, dtype=torch.long))),
    "indexed by host indices": ("mixed", lambda: zeros(3)[indices()]),
    "written to by host indices": ("mixed", lambda: zeros(3).__setitem__(indices(), 1.0)),
    "a host tensor indexed": ("mixed", lambda: torch.zeros(3)[zeros(2, dtype=torch.long)]),
    "a host tensor given to a kernel": ("mixed", lambda: launched(torch.zeros(1))),
    "item": ("wait", lambda: zeros(1).item()),
    "a condition": ("wait", lambda: 1 if zeros(1) > 0 else 0),
    "a mask": ("wait", lambda: zeros(3)[zeros(3) > 0]),
    "nonzero": ("wait", lambda: zeros(3).nonzero()),
    "cpu": ("wait", lambda: zeros(3).cpu()),
    "written back": ("wait", lambda: torch.zeros(3).pin_memory().copy_(zeros(3), non_blocking=True)),
    "synchronize": ("wait", lambda: torch.cuda.synchronize()),
    "an event waited for": ("wait", lambda: streams.current_stream().record_event().synchronize()),
    "a blocking copy": ("wait", lambda: torch.zeros(4).pin_memory().to(DEVICE)),
    "a list sent": ("pageable", lambda: torch.tensor([1.0, 2.0], device=DEVICE)),
    "pageable memory sent": ("pageable", lambda: torch.zeros(4).to(DEVICE, non_blocking=True)),
    "pageable memory copied": ("pageable", lambda: zeros(3).copy_(torch.zeros(3), non_blocking=True)),
    "numbers sent without locking": ("pageable", sent_without_locking),
    "no block": ("grid", lambda: launched(zeros(1), blocks=(0,))),
    "too many blocks": ("grid", lambda: launched(zeros(1), blocks=(1, 65536))),
    "a number that is 1": ("build", lambda: launched(zeros(9), 3), lambda: launched(zeros(9), 1)),
    "a number that 16 divides": ("build", lambda: launched(zeros(9), 3), lambda: launched(zeros(9), 32)),
    "another alignment": ("build", lambda: launched(zeros(9), 3), lambda: launched(zeros(9)[1:], 3)),
}
FINE = {
    "a number": [lambda: zeros(3) * 2 + torch.zeros(())],
    "page-locked memory sent": [lambda: torch.zeros(4).pin_memory().to(DEVICE, non_blocking=True)],
    "memory made page-locked": [lambda: zeros(4).copy_(torch.empty(4, pin_memory=True), non_blocking=True)],
    "numbers sent": [lambda: host_to_device.send(np.ones(4, np.float32), DEVICE)],
    "indexed by indices there": [lambda: zeros(3)[zeros(2, dtype=torch.long)]],
    "a stream that waits": [lambda: streams.Stream().wait_stream(streams.current_stream())],
    "other numbers": [lambda: launched(zeros(9)[1:], 3), lambda: launched(zeros(9)[2:], 5)],
    "a plan sent": [lambda: mixed_with(plan().to(DEVICE))],
}


class Asking(MixUp):
    """Its loss has a number that the host asks the device for."""

    def loss(self, model, batch, plan, criterion):
        return batch.labels.float().mean().item() + super().loss(model, batch, plan, criterion)


class Sending(MixUp):
    """Its loss sends a number, as a captured step may not."""

    def loss(self, model, batch, plan, criterion):
        return host_to_device.send(np.zeros(1, np.float32), DEVICE).sum() + super().loss(model, batch, plan, criterion)


METHODS = {"wait": Asking, "captured": Sending}


def found(actions: list[Callable[[], object]]) -> list[tuple[str, str, str]]:
    """What is noted, as far as it goes."""
    with pretended.pretending() as gpu, suppress(RuntimeError):
        for k, action in enumerate(actions):
            gpu.launches.steady = 0 < k
            action()
    return list(gpu.faults)


def main() -> int:
    pretended.install()
    wrong = []
    for name, (kind, *actions) in FAULTS.items():
        faults = found(actions)
        if kind not in {fault[0] for fault in faults}:
            wrong.append(f"{name}: {kind} went unseen, found {faults}")
    for name, actions in FINE.items():
        if faults := found(actions):
            wrong.append(f"{name}: nothing is wrong with it, found {faults}")
    for kind, method in METHODS.items():
        with patch.dict(MIXERS, mixup=method):
            lines, _ = training_check.found("mixup", "bf16", 2, teacher="")
        if {line.split(" | ")[1] for line in lines} != {kind}:
            wrong.append(f"{method.__name__}: {kind} went unseen, found {lines}")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
