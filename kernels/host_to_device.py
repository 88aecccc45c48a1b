"""From the host to a device without waiting for either: numbers, arrays and tensors of a step's plan."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

constants: dict[tuple, Tensor] = {}


def send(value, device) -> Tensor:
    """`value` as a tensor on `device`: itself if there already; from host to GPU one pinned, asynchronous copy."""
    tensor, device = torch.as_tensor(value), torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        if tensor.ndim == 0:
            return torch.full((), tensor.item(), dtype=tensor.dtype, device=device)
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def constant(make: Callable, *args, device) -> Tensor:
    """make(*args) on `device`, sent there once: what follows from sizes alone, and a captured graph may read."""
    key = make, args, torch.device(device)
    if key not in constants:
        constants[key] = send(make(*args), device)
    return constants[key]


def refill(target: Tensor, value: Tensor) -> None:
    """Copies `value` into `target`, which stays where it is: what a captured graph reads. As asynchronous as send()."""
    target.copy_(value.pin_memory() if target.is_cuda and not value.is_cuda else value, non_blocking=True)
