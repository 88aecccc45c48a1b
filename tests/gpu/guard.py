"""guard.cpp built and loaded. Knows torch without importing it: the guard must be there before."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from importlib import metadata, util
from pathlib import Path

from fastmix import files
from fastmix.pipelines.sources import cache

SOURCE = Path(__file__).with_name("guard.cpp")
COMPILER = os.environ.get("CXX") or "g++"
TORCH = Path(util.find_spec("torch").origin).parent


def missing() -> str:
    """Why the guard cannot be had here; empty where it can."""
    if list(TORCH.glob("lib/libtorch_cuda*")):
        return "this torch is a CUDA build, with a guard of its own; the pretended GPU needs the CPU build"
    if shutil.which(COMPILER) is None:
        return f"no C++ compiler ({COMPILER}) to build the pretended GPU with"
    return ""


def built() -> Path:
    """The library, made once for each torch and each guard.cpp; processes that want it at the same time wait."""
    about = f"{metadata.version('torch')} {TORCH} {COMPILER}".encode() + SOURCE.read_bytes()
    path = cache.folder() / f"pretended_gpu_{hashlib.sha256(about).hexdigest()[:16]}.so"
    with cache.alone(path):
        if not path.exists():
            includes = [f"-I{TORCH / 'include' / part}" for part in ("", "torch/csrc/api/include")]
            links = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu", "-lc10"]
            with files.whole(path) as part:
                command = [COMPILER, "-std=c++20", "-fPIC", "-shared", "-w", *includes, SOURCE, "-o", part, *links]
                subprocess.run(command, check=True)
    return path


def load() -> None:
    """For good: this process has a CUDA device."""
    ctypes.CDLL(str(built()), ctypes.RTLD_GLOBAL)
