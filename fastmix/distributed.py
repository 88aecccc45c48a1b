"""Processes: torchrun starts them, this file says who we are and adds numbers up. One process needs none of it."""

from __future__ import annotations

import inspect
import os
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def init(device: str = "auto") -> torch.device:
    """Joins the group that torchrun describes, if any; returns this process's device. Raises ValueError."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU: use device=cpu, or a CUDA build of torch")
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    local = int(os.environ.get("LOCAL_RANK", 0))
    own = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(own)
    # A 1x1 convolution's gradient is the same memory in both layouts; torch warns of a copy that costs nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        # Without device_id NCCL takes the GPU numbered as the rank, which on a second machine is another or none.
        dist.init_process_group("nccl" if cuda else "gloo", **({"device_id": own} if cuda else {}))
    return own


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, as a new tensor."""
    values = values.clone()
    if world() > 1:
        dist.all_reduce(values)
    return values


def gather(value: object) -> list:
    """The values of all processes, in their order, on the first of them; tensors come to the host. Called by all."""
    found = [None] * world() if rank() == 0 else None
    dist.gather_object(_on_host(value), found)
    return found or []


def parallel(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The module with gradients averaged over the processes; each has its own buffers between validations."""
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch 2.13 renamed it
    buffers = [buffer.clone() for buffer in module.buffers()]
    wrapped = DistributedDataParallel(module, [device] if device.type == "cuda" else None, **{sync: False})
    with torch.no_grad():
        for buffer, own in zip(module.buffers(), buffers, strict=True):  # which it overwrote with the first process's
            buffer.copy_(own)
    return wrapped


def average_buffers(module: nn.Module) -> None:
    """Averages floating-point buffers (batch-norm statistics) over the processes, so that all validate one model."""
    if world() > 1:
        buffers = [b for b in module.buffers() if b.is_floating_point()]
        for b in buffers:
            dist.all_reduce(b)
        if buffers:
            torch._foreach_div_(buffers, world())


def _on_host(value):
    if isinstance(value, dict):
        return {key: _on_host(one) for key, one in value.items()}
    return value.detach().cpu() if isinstance(value, Tensor) else value


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def close() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
