"""What is settled of a step before its loss: a Plan, or a dataclass of a method's own, as a tree of named tensors.

Fields are tensors, numbers, words, None, or such dataclasses again. What is no tensor decides what the device does, so
it is the same in all steps that one CUDA graph replays; tensors are where numbers of the host go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace

import torch
from torch import Tensor

from fastmix.kernels.host_to_device import send


def changed(value, change: Callable[[str, Tensor], Tensor], name: str = ""):
    """The same with change(name, tensor) in place of each tensor, whose name is its fields', joined by dots."""
    if isinstance(value, Tensor):
        return change(name, value)
    if is_dataclass(value):
        parts = {f.name: (getattr(value, f.name), f"{name}.{f.name}".lstrip(".")) for f in fields(value)}
        return replace(value, **{key: changed(part, change, path) for key, (part, path) in parts.items()})
    return value


def tensors(value) -> dict[str, Tensor]:
    """All tensors by name."""
    found: dict[str, Tensor] = {}

    def note(name: str, tensor: Tensor) -> Tensor:
        found[name] = tensor
        return tensor

    changed(value, note)
    return found


def rest(value) -> tuple:
    """What is no tensor, to be compared: types, numbers, words."""
    if isinstance(value, Tensor):
        return ()
    if is_dataclass(value):
        return type(value), *(rest(getattr(value, f.name)) for f in fields(value))
    return (value,)


def placed(value, device: torch.device):
    """The same on a device; from the host one pinned, asynchronous copy a tensor, without a sync."""
    return changed(value, lambda _, tensor: send(tensor, device))
