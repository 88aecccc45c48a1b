"""From the host's batch buffers to the device, ahead of the step, on a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor


class Slot:
    """A batch buffer on the host, page-locked for a GPU: images uint8 [B,S,S,3] and valid bool [B]."""

    def __init__(self, batch: int, size: int, device: torch.device):
        cuda = device.type == "cuda"
        self.images = torch.empty(batch, size, size, 3, dtype=torch.uint8, pin_memory=cuda)
        self.valid = torch.empty(batch, dtype=torch.bool, pin_memory=cuda)
        self.copied = torch.cuda.Event() if cuda else None

    def begin(self, valid: np.ndarray) -> None:
        """Starts a new batch in the buffer, once the last one has left it."""
        if self.copied is not None:
            self.copied.synchronize()
        self.valid.numpy()[:] = valid


Delivery = tuple[Slot, Tensor, Tensor, Tensor]  # the buffer, and images, labels, valid: on the host, or where made


def deliver(batches: Iterator[Delivery], device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(images, labels, valid) on the device, in order.

    CPU: as they are. CUDA: the copy of a batch runs on a side stream while the batch before it is being used, and the
    stream that takes it waits for it, not the host.
    """
    if device.type != "cuda":
        for _, *tensors in batches:
            yield tuple(tensors)
        return
    stream, ahead = _side(device), None
    for slot, *tensors in batches:
        with torch.cuda.stream(stream):
            copies = tuple(_copy(tensor, device) for tensor in tensors)
            slot.copied.record(stream)
        if ahead is not None:
            yield _take(*ahead, device)
        ahead = copies, slot.copied
    if ahead is not None:
        yield _take(*ahead, device)


@cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """The device's stream for copies, one for all epochs: the allocator keeps the memory of each stream apart."""
    return torch.cuda.Stream(device)


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """An array on the device, its copy queued without a wait; for the CPU the same memory."""
    tensor = torch.from_numpy(array)
    return _copy(tensor, device) if device.type == "cuda" else tensor


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.clone() if tensor.is_cuda else tensor.pin_memory().to(device, non_blocking=True)


def _take(copies: tuple[Tensor, ...], copied: torch.cuda.Event, device: torch.device) -> tuple[Tensor, ...]:
    stream = torch.cuda.current_stream(device)
    stream.wait_event(copied)
    for tensor in copies:
        tensor.record_stream(stream)  # the allocator gives its memory to nobody before the step is done with it
    return copies
