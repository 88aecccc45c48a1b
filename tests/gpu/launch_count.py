"""What a step launches, counted on the pretended GPU: PYTHONPATH=.:tests python -m gpu launch_count [CSV] [NAME ...]

Of each method, with the small network of its tests, 8 images of 64 pixels, bf16, SGD and an average of the weights: an
ordinary step, and one that is replayed as CUDA graphs, each of which is one launch; and of the ordinary one what its
plan takes, where that is made on the device of what a model or the pixels said, also in plain torch in place of
kernels.plan_rows and mask_energy. Then what LAMB launches for a ResNet-50, ours and timm's, and what the average does.
Nothing is timed. Counted are

- operations of torch that touch the device's memory, copies from the host among them; views and empty tensors do not;
- of one on lists of tensors as many as torch's multi-tensor kernels take, at most so many tensors and blocks of 65,536
  values a launch (MultiTensorApply.cuh), or one a tensor where lists differ in shape, layout or type;
- our own kernels.

Where CUDA's operation is several kernels, they are more. Exit code 1 where a replayed step launches more than FEW.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from fastmix import MIXERS, config, models
from fastmix.bench import measure
from fastmix.bench.floor import is_free
from fastmix.engine import captured_step, optim
from fastmix.engine.captured_step import CapturedStep
from fastmix.engine.ema import Ema
from fastmix.engine.step import Step
from gpu import pretended
from gpu.pretended import Gpu
from gpu.training_check import BATCH, MOST_STEPS, batches, made
from helpers import attending, teaching

TENSORS = (110, 64, 48, 36, 30)  # of a launch, by how many lists there are
BLOCKS, BLOCK = 320, 65_536
FEW = 16


class Counting(Gpu):
    """A pretended GPU that counts what is launched."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(operation, types, args, kwargs)
        given = args, kwargs or {}
        if any(isinstance(value, FakeTensor) for value in tree_leaves((given, out))):
            name = operation._schema.name
            lists = [value for value in args if isinstance(value, (list, tuple)) and is_tensors(value)]
            if lists and name.startswith(("aten::_foreach_", "aten::_fused_")):
                self.operations += of_lists(lists)
            elif not is_free(operation, given, out):
                self.operations += 1
        return out

    @property
    def count(self) -> int:
        return self.operations + self.launches.made

    @count.setter
    def count(self, value: int) -> None:
        self.operations = value - self.launches.made


def is_tensors(values) -> bool:
    return len(values) > 0 and all(isinstance(value, Tensor) for value in values)


def of_lists(lists: list[list[Tensor]]) -> int:
    """Launches of one operation on lists of tensors."""
    lists = [tensors for tensors in lists if len(tensors) == len(lists[0])]
    kinds = [[(t.shape, t.stride()) for t in tensors] for tensors in lists]
    if any(kind != kinds[0] for kind in kinds) or len({t.dtype for tensors in lists for t in tensors}) > 1:
        return len(lists[0])
    most = TENSORS[min(len(lists), len(TENSORS)) - 1]
    launches = tensors = blocks = 0
    for tensor in lists[0]:
        tensors += 1
        chunks = max(1, -(-tensor.numel() // BLOCK))
        for chunk in range(chunks):
            blocks, last = blocks + 1, chunk == chunks - 1
            if blocks == BLOCKS or (last and tensors == most):
                launches, tensors, blocks = launches + 1, int(not last), 0
    return launches + (blocks > 0)


class Uncounted:
    """In place of captured_step.SideStream: a replay is one launch, whatever it does."""

    def __init__(self, gpu: Counting):
        self.gpu, self.replayed = gpu, False

    def run(self, work):
        return work()

    def capture(self, work):
        def replay():
            before = self.gpu.count
            result = work()
            self.gpu.count = before + 1
            self.replayed = True
            return result

        return replay


def of_step(name: str, captured: bool, teacher: str) -> int | None:
    """Launches of a method's step; None where it cannot be captured."""
    tree = {"precision": "bf16", "optim": {"name": "sgd", "lr": 0.05, "fused": "torch"}}
    cfg = config.from_tree(tree, "the count")
    with pretended.pretending(Counting) as gpu:
        task, rest = made(name, cfg, teacher)
        if captured and task.mixer.uncaptured:
            return None
        side = Uncounted(gpu)
        step = CapturedStep(cfg, task, *rest, side=side) if captured else Step(cfg, task, *rest)
        for k, images, labels in batches(MOST_STEPS):
            gpu.count, side.replayed = 0, False
            step(images, labels, k)
            if side.replayed or (not captured and k):
                return gpu.count
    raise AssertionError(f"{name}: no step was replayed")


def of_plan(name: str, plain: bool, teacher: str) -> int | None:
    """Launches of a method's put(); None where it has none. plain: by the kernels' references."""
    cfg = config.from_tree({"precision": "bf16", "optim": {"name": "sgd", "lr": 0.05, "fused": "torch"}}, "the count")
    found = []
    with pretended.pretending(Counting) as gpu:
        task, rest = made(name, cfg, teacher)
        mixer = task.mixer
        if not hasattr(mixer, "put"):
            return None
        put, module = mixer.put, sys.modules[type(mixer).put.__module__]

        def counted(*args):
            before = gpu.count
            plan = put(*args)
            found.append(gpu.count - before)
            return plan

        mixer.put = counted
        used = {kernel: vars(module)[kernel] for kernel in ("plan_rows", "mask_energy") if kernel in vars(module)}
        if plain:
            vars(module).update({name: sys.modules[own.__module__].reference for name, own in used.items()})
        step = Step(cfg, task, *rest)
        for k, images, labels in batches(MOST_STEPS):
            step(images, labels, k)
            if len(found) > 1:  # the first sends what stays there
                break
        vars(module).update(used)
    return found[-1]


def of_updates() -> dict[tuple[str, str], int]:
    """Launches of LAMB's step and of an average's, of a ResNet-50: by what, and whose."""
    models.load_timm()
    from timm.optim import Lamb as Timms

    found = {}
    with pretended.pretending(Counting) as gpu:
        model = pretended.placed(models.build(config.Model("resnet50"), 1000))
        for p in model.parameters():
            p.grad = torch.empty_like(p)
        rules = config.Optim(name="lamb", lr=0.005, weight_decay=0.02, no_decay=["norm", "bias"], fused="torch")
        groups, options = optim.param_groups(rules, model), {"lr": 0.005, "weight_decay": 0.02}
        updates = {("lamb", "fastmix"): optim.build(rules, model).step}
        for provider, foreach in (("timm", True), ("timm, one by one", False)):
            updates["lamb", provider] = Timms([dict(group) for group in groups], **options, foreach=foreach).step
        ema = Ema(model, 0.999)
        updates["average", "fastmix"] = lambda: ema.update(model, 2)
        for key, update in updates.items():
            for _ in range(2):
                gpu.count = 0
                update()
            found[key] = gpu.count
    return found


def rows(names: list[str], teacher: str):
    def row(name: str, provider: str, shape: str, dtype: str, count: int) -> dict:
        cells = measure.row("launches", name, provider, shape, dtype, "launches, counted", [count])
        return cells | {"hardware": "a pretended GPU: counted, not measured"}

    for name in names:
        yield row(name, "fastmix", f"{BATCH}x64x64x3", "bf16", of_step(name, False, teacher))
        if (count := of_step(name, True, teacher)) is not None:
            yield row(name, "fastmix, cuda_graph", f"{BATCH}x64x64x3", "bf16", count)
        for provider, plain in (("fastmix", False), ("plain torch", True)):
            if (count := of_plan(name, plain, teacher)) is not None:
                yield row(f"{name}, its plan", provider, f"{BATCH}x64x64x3", "bf16", count)
    for (what, provider), count in of_updates().items():
        yield row(f"resnet50 {what}", provider, "", "fp32", count)


def main() -> int:
    names = [word for word in sys.argv[1:] if word in MIXERS]
    tables = [word for word in sys.argv[1:] if word.endswith(".csv")]
    with tempfile.TemporaryDirectory() as folder:
        teacher = teaching.teacher_file(Path(folder), teaching.trained())
        attending.prototype((64, 64), "vit_tiny_patch16_224")  # its weights are drawn on a real CPU
        pretended.install()
        captured_step.WARM = 1
        found = list(rows(names or list(MIXERS), teacher))
    for table in tables:
        measure.append_csv(found, table)
    print(measure.table(found))
    return int(any(row["p50"] > FEW for row in found if row["provider"].endswith("cuda_graph")))


if __name__ == "__main__":
    sys.exit(main())
