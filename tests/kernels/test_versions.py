"""Where Triton is missing or too old: all imports, and a launch, or a run on a GPU, is told in a line."""

import os
import subprocess
import sys

import pytest
import torch

from fastmix import kernels
from fastmix.config import Config
from fastmix.engine import loaders
from fastmix.kernels import _triton
from helpers import ROOT

MISSING = "import sys\nsys.modules['triton'] = None\n"
OLD = "import triton\ntriton.__version__ = '3.3.1'\n"
LAUNCH = """
import torch
from fastmix.kernels import KERNELS, kernel
for name in KERNELS:
    kernel(name)
import fastmix.kernels.mix as module
module.INTERPRETED = True  # launches, as on a GPU
try:
    module.mix(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), None, (0, 0, 0), (1, 1, 1))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "before, line",
    [
        (MISSING, "Triton is not installed: pip install triton\n"),
        (OLD, "Triton 3.3.1 cannot compile the kernels: install torch 2.8 or newer, or Triton 3.4\n"),
    ],
    ids=["missing", "old"],
)
def test_a_launch_says_what_is_wrong(before, line):
    if before is OLD:
        pytest.importorskip("triton")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", before + LAUNCH], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == line, done.stderr


def test_a_run_on_a_gpu_says_so_before_it_reads_any_data(monkeypatch):
    monkeypatch.setattr(_triton, "triton", None)
    cfg = Config()
    cfg.data.train = cfg.data.val = "not-there.beton"
    kernels.check(torch.device("cpu"))
    for build in (loaders.training, loaders.validation):
        with pytest.raises(
            ValueError, match="^the device is cuda, but Triton is not installed: .*; or use device=cpu$"
        ):
            build(cfg, torch.device("cuda"))


@pytest.mark.parametrize("version, usable", [("3.4.0", True), ("3.10.0", True), ("4.0", True), ("3.3.1", False)])
def test_versions_are_compared_as_numbers(version, usable, monkeypatch):
    monkeypatch.setattr(_triton, "triton", type("Triton", (), {"__version__": version}))
    assert (_triton.unusable() == "") == usable
