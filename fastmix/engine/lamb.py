"""LAMB on lists of tensors: a few launches for all parameters, and step counts on the device, so it can be captured."""

from __future__ import annotations

import torch
from torch import Tensor

CLIP = 1.0  # largest global norm of the gradient


class Lamb(torch.optim.Optimizer):
    """With g the gradient, divided by its global norm over all groups where that is above CLIP,

        m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2,
        u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + decay p,    p <- p - lr (|p| / |u|) u

    for each parameter p; where decay is 0, and where a norm is, |p| / |u| counts as 1. You et al., "Large Batch
    Optimization for Deep Learning", ICLR 2020, with the clipping and the spared parameters of NVIDIA's code; in every
    bit timm's. lr may be a scalar tensor on the device: its product with u is then rounded before it is added.

    Groups hold `step`, t, a float64 scalar on the parameters' device; parameters `exp_avg` and `exp_avg_sq`.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float], eps: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._place_counts()

    def load_state_dict(self, state_dict: dict) -> None:
        """Also of a checkpoint whose counts lie on the host."""
        super().load_state_dict(state_dict)
        self._place_counts()

    def _place_counts(self) -> None:
        for group in self.param_groups:
            device = group["params"][0].device
            group["step"] = torch.as_tensor(group.get("step", 0.0), dtype=torch.float64).to(device)

    @torch.no_grad()
    def step(self, closure=None):
        """One step with the gradients that there are; closure, as torch's optimisers take it, gives the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        gradients = [[p.grad for p in params] for _, params in groups]
        if not any(gradients):
            return loss
        norms = torch._foreach_norm([g for some in gradients for g in some])
        clip = (torch.linalg.vector_norm(torch.stack(norms)) / CLIP).clamp_(min=1.0)
        for (group, params), some in zip(groups, gradients, strict=True):
            group["step"] += 1
            if params:
                self._descend(group, params, torch._foreach_div(some, clip))
        return loss

    def _descend(self, group: dict, params: list[Tensor], gradients: list[Tensor]) -> None:
        """The step of a group's parameters, with gradients that are clipped."""
        (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        for p in params:
            if not self.state[p]:
                self.state[p].update(exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        means, squares = ([self.state[p][key] for p in params] for key in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)

        bias1, bias2 = 1 - torch.pow(beta1, group["step"]), 1 - torch.pow(beta2, group["step"])
        scales = torch._foreach_sqrt(squares)
        torch._foreach_div_(scales, bias2.sqrt().float())
        torch._foreach_add_(scales, group["eps"])
        flat = params[0].new_empty(sum(p.numel() for p in params))  # updates, together: each is scaled by its own ratio
        updates = [
            part.as_strided(p.shape, p.stride())
            for p, part in zip(params, flat.split([p.numel() for p in params]), strict=True)
        ]
        torch._foreach_copy_(updates, means)
        torch._foreach_div_(updates, bias1.float())
        torch._foreach_div_(updates, scales)
        if decay:
            torch._foreach_add_(updates, params, alpha=decay)
            ratios = trust(params, updates).unbind()
            flat *= torch.cat([ratio.expand(p.numel()) for ratio, p in zip(ratios, params, strict=True)])
        if isinstance(lr, Tensor):
            flat *= -lr
            torch._foreach_add_(params, updates)
        else:
            torch._foreach_add_(params, updates, alpha=-lr)


def trust(params: list[Tensor], updates: list[Tensor]) -> Tensor:
    """|p| / |u| of each parameter, 1 where one of the two is 0. float32 [N]"""
    p, u = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, updates))
    return torch.where((p > 0) & (u > 0), p / u, 1.0)
