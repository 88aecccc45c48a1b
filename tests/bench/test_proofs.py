"""What the proofs of the card find: a method or a kernel that is wrong, and processes that do not survive."""

import json
import math

import pytest
import torch

from fastmix.bench import apart, kernels, main, proof, small_tasks
from fastmix.kernels import KERNELS, kernel
from fastmix.mixers import MIXERS
from helpers.dying import work


def test_what_a_process_does_to_itself_ends_none_of_the_rest():
    tasks = [(name,) for name in ("one", "dies", "fails", "loses the GPU", "two")]
    found = {task[0]: (result, error) for task, result, error in apart.apart(work, tasks, processes=1)}
    assert list(found) == ["one", "dies", "fails", "loses the GPU", "two"]
    assert found["dies"] == (None, "its process died with exit code 7")
    assert found["fails"] == (None, "ValueError: two lines")
    assert found["loses the GPU"][1].startswith("RuntimeError: Triton Error [CUDA]")
    first, last = (found[name][0].split()[-1] for name in ("one", "two"))
    assert first != last and not found["two"][1]  # a new process took over


@pytest.mark.long
@pytest.mark.parametrize("name", ["cutmix", "attentivemix", "transmix"])
def test_a_method_that_trains_is_right(name):
    [(way, precision, trouble, seconds)] = proof.ways(name, "cpu", 2)
    assert (way, precision, trouble) == ("eager", "bf16", "") and seconds > 0


def test_a_method_that_does_not_is_wrong(monkeypatch):
    cutmix = MIXERS["cutmix"]

    class Broken(cutmix):
        def plan(self, batch):
            raise RuntimeError("no\nplan")

    class Infinite(cutmix):
        def loss(self, model, batch, plan, criterion):
            return super().loss(model, batch, plan, criterion) * math.inf

    monkeypatch.setitem(MIXERS, "cutmix", Broken)
    assert proof.ways("cutmix", "cpu", 1)[0][2] == "RuntimeError: no plan"
    monkeypatch.setitem(MIXERS, "cutmix", Infinite)
    assert proof.ways("cutmix", "cpu", 1)[0][2] == "the loss of step 0 is inf"


def test_captured_losses_are_held_against_the_ordinary_ones():
    assert proof.apart_from([2.0, 1.0], [2.02, 0.99]) == ""
    assert proof.apart_from([2.0, 1.0, 1.0], [2.0, 1.1, 1.0]).startswith("the loss of captured step 1 is 1,")
    assert proof.apart_from([math.nan], [1.0])


def test_every_method_has_a_small_task():
    assert set(small_tasks.OPTIONS) | set(small_tasks.CLASS_TOKEN) <= set(MIXERS)
    assert all(small_tasks.mixer(name) is not None for name in MIXERS)


def test_every_case_of_every_kernel_is_tried():
    for name in KERNELS:
        module, tried = kernel(name), kernels.cases(name)
        assert {str(case) for case, _ in tried} == {str(case) for case in module.CASES}, name
        assert {dtype for _, dtype in tried} == set(module.DTYPES), name


def test_a_kernel_that_is_wrong_by_a_unit_is_found(monkeypatch):
    module = kernel("sinkhorn")
    right = module.sinkhorn
    assert kernels.compare("sinkhorn", 0, 2, "cpu") == []
    factor = 1 + 4 * module.ULPS * 2.0**-23
    monkeypatch.setattr(module, "sinkhorn", lambda **given: right(**given) * factor)
    assert len(kernels.compare("sinkhorn", 0, 2, "cpu")) == 2

    def failing(**given):
        raise RuntimeError("no\nlaunch")

    monkeypatch.setattr(module, "sinkhorn", failing)
    assert kernels.compare("sinkhorn", 0, 1, "cpu")[0].endswith("RuntimeError: no launch")


def test_units_in_the_last_place():
    one = torch.tensor([1.0, -0.0, -1.0])
    assert kernels.ulps(one, one) == 0
    assert kernels.ulps(torch.nextafter(one, torch.tensor(9.0)), one) == 1
    assert kernels.ulps(torch.tensor([3], dtype=torch.uint8), torch.tensor([250], dtype=torch.uint8)) == 247
    assert kernels.ulps(one, one.double()) > 1 << 60 and kernels.ulps(one, one[:2]) > 1 << 60


def test_arguments_go_to_the_device_with_their_lists_and_addresses():
    from fastmix.kernels.crop.table import offsets

    case = next(case for case in kernel("crop").CASES if case.separate)
    given = case.arguments()
    moved = kernels.there(given, "cpu")
    copies = given | {"pixels": [image.clone() for image in given["pixels"]]}
    assert all(map(torch.equal, moved["pixels"], given["pixels"]))
    assert (offsets(copies["pixels"]) != offsets(given["pixels"])).any()
    assert torch.equal(kernel("crop").crop(**moved), kernel("crop").reference(**given))


def test_rates_and_the_commands(tmp_path):
    words = ["--device", "cpu", "--json", str(tmp_path / "a.json")]
    assert main(["rates", "--side", "64", "--repeats", "2", *words]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["unit"] for row in rows] == ["GB/s", "TFLOP/s", "TFLOP/s"] and all(row["p50"] > 0 for row in rows)
    with pytest.raises(ValueError, match="--only: no kernel 'mixx'; did you mean 'mix'"):
        main(["kernels", "--only", "mixx", "--device", "cpu"])
    with pytest.raises(ValueError, match="--only: no method 'cutmx'; did you mean 'cutmix'"):
        main(["proof", "--only", "cutmx", "--device", "cpu"])


@pytest.mark.parametrize("loss, code", [(0.0, 0), (1.0, 1)])
def test_a_wrong_row_is_the_exit_code(loss, code, monkeypatch):
    monkeypatch.setattr(kernels, "cases", lambda name: [None])
    found = [(("mix", 0, 1, "cpu"), ["a case"] * int(loss), "")]
    monkeypatch.setattr(apart, "apart", lambda *given: iter(found))
    assert main(["kernels", "--only", "mix", "--device", "cpu"]) == code


@pytest.mark.parametrize("least, code", [("0", 0), ("101", 1)])
def test_the_quickstart_is_held_against_the_least_accuracy(least, code, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMIX_CACHE", str(tmp_path))
    small = ["data.train=shapes:train?n=32&size=32", "data.val=shapes:val?n=20&size=32", "epochs=1"]
    small += ["schedule.warmup_epochs=0"]
    assert main(["quickstart", "--device", "cpu", "--least", least, "--set", *small]) == code
