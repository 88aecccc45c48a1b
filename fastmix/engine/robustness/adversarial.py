"""Attacks with the network's own gradient (white box), on pixels in [0,1], before they are normalised.

A picture x is changed to the x' that the network is most mistaken in, |x' - x| <= eps, each pixel of x' in [0,1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmix.engine.robustness.draws import Draws
from fastmix.engine.robustness.network import Network

NORMS = ("linf", "l2")
STEP = 2.5  # times eps / steps, as in Madry et al. 2018


def fgsm(network: Network, x: Tensor, labels: Tensor, eps: list[float]) -> list[Tensor]:
    """x + eps sign(gradient), clamped, for each eps, of one gradient (Goodfellow, Shlens and Szegedy 2015)."""
    direction = network.slope(x, labels).sign()
    return [(x + e * direction).clamp(0, 1) for e in eps]


def pgd(
    network: Network,
    x: Tensor,
    labels: Tensor,
    norm: str,
    eps: float,
    steps: int,
    start: Draws | None,
    pace: float = STEP,
) -> Tensor:
    """The last of `steps` steps uphill, each projected into the ball and to valid pixels (Madry et al. 2018).

    norm: linf, steps along the gradient's sign; l2, along the gradient. start: draws of a uniform point of the ball to
    begin at; None: x itself. pace: a step is so many times eps / steps.
    """
    y = x if start is None else (x + random_point(norm, eps, x, start)).clamp(0, 1)
    step = pace * eps / steps
    for _ in range(steps):
        slope = network.slope(y, labels)
        if norm == "linf":
            change = (y + step * slope.sign() - x).clamp(-eps, eps)
        else:
            change = y + step * slope / length(slope).clamp(min=1e-12) - x
            change = change * (eps / length(change).clamp(min=1e-12)).clamp(max=1)
        y = (x + change).clamp(0, 1)
    return y


def random_point(norm: str, eps: float, x: Tensor, draws: Draws) -> Tensor:
    """A uniform point of the ball, in the shape of x [B,3,S,S]."""
    if norm == "linf":
        return eps * (2 * draws.uniform(*x.shape[1:]) - 1)
    n = draws.normal(*x.shape[1:])
    radius = draws.uniform(1, 1, 1) ** (1 / n[0].numel())
    return eps * radius * n / length(n)


def length(x: Tensor) -> Tensor:
    """The L2 norm of each image, [B,1,1,1]."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


def judged(network: Network, x: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is right, and its cross-entropy, float32 [B,2]."""
    z = network.of_pixels(x)
    return torch.stack([(z.argmax(1) == labels).float(), F.cross_entropy(z, labels, reduction="none")], 1)
