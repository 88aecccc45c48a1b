"""ddp: what is sent of gradients, and how often; the numbers that arrive are those of closed forms and of plain DDP."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fastmix import config, models
from fastmix.distributed import parallel
from fastmix.engine import optim, step
from fastmix.engine.step import Step
from fastmix.engine.task import Task
from fastmix.engine.training import require_ddp
from fastmix.mixers import build
from helpers.forked import two_processes

pytestmark = pytest.mark.gradient


@pytest.fixture
def alone():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def start(*words: str) -> tuple[config.Config, Task]:
    tree = {"precision": "fp32", "seed": 3, "epochs": 2, "data": {"size": 32}, "batch_total": 8}
    tree["model"] = {"name": "test_resnet", "classes": 5}
    cfg = config.from_tree(config.over(tree, list(words)), "test")
    model = models.build(cfg.model, 5, 0, torch.device("cpu"))
    return cfg, Task(model, build("cutmix", {"cutmix": {}}, "paper"), cfg).train()


def stepping(cfg: config.Config, task: Task) -> Step:
    return Step(cfg, task, optim.build(cfg.optim, task.model), torch.amp.GradScaler(enabled=False), 3)


def batch(seed: int, count: int = 8):
    made = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=made)
    return images, torch.randint(0, 5, (count,), generator=made)


@pytest.mark.parametrize("accum, more", [(1, ["ddp.static_graph=true"]), (4, []), (4, ["ddp.bucket_view=true"])])
def test_gradients_are_sent_once_a_step_however_many_parts_it_has(accum, more, alone, monkeypatch):
    monkeypatch.setattr(step, "world", lambda: 2)
    cfg, task = start(f"accum={accum}", "ddp.bucket_mb=1", *more)
    one, sent = stepping(cfg, task), []

    def count(_, bucket):
        sent.append(sum(p.numel() for p in bucket.parameters()))
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    one.module.register_comm_hook(None, count)
    for k in range(3):
        sent.clear()
        one(*batch(k), k)
        assert sum(sent) == sum(p.numel() for p in task.parameters())


HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("compression", HALF)
def test_half_of_the_bits_are_sent(compression, alone, monkeypatch):
    monkeypatch.setattr(DistributedDataParallel, "_check_comm_hook", lambda *_: None)  # which asks for NCCL
    layer = torch.nn.Linear(7, 5)
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    made = parallel(layer, x.device, compression)
    made(x).square().sum().backward()
    grad = torch.autograd.grad(layer(x).square().sum(), layer.parameters())
    for p, g in zip(layer.parameters(), grad, strict=True):
        assert torch.equal(p.grad, g.to(HALF[compression]).float()) and not torch.equal(p.grad, g)


def test_powersgd_sends_few_ranks_and_the_rest_later(alone):
    """From its beginning on what arrived in all steps, and what is kept, are together the true gradients."""
    layer = torch.nn.Linear(40, 30, bias=False)
    made = parallel(layer, torch.device("cpu"), "powersgd", 2, 3)
    arrived, true = torch.zeros(30, 40), torch.zeros(30, 40)
    for k in range(6):
        x = torch.randn(64, 40, generator=torch.Generator().manual_seed(k))
        layer.zero_grad()
        made(x).pow(4).sum().backward()
        grad = torch.autograd.grad(layer(x).pow(4).sum(), layer.weight)[0]
        ranks = int((torch.linalg.svdvals(layer.weight.grad.double()) > 1e-4 * grad.norm()).sum())
        if k < 3:
            assert torch.equal(layer.weight.grad, grad) and ranks > 2
        else:
            assert ranks == 2
            arrived, true = arrived + layer.weight.grad, true + grad
    (kept,) = made._comm_hooks[0][1].error_dict.values()
    torch.testing.assert_close(arrived + kept.view(30, 40), true, rtol=1e-4, atol=1e-4 * true.abs().max().item())


def test_what_cannot_be_is_refused():
    def required(name: str, *words: str, device: str = "cpu") -> None:
        require_ddp(start(*words)[0], build(name, {name: {}}, "paper"), torch.device(device))

    for name in ("cutmix", "fmix"):
        required(name, "ddp.static_graph=true")
    for name in ("puzzlemix", "automix"):
        with pytest.raises(ValueError, match=r"ddp.static_graph: \w+ does more than plan, so steps may differ"):
            required(name, "ddp.static_graph=true")
    with pytest.raises(ValueError, match="ddp.static_graph: torch has it for steps of one part alone, and accum is 2"):
        required("cutmix", "ddp.static_graph=true", "accum=2")
    for kind in ("bf16", "powersgd"):
        with pytest.raises(ValueError, match=f"ddp.compression is {kind}, which torch sends between GPUs alone"):
            required("cutmix", f"ddp.compression={kind}")
    with pytest.raises(ValueError, match="ddp.compression is powersgd.* set precision to bf16 or fp32"):
        required("cutmix", "ddp.compression=powersgd", "precision=fp16", device="cuda")
    with pytest.raises(ValueError, match="ddp.compression is 'zip'; choose one of none, bf16, fp16, powersgd"):
        start("ddp.compression=zip")


# ---- two processes ----

SAME = [(), ("ddp.bucket_mb=1", "ddp.bucket_view=true"), ("ddp.static_graph=true",)]
OTHER = [("ddp.compression=fp16",)]


def process(out: str) -> None:
    """One of two processes: three steps with each of the options; the first one saves the weights."""
    found = {}
    for words in SAME + OTHER:
        cfg, task = start(*words)
        one = stepping(cfg, task)
        for k in range(3):
            one(*batch(2 * k + dist.get_rank()), k)
        weights = torch.cat([p.detach().flatten() for p in task.parameters()])
        each = [torch.empty_like(weights) for _ in range(2)]
        dist.all_gather(each, weights)
        assert torch.equal(*each), words
        found[" ".join(words)] = weights
    if dist.get_rank() == 0:
        torch.save(found, out)


@pytest.mark.long
def test_options_that_move_memory_alone_change_no_bit(running, tmp_path):
    two_processes(running, __file__, str(tmp_path / "weights.pt"))
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    plain = found[""]
    for words in SAME:
        assert torch.equal(found[" ".join(words)], plain), words
    for words in OTHER:
        other = found[" ".join(words)]
        assert not torch.equal(other, plain) and (other - plain).norm() < 0.05 * plain.norm(), words
