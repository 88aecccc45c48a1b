"""Training on the pretended GPU, in processes of its own because torch.cuda is patched there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fastmix import MIXERS
from gpu import guard
from helpers import ROOT

BLOCKS, BLOCK = 320, 65_536  # of a launch of torch's multi-tensor kernels, and values of a block
SAMPLE = ("cutmix", "puzzlemix", "automix")


def check(name: str, *words: str) -> None:
    """Runs a check of this folder."""
    pytest.importorskip("triton")
    if reason := guard.missing():
        pytest.skip(reason)
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-m", "gpu", name, *words], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.long
def test_planted_faults_are_found():
    check("planted_check")


def test_three_methods_train():
    check("training_check", "2", "bf16", *SAMPLE)


@pytest.mark.parametrize(
    "sizes, lists, expected",
    [
        ([1], 1, 1),
        ([1] * 110, 1, 1),
        ([1] * 111, 1, 2),
        ([1] * 110, 2, 2),
        ([BLOCK * BLOCKS], 1, 1),
        ([BLOCK * BLOCKS + 1], 1, 2),
        ([BLOCK * (BLOCKS - 1), 2 * BLOCK], 1, 2),
    ],
)
def test_a_launch_has_so_many_tensors_and_blocks(sizes, lists, expected):
    pytest.importorskip("triton")
    from gpu.launch_count import of_lists

    assert of_lists([[torch.empty(n, device="meta") for n in sizes]] * lists) == expected


def test_lists_of_other_layouts_are_a_launch_a_tensor():
    pytest.importorskip("triton")
    from gpu.launch_count import of_lists

    some = [torch.zeros(k + 1, 2) for k in range(1, 9)]
    assert of_lists([some, some]) == 1 and of_lists([some, [t.T.contiguous().T for t in some]]) == 8


@pytest.mark.long
def test_a_replayed_step_launches_little():
    check("launch_count", "saliencymix")


@pytest.mark.long
@pytest.mark.parametrize("precision, methods", [*(("bf16", tuple(MIXERS)[k::4]) for k in range(4)), ("fp16", SAMPLE)])
def test_methods_train_and_what_they_launch_compiles(precision, methods, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.getbasetemp().parent / "triton_builds"  # of this session: what several share is built once
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    check("training_check", "--compile", "3", precision, *methods)
