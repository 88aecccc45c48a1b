"""What the tests of transformer methods share: small ViTs that attend unevenly, batches, losses that listen."""

import copy

import numpy as np
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastmix import Batch
from fastmix.models import load_timm
from fastmix.targets import CrossEntropy, Targets

CLASSES, SIDE, PATCH = 5, 32, 8
DIMS = {"img_size": SIDE, "patch_size": PATCH, "depth": 3, "embed_dim": 32, "num_heads": 2, "num_classes": CLASSES}


def vit(name: str = "vit_tiny_patch16_224", **args) -> nn.Module:
    """In train mode, without dropout, always the same; its queries and keys are large, so that no row is uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_timm().create_model(name, **DIMS | args)
        with torch.no_grad():
            for block in model.blocks:
                block.attn.qkv.weight.normal_(std=0.4)
            model.head.weight.normal_(std=0.5)
    return model.train()


def indifferent(model: nn.Module) -> nn.Module:
    """The model with no queries: every token attends to all alike."""
    with torch.no_grad():
        for block in model.blocks:
            width = block.attn.qkv.weight.shape[1]
            block.attn.qkv.weight[:width] = 0
            block.attn.qkv.bias[:width] = 0
    return model


def batch_of(n: int, size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> Batch:
    """Images of noise, each around a colour of its own."""
    rng = np.random.default_rng([seed, 1])
    images = rng.integers(0, 120, (n, *size, 3)) + rng.integers(0, 130, (n, 1, 1, 3))
    labels = torch.from_numpy(rng.integers(0, CLASSES, n))
    return Batch(torch.from_numpy(images.astype(np.uint8)), labels, np.random.default_rng(seed))


def matrices(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The attention of every block, float64 [B,N,N], the mean over the heads, of a copy that does not fuse it."""
    copied, found = unfused(model)
    with torch.no_grad():
        copied(x)
    return [matrix.double().mean(1) for matrix in found]


class Listening(CrossEntropy):
    """A cross-entropy that remembers what it is given."""

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        self.logits, self.targets = logits, targets
        return super().forward(logits, targets)


def heard(mixer, model: nn.Module, batch: Batch, smoothing: float = 0.0) -> Listening:
    """The criterion after a step."""
    criterion = Listening(smoothing)
    criterion.loss = mixer(model, batch, criterion)
    return criterion


def multiplications(mixer, model: nn.Module, n: int) -> int:
    """Floating-point operations of products in a step, forward and backward, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        mixer(model, batch_of(n), CrossEntropy()).backward()
    return counter.get_total_flops()


def constant_weights(mixer, model: nn.Module, n: int, smoothing: float = 0.0) -> None:
    """Checks that the step's gradient is that of its targets as numbers: none flows through what they were made of."""
    criterion = heard(mixer, model, batch_of(n), smoothing)
    assert not criterion.targets.weights.requires_grad
    parameters = list(model.parameters())
    found = torch.autograd.grad(criterion.loss, parameters, retain_graph=True)
    numbers = Targets(criterion.targets.labels, torch.tensor(criterion.targets.weights.tolist()))
    expected = torch.autograd.grad(CrossEntropy(smoothing)(criterion.logits, numbers), parameters)
    assert all(map(torch.equal, found, expected))


def against(criterion: Listening) -> float:
    """How far the loss with these weights is from that with their mean in place of each, had the losses gone against
    them: the logits favour an image's own label exactly where it weighs much.
    """
    labels, weights = criterion.targets.labels, criterion.targets.weights
    much = torch.where(weights[:, :1] >= weights[:, :1].median(), 5.0, -5.0)
    logits = torch.zeros(len(labels), CLASSES).scatter(1, labels[:, :1], much)
    average = Targets(labels, weights.mean(0).expand_as(weights))
    return (CrossEntropy()(logits, average) - CrossEntropy()(logits, criterion.targets)).item()


def unfused(model: nn.Module) -> tuple[nn.Module, list[torch.Tensor]]:
    """A copy of a ViT that computes its attention step by step, and the list of it, [B,heads,N,N] a block."""
    model, found = copy.deepcopy(model), []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, given, out: found.append(given[0]))
    return model, found
