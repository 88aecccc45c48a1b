"""Probes that go wrong, to be called in a process of their own, and a machine on which nothing does."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace

from fastmix.machine.facts import (
    Apex,
    Compiler,
    Cores,
    Driver,
    Facts,
    Gpu,
    Memory,
    Numba,
    Package,
    Place,
    Torch,
    Torchvision,
    Triton,
)

GIB = 1 << 30
A100 = Gpu("NVIDIA A100-SXM4-80GB", 80 * GIB, "8.0", True)
T4 = Gpu("Tesla T4", 15 * GIB, "7.5", False)
PACKAGES = {name: Package("1.0") for name in ("numpy", "Pillow", "simplejpeg", "timm")}

CPU = Facts(
    system="Python 3.11.7, Linux",
    torch=Torch("2.13.0+cpu"),
    driver=Driver(),
    torchvision=Torchvision("0.28.0+cpu"),
    packages=PACKAGES,
    triton=Triton("3.7.1", did="compiles kernels for sm_90"),
    numba=Numba("0.68.1", cache="/home/me/fastmix/__pycache__"),
    turbojpeg="libturbojpeg.so",
    apex=Apex(),
    dali=Package(),
    ffcv=Package(),
    compiler=Compiler("/usr/bin/gcc", "/usr/bin/g++", True),
    cpu_bf16=False,
    cores=Cores(16, 16),
    memory=Memory(64 * GIB),
    shm=32 * GIB,
    open_files=(1024, 1 << 20),
    runs=Place("runs", 500 * GIB, True),
    cache=Place("/home/me/.cache/fastmix", 500 * GIB, True),
)
GPU = replace(
    CPU,
    torch=Torch("2.13.0+cu130", cuda="13.0", nccl=True, gpus=(A100,)),
    driver=Driver("580.65.06", "13.0", (A100.name,)),
    triton=Triton("3.7.1", did="runs kernels on the GPU"),
)


def fine():
    return Package("1.0")


def raises():
    raise ImportError("libsomething.so.3:\n  cannot open shared object file")


def leaves():
    sys.exit("not on this machine")


def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)


def ends():
    os._exit(3)


def hangs():
    time.sleep(60)


def prints():
    os.write(1, b"no answer of ours")
    print("nor this", flush=True)
    return 7
