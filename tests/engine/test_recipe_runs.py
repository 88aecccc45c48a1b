"""Runs with all that the recipes ask for: averages, precise and shared batch statistics."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fastmix import cli, config, files, models, train
from fastmix.engine import checkpoint
from fastmix.engine.ema import Ema

SMALL = """
epochs: 2
batch_total: 20
precision: fp32
data: {train: "shapes:train?n=100&size=32", val: "shapes:val?n=43&size=32", size: 32, val_resize: null, workers: 2}
model: {name: test_resnet, args: {drop_path_rate: 0.1}}
optim: {name: lamb, lr: 5e-3, weight_decay: 0.02, eps: 1e-6, no_decay: [norm, bias], layer_decay: 0.8, clip: 5.0}
schedule: {per: step, warmup: ramp, warmup_epochs: 1}
loss: {kind: bce}
ema: {decay: 0.9, ramp_steps: 4, every: 3}
augment: {kind: randaugment}
mix: cutmix
accum: 2
precise_bn: 35
mixers: {cutmix: {}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


@pytest.mark.long
def test_a_run_with_all_of_it_resumes_exactly(folder, monkeypatch):
    assert train.main(["small.yaml", "out=whole"]) == 0
    record = checkpoint.State.record

    def recording(self, loss):
        record(self, loss)
        self.stop = self.stop or self.step + 1 == 5  # as if SIGTERM came at the end of the first epoch

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.State, "record", recording)
        assert train.main(["small.yaml", "out=parts"]) == cli.TRY_AGAIN
    assert files.read_torch(folder / "parts/last.pt")["run"]["step"] == 5
    assert train.main(["small.yaml", "out=parts", "--resume"]) == 0
    whole, parts = (files.read_torch(folder / name / "last.pt") for name in ("whole", "parts"))
    for part in ("task", "ema"):
        assert all(torch.equal(whole[part][key], parts[part][key]) for key in whole[part])
    assert whole["opt"]["param_groups"] == parts["opt"]["param_groups"]
    assert whole["run"]["result"] == parts["run"]["result"]
    val = [json.loads(line) for line in (folder / "whole/log.jsonl").read_text().splitlines()]
    assert all("ema_top1" in row for row in val if row["kind"] == "val")


def test_the_average_is_updated_every_so_many_steps(folder, monkeypatch):
    updates, update = [], Ema.update
    monkeypatch.setattr(Ema, "update", lambda self, model, step: updates.append(step) or update(self, model, step))
    assert train.main(["small.yaml", "out=a"]) == 0
    assert updates == [3, 6, 9]


def test_precise_batch_norm_is_the_mean_over_batches(folder, monkeypatch):
    """Against the statistics of the first batch-norm's input, gathered by a hook, in float64."""
    from fastmix.engine import loop

    seen, checked, precise_bn = [], [], loop.precise_bn

    def gather(module, given):
        x = given[0].detach().double().transpose(0, 1).flatten(1)
        seen.append((x.mean(1), x.var(1)))

    def watched(model, task, data, step):
        weights = [p.detach().clone() for p in model.parameters()]
        norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        before, mode = norm.num_batches_tracked.clone(), model.training
        seen.clear()
        handle = norm.register_forward_pre_hook(gather)
        precise_bn(model, task, data, step)
        handle.remove()
        assert len(seen) == 4, "35 images are two batches of 20, in two parts each"
        for k, found in enumerate((norm.running_mean, norm.running_var)):
            expected = torch.stack([batch[k] for batch in seen]).mean(0)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        assert norm.momentum == 0.1 and norm.num_batches_tracked == before and model.training == mode
        assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
        assert all(p.grad is None for p in model.parameters())
        checked.append(step)

    monkeypatch.setattr(loop, "precise_bn", watched)
    assert train.main(["small.yaml", "out=a"]) == 0
    assert checked == [5, 5, 10, 10]  # the model and its average


def test_shared_batch_statistics_need_gpus(monkeypatch):
    model = config.Model("resnet18", args={}, sync_bn=True)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in models.build(model, 10).modules()), "one process"
    monkeypatch.setattr(models, "world", lambda: 2)
    with pytest.raises(ValueError, match="model.sync_bn: .* on GPUs only"):
        models.build(model, 10)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_b0"])
def test_shared_batch_statistics_replace_every_batch_norm(monkeypatch, name):
    plain = models.build(config.Model(name), 10, device="cuda")
    monkeypatch.setattr(models, "world", lambda: 2)
    shared = models.build(config.Model(name, sync_bn=True), 10, device="cuda")
    count = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in plain.modules())
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in shared.modules()) == count
    x = torch.randn(2, 3, 64, 64, device="cuda")
    torch.testing.assert_close(plain.eval()(x), shared.eval()(x))
