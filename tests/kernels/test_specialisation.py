"""No launch has a kernel built anew because of a number: only of types and constants. Without a GPU: by Triton's own
rules for the arguments of launches that are not carried out."""

from collections import Counter, defaultdict
from functools import cache

import pytest
import torch

from fastmix.kernels import KERNELS, borders, kernel, transport
from fastmix.kernels.mix import mix
from fastmix.kernels.plan import Plan

jit = pytest.importorskip("triton.runtime.jit")


@cache
def binder(launched):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    backend = make_backend(GPUTarget("cuda", 90, 32))
    return jit.create_function_from_signature(launched.signature, launched.params, backend)


@pytest.fixture
def builds(monkeypatch):
    """How the whole numbers of launches are specialised: a set for each kernel with its types and constants."""
    found = defaultdict(set)
    powers = {1 << k for k in range(6)}

    def run(self, *args, grid, warmup, **options):
        bound, kinds, rest = binder(self)(*args, **options)
        numbers, constants = [], [sorted(rest.items())]
        for param, kind, value in zip(self.params, kinds, bound.values(), strict=True):
            if param.is_constexpr:
                constants.append(value)
            elif isinstance(value, int):
                numbers.append((param.name, *kind))
            else:
                constants.append(kind[0])
        assert options.get("num_warps", 4) in powers, "of two, or it is not built at all"
        found[self.fn.__name__, str(constants)].add(tuple(numbers))

    monkeypatch.setattr(jit.JITFunction, "run", run)
    for name in KERNELS:
        if hasattr(kernel(name), "INTERPRETED"):
            monkeypatch.setattr(kernel(name), "INTERPRETED", True)  # launches, as on a GPU
    return found


@pytest.mark.parametrize("name", KERNELS)
def test_every_number_has_one_build(name, builds):
    module = kernel(name)
    for case in module.CASES:
        getattr(module, name)(**case.arguments(module.DTYPES[-1]))
    assert builds and {key: kinds for key, kinds in builds.items() if len(kinds) > 1} == {}


def test_a_run_of_block_counts(builds):
    """Of any number of blocks a side, as PuzzleMix draws them: as many builds as there are powers of two."""
    images, partner = torch.zeros(8, 64, 64, 3, dtype=torch.uint8), torch.zeros(8, dtype=torch.int32)
    for blocks in range(2, 17):
        n = blocks * blocks
        borders.borders(images, partner, blocks, 1)
        transport.transport(torch.zeros(8, n), torch.zeros(8, n, dtype=torch.bool), (blocks, blocks), 0.8)
        cells = torch.zeros(8, n, dtype=torch.int32)
        plan = Plan.block(partner, cells, cells, torch.ones(8, n), (blocks, blocks), (64, 64))
        mix(images, plan, (0, 0, 0), (1, 1, 1))
    names = Counter(name for name, _ in builds)
    assert all(len(kinds) == 1 for kinds in builds.values())
    assert names["mix_kernel"] == 1 and names["borders_kernel"] <= 8 and names["transport_kernel"] <= 8
