"""All kernels through Triton's interpreter, and compiled for GPUs without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmix.kernels import KERNELS, kernel
from helpers import ROOT

HERE = Path(__file__).parent
THIRDS = [tuple(KERNELS)[k::3] for k in range(3)]  # so that processes share the work


def script(name: str, *words: str, **environment: str) -> None:
    """Runs a file of this folder in its own process: TRITON_INTERPRET is read once, at the first import."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"PYTHONPATH": str(ROOT)} | environment
    result = subprocess.run([sys.executable, HERE / name, *words], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_one_case_of_each_kernel_equals_the_reference():
    pytest.importorskip("triton")
    script("interpreter_check.py", "--first", TRITON_INTERPRET="1")


def test_a_build_of_a_kernel_compiles_without_spills():
    pytest.importorskip("triton")
    script("aot_check.py", "--first", "mix", "gridcut")


@pytest.mark.long
@pytest.mark.parametrize("names", THIRDS)
def test_every_case_of_each_kernel_equals_the_reference(names):
    pytest.importorskip("triton")
    script("interpreter_check.py", *names, TRITON_INTERPRET="1")


@pytest.mark.long
def test_the_fullest_kernels_fit_the_registers_of_every_generation():
    pytest.importorskip("triton")
    script("aot_check.py", "transport", "comixup", "mix_logits_grad", "sinkhorn")


@pytest.mark.long
@pytest.mark.parametrize("names", THIRDS)
def test_every_build_of_each_kernel_compiles_without_spills(names):
    pytest.importorskip("triton")
    assert all(kernel(name).AOT for name in names)
    script("aot_check.py", "--quick", *names)
