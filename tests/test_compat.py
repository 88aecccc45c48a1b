"""torchvision and timm import beside any torch, and fastmix.compat leaves a torchvision that works alone."""

import os
import subprocess
import sys

import pytest
import torch

from helpers import ROOT
from helpers.pinned import others


def fresh(script: str) -> subprocess.CompletedProcess:
    """Runs a script in a new process, where torchvision is not imported yet; warnings are errors, as in all tests."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    strict = [] if others() else ["-W", "error"]
    return subprocess.run([sys.executable, *strict, "-c", script], env=env, capture_output=True, text=True)


@pytest.mark.long
def test_torchvision_and_timm_import():
    done = fresh("import fastmix.compat, timm, torchvision.transforms.v2; timm.create_model('resnet18')")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="compat does nothing beside a CUDA build of torch")
def test_declares_only_what_is_missing():
    done = fresh("""
import importlib, torch
declared = lambda: hasattr(torch.ops.torchvision, "nms")
load, torch.ops.load_library = torch.ops.load_library, lambda path: None  # as if the operators loaded
import fastmix.compat
assert not declared()
torch.ops.load_library = load
cuda, torch.version.cuda = torch.version.cuda, "13.0"
importlib.reload(fastmix.compat)
assert not declared()
torch.version.cuda = cuda
importlib.reload(fastmix.compat)
assert declared()
importlib.reload(fastmix.compat)  # a second declaration would raise
assert declared()
""")
    assert done.returncode == 0, done.stderr
