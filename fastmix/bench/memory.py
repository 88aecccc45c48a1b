"""Memory of a GPU that a provider takes: what it holds between its steps, and what a step takes besides."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM = 6  # calls until all is compiled and chosen
WARM_CAPTURED = 40  # and captured: a method may draw one of several graphs


def held(device: torch.device) -> int:
    """Bytes of all tensors on the device, and of what captured CUDA graphs keep for their replays; on a CPU 0."""
    return torch.cuda.memory_allocated(device) + pooled() if device.type == "cuda" else 0


def pooled() -> int:
    """Bytes that captured CUDA graphs keep for their replays."""
    pools = [segment for segment in torch.cuda.memory_snapshot() if tuple(segment["segment_pool_id"]) != (0, 0)]
    return sum(segment["total_size"] - segment["allocated_size"] for segment in pools)


class Peak:
    """The largest number of bytes that were allocated in a `with` block beyond those at its beginning; on a CPU 0."""

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.before


def built(
    build: Callable[[], Callable], inputs: tuple, device: torch.device, shares: bool = False
) -> tuple[Callable, int]:
    """What build() makes, and the bytes that it holds from then on; on a GPU called until then.

    shares: it replays in the pool that is there, which then counts as its own: of several methods, that of the largest.
    """
    before = held(device)
    if shares and device.type == "cuda":
        before -= pooled()
    take = build()
    for _ in range((WARM_CAPTURED if shares else WARM) if device.type == "cuda" else 0):
        take(*inputs)
    return take, held(device) - before
