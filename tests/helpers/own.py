"""Networks as users write them: a plain CNN, and a transformer of torch's own layers, both without timm."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 10


class Plain(nn.Module):
    """A CNN of three stages, smooth, so that a rounding flips nothing."""

    def __init__(self):
        super().__init__()

        def stage(before: int, after: int) -> nn.Sequential:
            layers = nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU()
            return nn.Sequential(*layers)

        self.layer1, self.layer2, self.layer3 = stage(3, 8), stage(8, 16), stage(16, 24)
        self.output = nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Tokens(nn.Module):
    """A transformer with a class token and torch's attention, for images of 64 pixels."""

    def __init__(self, patch: int = 8, width: int = 32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, (64 // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.last = nn.LayerNorm(width)
        self.output = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.output(self.last(x)[:, 0])


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        with torch.no_grad():
            self.attention.in_proj_weight.mul_(5)  # a new network looks everywhere alike

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.between(x))


def made(kind: type[nn.Module]) -> nn.Module:
    """A network that is always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind()
