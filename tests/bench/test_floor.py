"""What `bench floor` counts, against a net counted by hand; and the memory of a step, against a real one's."""

import json

import pytest
import torch
from torch import nn

from fastmix import cli, models
from fastmix.bench import floor, main
from fastmix.config import Config, Data, Model
from fastmix.engine import dryrun
from helpers import ROOT

B, SIDE, C = 4, 16, 8
SLACK = 8192  # bytes, a quarter of a map: statistics and the loss


class Tiny(nn.Module):
    """A convolution, batch-norm, ReLU, a shortcut around another of them, and the mean of each map."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(k, C, 3, padding=1, bias=False) for k in (3, C))
        self.norms = nn.ModuleList(nn.BatchNorm2d(C) for _ in range(2))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.norms[0](self.first(x)))
        return self.act(self.norms[1](self.second(x)) + x).mean((2, 3))


def test_traffic_of_a_net_counted_by_hand():
    x, n, w = 4 * B * 3 * SIDE**2, 4 * B * C * SIDE**2, 4 * 9 * C * (3 + C)  # bytes: images, a map, the weights
    forward = {
        "weights": w,
        "first convolution": x + n,
        "second convolution": 2 * n,
        "two batch-norms": 2 * 3 * n,
        "two ReLUs": 2 * 2 * n,
        "sum": 3 * n,
        "mean": n,
    }
    backward = {
        "weights": w,
        "their gradients": w + 2 * w,  # and once more in the layout of the weights
        "mean": n,  # its gradient is one number a map, divided into a map
        "two ReLUs": 3 * n + 3 * n,
        "two batch-norms": 2 * 5 * n,
        "second convolution": 2 * n + n + n,
        "first convolution": 2 * n + x,  # images have no gradient
        "gradients of the shortcut": 3 * n,
    }
    eager, fused = floor.traffic(Tiny(), (B, 3, SIDE, SIDE), torch.float32)
    assert eager == pytest.approx(sum(forward.values()) + sum(backward.values()), abs=SLACK)
    # Done where their first input is made: ReLUs, the sum of the shortcut and that of its gradients, all for the other
    # input alone; ReLUs backwards for their result; the division of the mean's gradient.
    saved = 2 * 2 * n + 2 * n + n + 2 * 2 * n + 2 * n
    assert fused == pytest.approx(eager - saved, abs=SLACK)


def test_bf16_halves_what_is_not_images():
    model = Tiny()
    full, half = (floor.traffic(model, (64, 3, SIDE, SIDE), dtype)[0] for dtype in (torch.float32, torch.bfloat16))
    assert half == pytest.approx(full / 2, rel=0.01)


def test_a_rate_is_arithmetic_and_traffic_one_after_the_other():
    found = floor.Floor(100, 10**9, 10**9, 5 * 10**8, {})
    seconds = 6 * 100 * 1e9 / 989e12 + 1e9 / 4.3e12
    assert found.rate("h200", found.eager) == pytest.approx(100 / seconds)


def saved(model: nn.Module, batch: int, size: int) -> int:
    """Bytes that a real forward pass under bf16 autocast leaves for the backward one: each storage once, no weights."""
    own = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    x = torch.randn(batch, 3, size, size, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(logits.float(), torch.zeros(batch, dtype=torch.int64))
    assert loss.isfinite()
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


def test_two_small_batches_tell_the_memory_of_a_large_one():
    """ResNet-50: what two real passes leave grows in proportion, to the bytes that are counted for 256 images."""
    model, size = models.build(Model("resnet50"), 1000).train(), 32
    two, three = (saved(model, batch, size) for batch in (2, 3))
    measured = two + (256 - 2) * (three - two)
    counted = floor.floor("resnet50", 256, size)
    assert counted.memory["activations"] == pytest.approx(measured, rel=0.01)
    n = sum(p.numel() for p in model.parameters())
    assert counted.memory["gradients"] == counted.memory["optimiser"] == 4 * n


def test_the_rows(tmp_path, capsys):
    words = ["--models", "test_resnet", "--batch", "8", "--size", "64", "--gpu", "h200", "a100"]
    main(["floor", *words, "--json", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())
    assert all("predicted" in row["unit"] and "not measured" in row["hardware"] for row in rows)
    found = {(row["provider"], row["unit"], row["hardware"][:4]): row["p50"] for row in rows}
    cfg = Config(data=Data(size=64), model=Model("test_resnet"), precision="bf16", batch_total=8)
    with torch.device("meta"):
        macs = dryrun.macs(models.build(cfg.model, 1000, device="meta"), cfg)
    assert found["any, predicted", "GFLOP/image, predicted", "any:"] == pytest.approx(6 * macs / 1e9)
    for way in ("eager", "fused"):
        moved = found[f"{way}, predicted", "MB/image, predicted", "any:"] / 1e6
        for gpu, flops, copy in (("H200", 989, 4.3), ("A100", 312, 0.9 * 2.039)):
            microseconds = 6 * macs / flops / 1e6 + 1e6 * moved / copy
            assert found[f"{way}, predicted", "images/s, predicted", gpu] == pytest.approx(1e6 / microseconds)
    capsys.readouterr()
    assert cli.run(main, "bench", ["floor", "--models", "resnet5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_page_tells_what_is_counted():
    """docs/throughput.md, of ResNet-50: its row of the table, to the digits given."""
    found = floor.floor("resnet50", 256, 224)
    milliseconds = (found.batch * 6e3 * found.macs / 989e12, *(1e3 * v / 4.3e12 for v in (found.eager, found.fused)))
    cells = [6e-9 * found.macs, found.eager / 256e6, found.fused / 256e6, *milliseconds]
    cells += [found.rate("h200", found.eager), found.rate("h200", found.fused), sum(found.memory.values()) / 1e9]
    texts = [f"{v:.0f}" if v > 100 else f"{v:.1f}" for v in cells]
    page = (ROOT / "docs" / "throughput.md").read_text()
    assert f"| ResNet-50 | {' | '.join(texts)} |" in page
    fused = floor.floor("resnet50", 256, 224, fused="auto")
    assert f"| resnet50 | 256x224x224 bf16 fused norm | MB/image, predicted | {fused.eager / 256e6:.0f} |" in page
    assert fused.eager < 0.8 * found.eager and fused.macs == found.macs
    tables = 53 * 6 * 4 * 2048  # at most: of each batch-norm
    assert fused.memory["activations"] <= found.memory["activations"] + tables
