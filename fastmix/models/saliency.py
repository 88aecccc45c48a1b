"""Saliency: what a network's loss, or its decision, says about the pixels; the network stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastmix.models.sites import as_map, name_of, rewrite

Loss = Callable[[Tensor], Tensor]  # logits [B, classes] -> scalar, a sum over the samples
SMALL = 256  # float16: gradients below 6e-8 vanish, above 65504 overflow; a network's are nearer to the lower end


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in eval mode and every parameter frozen; afterwards each is again as it was.

    Frozen, so that no gradient of a weight is computed in a compiled backward pass either, and so that autocast keeps
    no copy of a weight from here: made without gradients, older versions of torch would use it in the training pass
    (pytorch issue 112583).
    """
    training = [module for module in model.modules() if module.training]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trained:
            parameter.requires_grad_(True)


def input_gradient(model: nn.Module, x: Tensor, loss: Loss) -> Tensor:
    """Gradient of loss(model(x)) with respect to x, in eval mode. [B,3,H,W], of x's type and layout

    `loss` is a sum over samples, so that each sample's gradient is that of its own loss and does not shrink with the
    batch. Where the pass runs in float16 the result is SMALL times the gradient; a value that overflows all the same
    counts as 0. No parameter's .grad, no statistic and no generator is touched, and no hook of DDP fires.
    """
    with evaluated(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        return gradient(loss(model(x)), x)


def feature_gradient(model: nn.Module, site: str, x: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """The output of `site` (a name of sites(model)) and the gradient of loss(model(x)) with respect to it. [B,C,h,w]

    Only what lies behind the site is differentiated. Otherwise like input_gradient; a compiled model runs eagerly.
    Raises ValueError for a site that the model does not have, or does not run.
    """
    seen = []

    def cut(given: Tensor, output: Tensor) -> Tensor:
        seen[:] = given, output.detach().requires_grad_()
        return seen[1]

    eager = torch.compiler.set_stance("force_eager")  # a compiled pass has no place to cut
    with eager, evaluated(model), torch.enable_grad(), rewrite(model, site, cut):
        value = loss(model(x))
        if not seen:
            raise ValueError(f"{name_of(model)} does not run {site} as a module: switch gradient checkpointing off")
        given, output = seen
        slope = gradient(value, output)
    return as_map(model, given, output.detach()), as_map(model, given, slope)


def gradient(loss: Tensor, of: Tensor, keep: bool = False) -> Tensor:
    """d loss / d of, by torch.autograd.grad, as `input_gradient` describes; keep: the graph serves another pass."""
    half = torch.float16 in (of.dtype, _autocast(of.device.type))
    (found,) = torch.autograd.grad(loss * SMALL if half else loss, of, retain_graph=keep)
    return torch.nan_to_num(found, 0.0, 0.0, 0.0)


def _autocast(kind: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
