"""What is there: a function for each field of Facts. It may raise whatever it likes; gather() makes a line of it."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from fastmix import system as systems
from fastmix.machine import apart
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

SECONDS = 90  # for one probe in its own process; importing torch from a cold network disk takes tens

# What any training imports, with the names of the distributions.
REQUIRED = {
    "numpy": "numpy",
    "PIL": "Pillow",
    "simplejpeg": "simplejpeg",
    "yaml": "PyYAML",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
    "timm": "timm",
}


def gather(
    here: dict[str, Callable] | None = None, elsewhere: dict[str, Callable] | None = None, seconds: int = SECONDS
) -> Facts:
    """Facts from the probes, by field: `here` are called in this process, `elsewhere` in another one (apart.call)."""
    found, failed = {}, {}
    for name, probe in (HERE if here is None else here).items():
        try:
            found[name] = probe()
        except Exception as error:
            failed[name] = apart.line(error)
    more, lost = apart.call(ELSEWHERE if elsewhere is None else elsewhere, seconds)
    return Facts(**found, **more, failed=failed | lost)


# ---- packages: in another process ----


def package(name: str, distribution: str = "") -> Package:
    """A module by importing it."""
    try:
        version = metadata.version(distribution or name)
    except metadata.PackageNotFoundError:
        version = "?"
    try:
        module = import_module(name)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            return Package()
        return Package(version, apart.line(error))
    return Package(str(getattr(module, "__version__", version)))


def torch() -> Torch:
    found = package("torch")
    if not found.works:
        return Torch(found.version, found.error)
    import torch

    warnings.simplefilter("ignore")  # an old driver is told by a warning
    seen = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return Torch(found.version, cuda=torch.version.cuda or "", nccl=nccl, gpus=tuple(map(_gpu, seen)))


def _gpu(k: int) -> Gpu:
    import torch

    of = torch.cuda.get_device_properties(k)
    bf16, error = False, ""
    try:
        with torch.cuda.device(k):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            assert torch.ones(3, device="cuda").sum().item() == 3
    except Exception as raised:
        error = apart.line(raised)
    return Gpu(of.name, of.total_memory, f"{of.major}.{of.minor}", bf16, error)


def driver() -> Driver:
    """By its library and by nvidia-smi, each of which may be missing."""
    version, cuda, names = "", "", ()
    try:
        number = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value:
            cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
    except OSError:
        pass
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS / 2)
        rows = [row.split(", ", 1) for row in told.stdout.splitlines() if ", " in row] if told.returncode == 0 else []
        version, names = rows[0][0] if rows else "", tuple(name for _, name in rows)
    return Driver(version, cuda, names)


def torchvision() -> Torchvision:
    from fastmix import compat

    found = package("torchvision")
    return Torchvision(found.version, found.error, found.works and hasattr(compat, "_library"))


def packages() -> dict[str, Package]:
    try:
        import fastmix.compat  # noqa: F401  timm imports torchvision
    except BaseException:
        pass
    return {distribution: package(name, distribution) for name, distribution in REQUIRED.items()}


def triton() -> Triton:
    found = package("triton")
    if not found.works:
        return Triton(found.version, found.error)
    try:
        return Triton(found.version, did=_small_kernel())
    except BaseException as error:
        return Triton(found.version, failure=apart.line(error))


def _small_kernel() -> str:
    """What the mix pass, which uses most of the language, does here: runs on the GPU, or is compiled for one."""
    import torch

    from fastmix.kernels import mix
    from fastmix.kernels.aot import compile_for

    if not torch.cuda.is_available():
        compile_for(mix.AOT[0], 90)
        return "compiles kernels for sm_90"
    images = torch.arange(2 * 16 * 16 * 3, dtype=torch.int32).view(2, 16, 16, 3).to(torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    if not torch.equal(mix.mix(images.cuda(), None, mean, std).cpu(), mix.reference(images, None, mean, std)):
        raise RuntimeError("what a kernel computes on the GPU is not what plain torch computes")
    return "runs kernels on the GPU"


def numba() -> Numba:
    found = package("numba")
    if not found.works:
        return Numba(found.version, found.error)
    from fastmix.kernels.compiled import compiled

    try:
        three = compiled()(_three)
        if three() != 3:
            raise RuntimeError("a compiled function returns something else than it says")
    except Exception as error:
        return Numba(found.version, failure=apart.line(error))
    return Numba(found.version, cache=three.stats.cache_path or "", temporary=getattr(three._cache, "temporary", False))


def _three():
    return 3


def turbojpeg() -> str:
    from fastmix.pipelines.jpeg.turbo import library

    found = library()
    return "" if found is None else str(found._name)


def apex() -> Apex:
    """Looked at before it is imported: what lies on PyPI under this name does not import."""
    spec = find_spec("apex")
    if spec is None:
        return Apex()
    if not any(
        Path(folder, "optimizers", "fused_sgd.py").is_file() for folder in spec.submodule_search_locations or ()
    ):
        return Apex("other")
    found = package("apex.optimizers", "apex")
    if not found.works:
        return Apex("broken", found.error)
    return Apex("nvidia" if find_spec("amp_C") else "plain")


def dali() -> Package:
    return package("nvidia.dali")


def ffcv() -> Package:
    return package("ffcv")


# ---- the machine: in this process ----


def system() -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"


def compiler() -> Compiler:
    def first(variable: str, *names: str) -> str:
        chosen = os.environ.get(variable)
        return next(filter(None, map(shutil.which, (chosen,) if chosen else names)), "")

    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return Compiler(first("CC", "gcc", "clang"), first("CXX", "g++", "clang++"), headers)


def cpu_bf16() -> bool:
    """As engine/task.py looks for it."""
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and bool({"avx512_bf16", "amx_bf16"} & set(flags.read_text().split()))


def cores() -> Cores:
    spins = hasattr(os, "getloadavg") and os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive"
    return Cores(os.cpu_count() or 1, systems.cores(), cgroup_quota(), os.getloadavg()[0] if spins else None)


def memory(root: Path = Path("/")) -> Memory:
    kilobytes = dict(row.split(":", 1) for row in (root / "proc/meminfo").read_text().splitlines())["MemTotal"]
    return Memory(int(kilobytes.split()[0]) << 10, cgroup_memory(root))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of processor time that the process's cgroups of version 1 and 2 grant, or None for no limit."""
    granted = []
    for folder in _cgroups(root, "cpu"):
        quota, period = (_words(folder, "cpu.max") + ["", ""])[:2]
        if not quota:
            quota, period = ((_words(folder, name) or [""])[0] for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal():  # not "max", not "-1"
            granted.append(int(quota) / int(period))
    return min(granted, default=None)


def cgroup_memory(root: Path = Path("/")) -> int | None:
    """Bytes that the process's cgroups of version 1 and 2 allow, or None for no limit."""
    words = [w for f in _cgroups(root, "memory") for n in ("memory.max", "memory.limit_in_bytes") for w in _words(f, n)]
    return min((int(word) for word in words if word.isdecimal() and int(word) < 1 << 60), default=None)


def _cgroups(root: Path, controller: str) -> list[Path]:
    """The folders of the process's cgroup and of all above it. In a container its own is mounted as the uppermost."""
    file, mounts, found = root / "proc/self/cgroup", root / "sys/fs/cgroup", []
    for row in file.read_text().splitlines() if file.is_file() else ():
        _, controllers, path = row.split(":", 2)
        names = [mounts, mounts / "unified"] if not controllers else [mounts / controllers, mounts / controller]
        if controllers and controller not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        found += [name.joinpath(*parts[:depth]) for name in names for depth in range(len(parts) + 1)]
    return found


def _words(folder: Path, name: str) -> list[str]:
    try:
        return (folder / name).read_text().split()
    except OSError:
        return []


def shm() -> int:
    of = os.statvfs("/dev/shm")
    return of.f_blocks * of.f_frsize


def open_files() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def place(path: Path) -> Place:
    """The folder, or the nearest above it that exists. Writing is tried, as a disk may be mounted read-only."""
    above = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
    try:
        with tempfile.TemporaryFile(dir=above):
            writable = True
    except OSError:
        writable = False
    return Place(str(path), shutil.disk_usage(above).free, writable)


def runs() -> Place:
    return place(Path("runs"))


def cache() -> Place:
    from fastmix.pipelines.sources.cache import folder

    return place(folder())


HERE = {probe.__name__: probe for probe in (system, compiler, cpu_bf16, cores, memory, shm, open_files, runs, cache)}
ELSEWHERE = {
    probe.__name__: probe
    for probe in (torch, driver, torchvision, packages, triton, numba, turbojpeg, apex, dali, ffcv)
}
