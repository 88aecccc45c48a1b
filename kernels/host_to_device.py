"""From the host to a device without waiting for either: numbers, arrays and tensors of a step's plan."""

from __future__ import annotations

import torch
from torch import Tensor


def send(value, device) -> Tensor:
    """`value` as a tensor on `device`: itself if there already; from host to GPU one pinned, asynchronous copy."""
    tensor, device = torch.as_tensor(value), torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        if tensor.ndim == 0:
            return torch.full((), tensor.item(), dtype=tensor.dtype, device=device)
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def refill(target: Tensor, value: Tensor) -> None:
    """Copies `value` into `target`, which stays where it is: what a captured graph reads. As asynchronous as send()."""
    target.copy_(value.pin_memory() if target.is_cuda and not value.is_cuda else value, non_blocking=True)
