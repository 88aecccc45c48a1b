"""Training on the pretended GPU, in processes of its own because torch.cuda is patched there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastmix import MIXERS
from gpu import guard
from helpers import ROOT

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


@pytest.mark.long
@pytest.mark.parametrize("precision, methods", [*(("bf16", tuple(MIXERS)[k::4]) for k in range(4)), ("fp16", SAMPLE)])
def test_methods_train_and_what_they_launch_compiles(precision, methods, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.getbasetemp().parent / "triton_builds"  # of this session: what several share is built once
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    check("training_check", "--compile", "3", precision, *methods)
