"""What the tests of the AutoMix family share: small networks, steps, and a step computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmix import MIXERS, Batch
from fastmix.mixers.momentum import MomentumMixer
from fastmix.models import load_timm
from fastmix.targets import CrossEntropy
from helpers.backbones import SMOOTH
from helpers.mixing import FixedLam, noise

FAMILY = ("automix", "samix", "adautomix")
every = pytest.mark.parametrize("name", FAMILY)

CLASSES = 5
NETS = {
    "test_resnet": SMOOTH,
    "deit_tiny_patch16_224": {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3},
}


def network(name: str = "test_resnet", **args) -> nn.Module:
    """A small network in train mode, always the same, whose classifier is not that of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load_timm().create_model(name, num_classes=CLASSES, **{**NETS.get(name, {}), **args})
        nn.init.normal_(model.get_classifier().weight, std=0.1)
    return model.to(memory_format=torch.channels_last).train()


def prepared(name: str, model: nn.Module, seed: int = 0, **options) -> MomentumMixer:
    """The mixer for that model, with weights of the block and the heads that matter."""
    mixer = MIXERS[name](**options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mixer.prepare(model)
        for p in [*mixer.block.parameters(), *mixer.head.parameters(), *mixer.teacher_head.parameters()]:
            if p.ndim == 2:
                p.data.mul_(20)
    return mixer.train()


def batch_of(n: int = 6, size: tuple[int, int] = (64, 64), seed: int = 0, lam: float | None = None) -> Batch:
    batch = noise(n, size, seed)
    batch.labels = torch.arange(n) % CLASSES
    if lam is not None:
        batch.rng = FixedLam(lam, seed)
    return batch


def normalised(batch: Batch) -> torch.Tensor:
    """float32 [B,3,H,W], by hand."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (batch.mean, batch.std))
    return (batch.images.permute(0, 3, 1, 2) / 255 - mean) / std


def feature(model: nn.Module, x: torch.Tensor, site: str) -> torch.Tensor:
    """A site's map, by timm's own way, with the whole network run."""
    maps = model.forward_intermediates(x, norm=False, intermediates_only=True)
    return maps[int(site[-1]) - 5] if site.startswith("stage") else maps[int(site[5:])]


def pre_logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.forward_head(model.forward_features(x), pre_logits=True)


def soft(labels: torch.Tensor, partners: list, weights: list[float]) -> torch.Tensor:
    """Dense targets [B,classes]."""
    return sum(w * F.one_hot(labels[p], CLASSES).float() for p, w in zip(partners, weights, strict=True))


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Non-local attention of maps: [B,d,h,w], [B,d,h,w], [B,1,h,w] -> [B,1,h,w]."""
    q, k, v = (m.flatten(2) for m in (query, key, value))
    share = torch.einsum("bdi,bdj->bij", q, k).div(q.shape[1] ** 0.5).softmax(2)
    return torch.einsum("bij,bdj->bdi", share, v).view_as(value)


def conv(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The layer as a 1x1 convolution."""
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)


def planes(z: torch.Tensor, value: float) -> torch.Tensor:
    """One channel more, which is `value` everywhere."""
    return torch.cat([z, torch.full_like(z[:, :1], value)], 1)


class Recorder(nn.Module):
    """A criterion that keeps what it is given; with `only` all terms but that one count nothing."""

    def __init__(self, only: int | None = None):
        super().__init__()
        self.inner, self.only, self.seen = CrossEntropy(), only, []

    def forward(self, logits, targets):
        self.seen.append(targets)
        counts = self.only is None or self.only == len(self.seen) - 1
        return self.inner(logits, targets) * float(counts)


def inputs(model: nn.Module) -> list[torch.Tensor]:
    """What the model is given from now on."""
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    return seen


def gradients(*modules: nn.Module) -> list[torch.Tensor]:
    return [p.grad for module in modules for p in module.parameters() if p.requires_grad]


def close(found: list, expected: list, rtol: float = 2e-3) -> bool:
    """Whether all gradients are the same to rounding, relative to the largest value of each."""
    pairs = list(zip(found, expected, strict=True))
    return all((a - b).abs().max() <= rtol * b.abs().max() + 1e-6 for a, b in pairs)


def take_step(model: nn.Module, mixer: MomentumMixer, batch: Batch, t: float = 0.0, lr: float = 0.05) -> torch.Tensor:
    """One training step of plain SGD over all parameters."""
    mixer.set_progress(t)
    parameters = [p for p in [*model.parameters(), *mixer.parameters()] if p.requires_grad]
    loss = mixer(model, batch, CrossEntropy())
    loss.backward()
    with torch.no_grad():
        for p in parameters:
            p -= lr * p.grad
            p.grad = None
    mixer.after_step(model)
    return loss.detach()


def by_hand(model, mixer, batch, masks, mask_term=lambda s, lam: 0.0) -> torch.Tensor:
    """AutoMix's loss of a batch without what fastmix has for it: dense masks, gathers, whole passes, one-hot targets.

    masks(z, partner, lam) -> the partner's mask [B,1,H,W]; mask_term(mask, lam) -> the loss of the mask.
    """
    rng, n = batch.rng, len(batch)
    lam_k, lam_q = rng.beta(mixer.alpha, mixer.alpha, 2).tolist()
    for_k, for_q = (torch.from_numpy(rng.permutation(n)) for _ in "kq")
    x, own = normalised(batch), torch.arange(n)
    q, k = model, mixer.teacher
    with torch.no_grad():
        z = feature(k, x, mixer.site)
    s = masks(z, for_k, lam_k)
    loss = F.cross_entropy(k((1 - s) * x + s * x[for_k]), soft(batch.labels, [own, for_k], [lam_k, 1 - lam_k]))
    loss = loss + mask_term(s, lam_k)
    with torch.no_grad():
        s = masks(z, for_q, lam_q)
    logits = q((1 - s) * x + s * x[for_q])
    loss = loss + F.cross_entropy(logits, soft(batch.labels, [own, for_q], [lam_q, 1 - lam_q]))
    return loss + F.cross_entropy(mixer.head(pre_logits(q, x)), batch.labels)


def same_as_by_hand(name: str, net: str, masks, mask_term, size=(64, 64), **options) -> None:
    """Asserts that a step of the mixer has the loss and the gradients of `by_hand`."""
    found = []
    for hand in (False, True):
        model = network(net)
        mixer = prepared(name, model, **options)
        batch = batch_of(size=size, seed=4)
        if hand:
            loss = by_hand(model, mixer, batch, lambda *a, m=mixer: masks(m.block, *a), mask_term)
        else:
            loss = mixer(model, batch, CrossEntropy())
        loss.backward()
        found.append((loss.detach(), gradients(model, mixer.head, mixer.block)))
    (loss, grads), (expected, by) = found
    assert abs(loss - expected) < 1e-4 * abs(expected)
    assert close(grads, by)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers, like features behind a ReLU where they are positive."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()
