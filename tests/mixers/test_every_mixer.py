"""What holds of every method in MIXERS: steps of the whole Task, as in training, on one process and on two."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastmix import MIXERS
from fastmix.engine.method import step_rng
from helpers import teaching
from helpers.forked import two_processes
from helpers.tasks import batch, network, step, task_of
from helpers.waiting import no_waits

pytestmark = pytest.mark.gradient

every = pytest.mark.parametrize("name", MIXERS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return teaching.teacher_file(tmp_path_factory.mktemp("teacher"), teaching.trained())


@every
def test_a_loss_is_one_finite_number_and_a_function_of_the_generator(name, teacher):
    task, _ = task_of(name, teacher)
    images, labels = batch(6)
    before, twin = (images.clone(), labels.clone()), copy.deepcopy(task)
    losses = []
    for one in (task, twin):
        torch.manual_seed(0)
        losses.append(one(images, labels, step_rng(0, 1, 0)))
    loss = losses[0]
    assert loss.ndim == 0 and loss.dtype == torch.float32 and loss.isfinite() and loss.requires_grad
    assert torch.equal(*losses)
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1]), "written into"


class Waits(TorchDispatchMode):
    """Notes the operations whose result, or the shape of it, the host would have to wait for on a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        by_mask = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"):
            self.found.append(name)
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("wait", ["x.item()", "bool(x)", "y[y > 0]", "y.nonzero()", "y.unique()"])
def test_waits_are_noticed(wait):
    with Waits() as waits:
        eval(wait, {"x": torch.ones(()), "y": torch.ones(3)})
    assert waits.found


@every
def test_a_step_reaches_every_parameter_and_waits_for_nothing(name, teacher):
    """So DDP needs no search for unused ones, and a GPU never stands still for the host."""
    task, _ = task_of(name, teacher)
    for k in range(4):
        with Waits() as waits:
            task(*batch(6, seed=k), step_rng(0, k, 0)).backward()
        assert not waits.found
        missing = [key for key, p in task.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        assert all(p.grad.isfinite().all() for p in task.parameters() if p.requires_grad)
        task.zero_grad(set_to_none=True)


@every
def test_a_checkpoint_continues_exactly(name, teacher):
    """Weights, statistics, teachers, optimiser: the third step from a checkpoint after two is the third step."""
    task, opt = task_of(name, teacher)
    for k in range(2):
        step(task, opt, k, batch(6, seed=k))
    saved = copy.deepcopy({"task": task.state_dict(), "opt": opt.state_dict()})
    other, again = task_of(name, teacher)
    other.load_state_dict(saved["task"])
    again.load_state_dict(saved["opt"])
    given = batch(6, seed=2)
    assert torch.equal(step(task, opt, 2, given), step(other, again, 2, given))
    one, two = task.state_dict(), other.state_dict()
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]) if isinstance(value, torch.Tensor) else value == two[key], key


@every
def test_the_model_stays_what_timm_loads(name, teacher):
    """Its names and its answers, with whatever the method attached: those of the plain model with these weights."""
    task, opt = task_of(name, teacher)
    step(task, opt, 0, batch(6))
    plain = network(name)
    plain.load_state_dict(task.model.state_dict())
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), task.model.eval()(x))


@every
def test_half_precision_is_finite(name, teacher):
    task, _ = task_of(name, teacher)
    task.dtype = torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        loss = task(*batch(6), step_rng(0, 1, 0))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in task.model.parameters())


@pytest.mark.long
@every
@pytest.mark.parametrize("n, size", [(5, (64, 64)), (3, (64, 96)), (2, (96, 64))], ids=str)
def test_odd_batches_and_images_that_are_not_square(name, n, size, teacher):
    task, opt = task_of(name, teacher, size)
    assert all(step(task, opt, k, batch(n, size, k)).isfinite() for k in range(2))


@pytest.mark.cuda
@every
def test_nothing_waits_for_the_device(name, teacher):
    task, _ = task_of(name, teacher)
    task.cuda()
    given = [[t.cuda() for t in batch(6, seed=k)] for k in range(3)]
    task(*given[0], step_rng(0, 0, 0)).backward()  # compiles kernels, brings the teacher
    with no_waits():
        for k in (1, 2):
            task(*given[k], step_rng(0, k, 0)).backward()


def process(teacher: str, out: str) -> None:
    """One of two processes: two steps of every method; each process saves all parameters."""
    import torch.distributed as dist

    from fastmix.distributed import parallel

    found = {}
    for name in MIXERS:
        task, opt = task_of(name, teacher)
        module = parallel(task, torch.device("cpu"))
        for k in range(2):
            torch.manual_seed(k)
            task.mixer.set_progress(k / 10)
            module(*batch(4, seed=2 * k + dist.get_rank()), step_rng(0, k, dist.get_rank())).backward()
            opt.step()
            opt.zero_grad()
            task.mixer.after_step(task.model)
        found[name] = torch.cat([p.detach().flatten() for p in task.parameters()])
    torch.save(found, f"{out}.{dist.get_rank()}")


@pytest.mark.long
def test_two_processes_stay_alike(running, teacher, tmp_path):
    """Model, mix block, heads and teacher: the same on both after two steps, each with batches of its own."""
    two_processes(running, __file__, teacher, str(tmp_path / "weights"))
    one, two = (torch.load(tmp_path / f"weights.{rank}", weights_only=True) for rank in (0, 1))
    assert one.keys() == two.keys() == MIXERS.keys()
    for name in MIXERS:
        assert one[name].isfinite().all() and torch.equal(one[name], two[name]), name
