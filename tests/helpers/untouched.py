"""Whether a model is as it was."""

from __future__ import annotations

import torch
from torch import nn


def state(model: nn.Module) -> list:
    """All of a model that a saliency pass must not change."""
    grads = [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()]
    frozen = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    armed = [getattr(hook, "changes", hook) for m in model.modules() for hook in m._forward_hooks.values()]
    hooks = [hook for hook in armed if hook]
    values = [v.clone() for v in model.state_dict().values()]
    return [grads, frozen, modes, hooks, values, torch.get_rng_state(), torch.is_grad_enabled()]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b
