"""Machines told by made-up facts, each with what must be said of it; probes that go wrong; this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fastmix import doctor
from fastmix.machine import apart, probes
from fastmix.machine.facts import (
    Apex,
    Compiler,
    Cores,
    Driver,
    Facts,
    Memory,
    Numba,
    Package,
    Place,
    Torchvision,
    Triton,
)
from fastmix.machine.findings import TORCH
from helpers import ROOT, probing
from helpers.probing import A100, CPU, GIB, GPU, PACKAGES, T4

MIB = 1 << 20


def torch(machine: Facts, **changed) -> Facts:
    return replace(machine, torch=replace(machine.torch, **changed))


def without(machine: Facts, package: str) -> Facts:
    return replace(machine, packages={**machine.packages, package: Package()})


OLD_DRIVER = replace(torch(GPU, gpus=()), driver=Driver("550.54.15", "12.4", (A100.name,)))
NO_COMPILER = replace(GPU, compiler=Compiler("", "", True))
TRITON_OLD = replace(torch(GPU, version="2.8.0"), triton=Triton("3.2.0", failure="CompilationError: at 69:11"))

MACHINES = {  # facts; part, level, some of its text, some of its command; exit code
    "no GPU": (CPU, "GPU", "missing", "training runs on the CPU", "", 0),
    "nvidia-smi hangs": (
        replace(CPU, driver=None, failed={"driver": "took longer than 90 s"}),
        *("driver", "warning", "not found out: took longer than 90 s", "", 0),
    ),
    "a GPU": (GPU, "GPU", "ok", "A100-SXM4-80GB, 80.0 GiB, sm_80; driver 580.65.06, CUDA 13.0", "", 0),
    "old driver": (OLD_DRIVER, "GPU", "warning", "too old for a torch of CUDA 13.0: training runs on", "whl/cu126", 0),
    "driver of CUDA 11": (
        replace(OLD_DRIVER, driver=Driver("470.57.02", "11.4", (A100.name,))),
        *("GPU", "warning", "driver 470.57.02, CUDA 11.4, is too old", "update the NVIDIA driver", 0),
    ),
    "older CUDA of the same major": (
        replace(torch(GPU, cuda="12.8"), driver=Driver("535.1", "12.2", (A100.name,))),
        *("GPU", "ok", "driver 535.1, CUDA 12.2", "", 0),
    ),
    "GPU hidden": (torch(GPU, gpus=()), "GPU", "warning", "torch sees none", "CUDA_VISIBLE_DEVICES", 0),
    "CPU torch beside a GPU": (
        replace(CPU, driver=GPU.driver),
        *("GPU", "warning", "torch is a CPU build: training runs on the CPU", "pip install --force-reinstall torch", 0),
    ),
    "GPU without code for it": (
        torch(GPU, gpus=(A100, replace(T4, error="AcceleratorError: CUDA error: no kernel image"))),
        *("GPU", "error", "GPU 1 (Tesla T4, sm_75) does not compute: AcceleratorError", "pip install", 1),
    ),
    "CPU torch beside CUDA torchvision": (
        replace(CPU, torchvision=Torchvision("0.28.0+cu130", mended=True)),
        *("torchvision", "ok", "fastmix.compat lets it import", "", 0),
    ),
    "broken torchvision": (
        replace(CPU, torchvision=Torchvision("0.20.0", "RuntimeError: operator torchvision::nms does not exist")),
        *("torchvision", "error", "0.20.0 cannot be imported: RuntimeError: operator", "--no-deps torchvision", 1),
    ),
    "apex of PyPI": (
        replace(GPU, apex=Apex("other")),
        *("apex", "warning", "another project than NVIDIA's", "pip uninstall apex; APEX_CPP_EXT=1", 0),
    ),
    "apex of PyPI, no GPU": (replace(CPU, apex=Apex("other")), "apex", "warning", "not used", "pip uninstall apex", 0),
    "apex without its extensions": (
        replace(GPU, apex=Apex("plain")),
        *("apex", "error", "optim.fused=torch declines it", "APEX_CUDA_EXT=1", 1),
    ),
    "NVIDIA's apex": (replace(GPU, apex=Apex("nvidia")), "apex", "ok", "NVIDIA's", "", 0),
    "no apex": (GPU, "apex", "missing", "torch's fused optimisers are used", "github.com/NVIDIA/apex", 0),
    "no C compiler": (
        replace(NO_COMPILER, triton=Triton("3.7.1", failure="RuntimeError: Failed to find C compiler.")),
        *("Triton", "error", "Failed to find C compiler", "apt-get install gcc g++ python3-dev", 1),
    ),
    "no C compiler, kernels kept": (
        NO_COMPILER,
        *("compilers", "warning", "not a C compiler nor a C++ compiler: Triton launches only kernels", "apt-get", 0),
    ),
    "no C compiler, no GPU": (
        replace(CPU, compiler=Compiler("", "", False)),
        *("compilers", "missing", "nor Python.h", "apt-get install gcc g++ python3-dev", 0),
    ),
    "nowhere to keep compiled code": (
        replace(CPU, numba=Numba("0.68.1")),
        *("numba", "warning", "compiled code nowhere: it compiles anew each time", "export NUMBA_CACHE_DIR=", 0),
    ),
    "compiled code in a temporary folder": (
        replace(CPU, numba=Numba("0.68.1", cache="/tmp/fastmix", temporary=True)),
        *("numba", "warning", "in /tmp/fastmix, a temporary folder", "export NUMBA_CACHE_DIR=", 0),
    ),
    "read-only home": (
        replace(CPU, cache=Place("/home/me/.cache/fastmix", GIB, False)),
        *("cache", "warning", "/home/me/.cache/fastmix cannot be written", "export FASTMIX_CACHE=FOLDER", 0),
    ),
    "read-only folder": (
        replace(CPU, runs=Place("runs", 9 * GIB, False)),
        *("runs", "warning", "no place for checkpoints", "out=FOLDER", 0),
    ),
    "/dev/shm of 64 MiB": (
        replace(CPU, shm=64 * MIB),
        *("/dev/shm", "missing", "64 MiB: enough for training", "--shm-size=8g", 0),
    ),
    "/dev/shm of 64 MiB, several GPUs": (
        replace(torch(GPU, gpus=(A100, A100)), shm=64 * MIB),
        *("/dev/shm", "warning", "64 MiB: little for NCCL", "--shm-size=8g", 0),
    ),
    "/dev/shm of 1 GiB, several GPUs": (
        replace(torch(GPU, gpus=(A100, A100)), shm=GIB),
        *("/dev/shm", "missing", "1.0 GiB: enough for training", "--shm-size=8g", 0),
    ),
    "24 open files": (
        replace(CPU, open_files=(24, 65536)),
        "open files",
        "warning",
        "up to 24: few",
        "ulimit -n 4096",
        0,
    ),
    "24 open files, no more allowed": (
        replace(CPU, open_files=(24, 24)),
        *("open files", "warning", "up to 24: few", "--ulimit nofile=4096", 0),
    ),
    "no torch": (torch(CPU, version=""), "torch", "error", "not installed", 'pip install "torch>=2.8" torchvision', 1),
    "torch crashes": (
        replace(CPU, torch=None, failed={"torch": "crashed with SIGSEGV"}),
        *("torch", "error", "trying it failed: crashed with SIGSEGV", "pip install", 1),
    ),
    "torch 2.6": (torch(CPU, version="2.6.0+cu124"), "torch", "error", "2.6.0+cu124 is too old", "torch>=2.8", 1),
    "torch 2.10": (torch(CPU, version="2.10.1"), "torch", "ok", "2.10.1, a CPU build", "", 0),
    "Triton 3.2": (TRITON_OLD, "Triton", "error", "3.2.0 cannot compile fastmix's kernels: 3.4", "triton>=3.4", 1),
    "Triton 3.2, no GPU": (replace(TRITON_OLD, torch=CPU.torch), "Triton", "warning", "3.2.0 cannot", "triton>=3.4", 0),
    "no Triton": (
        replace(GPU, triton=Triton()),
        "Triton",
        "error",
        "no kernel runs on the GPU",
        "pip install triton",
        1,
    ),
    "no Triton, no GPU": (replace(CPU, triton=Triton()), "Triton", "missing", "needs none", "pip install triton", 0),
    "Triton hangs": (
        replace(GPU, triton=None, failed={"triton": "took longer than 90 s"}),
        *("Triton", "error", "took longer than 90 s", "", 1),
    ),
    "no simplejpeg": (without(CPU, "simplejpeg"), "simplejpeg", "error", "not installed", "pip install simplejpeg", 1),
    "no numba": (replace(CPU, numba=Numba()), "numba", "error", "not installed", "pip install numba", 1),
    "no turbojpeg": (replace(CPU, turbojpeg=""), "turbojpeg", "missing", "decoded whole", "pip install turbojpeg", 0),
    "half a core of 64": (
        replace(CPU, cores=Cores(64, 64, 0.5)),
        *("cores", "warning", "grants 0.5 of 64", "OMP_NUM_THREADS=1 python -m fastmix.train CONFIG data.workers=1", 0),
    ),
    "cores that others use": (
        replace(CPU, cores=Cores(2, 2, busy=3.0)),
        *("cores", "warning", "2, and 3.0 processes want them", "OMP_WAIT_POLICY=passive python -m", 0),
    ),
    "a few of many cores that others use": (replace(CPU, cores=Cores(64, 64, busy=3.0)), "cores", "ok", "64", "", 0),
    "a quota above the cores": (replace(CPU, cores=Cores(64, 4, 8.0)), "cores", "ok", "4 of 64", "", 0),
    "1 GiB of 64": (
        replace(CPU, memory=Memory(64 * GIB, GIB)),
        *("memory", "warning", "1.0 GiB by the cgroup, of 64.0 GiB: little", "", 0),
    ),
    "little disk": (
        replace(CPU, runs=Place("runs", 300 * MIB, True)),
        *("runs", "warning", "300 MiB free: little for checkpoints", "out=FOLDER", 0),
    ),
    "GPU without bf16": (
        torch(GPU, gpus=(T4,)),
        *("bf16", "missing", "Tesla T4 (sm_75) does not compute in it: precision=auto trains in fp16", "", 0),
    ),
    "several GPUs without NCCL": (
        torch(GPU, gpus=(A100,) * 4, nccl=False),
        *("NCCL", "warning", "one GPU of 4", "pip install --force-reinstall torch torchvision", 0),
    ),
    "several GPUs": (torch(GPU, gpus=(A100,) * 4), "GPU", "ok", "4 x NVIDIA A100", "", 0),
    "no DALI": (CPU, "DALI", "missing", "not installed", "nvidia-dali-cuda130", 0),
    "no DALI, CUDA 12": (OLD_DRIVER, "DALI", "missing", "not installed", "nvidia-dali-cuda120", 0),
    "no ffcv": (CPU, "ffcv", "missing", "not installed", "pip install ffcv==1.0.2", 0),
    "ffcv without its libraries": (
        replace(CPU, ffcv=Package("1.0.2", "ImportError: libturbojpeg.so.0: cannot open shared object file")),
        *("ffcv", "warning", "1.0.2 cannot be imported: ImportError: libturbojpeg.so.0", "system libraries", 0),
    ),
    "a probe that fails": (
        replace(CPU, shm=None, failed={"shm": "FileNotFoundError: /dev/shm"}),
        *("shm", "warning", "not found out: FileNotFoundError", "", 0),
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_said_of_a_machine(name, monkeypatch, capsys):
    facts, part, level, text, command, code = MACHINES[name]
    monkeypatch.setattr(probes, "gather", lambda: facts)
    assert doctor.main(["--json"]) == code
    told = json.loads(capsys.readouterr().out)
    (found,) = [finding for finding in told["findings"] if finding["part"] == part]
    assert (found["level"], told["can_train"]) == (level, code == 0)
    assert text in found["text"]
    assert command in found["command"] and bool(command) == bool(found["command"])
    assert doctor.main([]) == code
    screen(capsys.readouterr().out, code)


def screen(text: str, code: int) -> list[str]:
    """The lines of a screen that a terminal can hold, with the verdict at its end."""
    lines = text.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 120
    assert lines[-1].startswith("Training cannot run here: " if code else "Training can run here, on ")
    return lines


def test_a_missing_part_never_stops_a_run_and_all_at_once_fit_the_screen(capsys, monkeypatch):
    bare = replace(CPU, turbojpeg="", triton=Triton(), compiler=Compiler(), cores=Cores(64, 32, 0.5), shm=MIB)
    long = Package("1.0", "ImportError: " + "of many words " * 14)
    bare = replace(bare, apex=Apex("broken", long.error), dali=long, ffcv=long, memory=Memory(GIB), open_files=(24, 24))
    place = Place("/a/folder" * 20, 0, True)
    monkeypatch.setattr(probes, "gather", lambda: replace(bare, runs=place, cache=place))
    assert doctor.main([]) == 0
    screen(capsys.readouterr().out, 0)


def test_one_cause_is_one_line(monkeypatch, capsys):
    """Where torch is missing, nothing that rests on it is blamed."""
    no = "ModuleNotFoundError: No module named 'torch'"
    packages = {**PACKAGES, "timm": Package("1.0", no)}
    failed = {name: no for name in ("torchvision", "turbojpeg")}
    facts = replace(torch(CPU, version=""), torchvision=None, turbojpeg=None, packages=packages, failed=failed)
    monkeypatch.setattr(probes, "gather", lambda: replace(facts, triton=Triton("3.7.1", no), ffcv=Package("1.0", no)))
    assert doctor.main([]) == 1
    lines = screen(capsys.readouterr().out, 1)
    assert [line.split()[:2] for line in lines if line.startswith(("error", "warning"))] == [["error", "torch"]]
    assert no not in "".join(lines)


def test_the_oldest_torch_is_that_of_the_package():
    assert re.search(r'"torch>=([\d.]+)"', (ROOT / "setup.py").read_text())[1] == TORCH


# ---- probes ----


@pytest.mark.long
def test_functions_that_go_wrong_in_a_process_of_their_own():
    functions = ("fine", "raises", "leaves", "crashes", "prints", "ends", "hangs", "fine")
    asked = {f"{k} {name}": getattr(probing, name) for k, name in enumerate(functions)}
    values, failed = apart.call(asked, 5)
    assert values == {"0 fine": Package("1.0"), "4 prints": 7, "7 fine": Package("1.0")}
    assert failed == {
        "1 raises": "ImportError: libsomething.so.3: cannot open shared object file",
        "2 leaves": "SystemExit: not on this machine",
        "3 crashes": "crashed with SIGSEGV",
        "5 ends": "ended Python with exit code 3",
        "6 hangs": "took longer than 5 s",
    }


def test_gather_makes_facts_of_what_the_probes_find():
    here = {"shm": lambda: 64 * MIB, "cores": probing.raises}
    facts = probes.gather(here, {"ffcv": probing.fine, "torch": probing.crashes}, 10)
    assert (facts.shm, facts.ffcv, facts.torch, facts.cores) == (64 * MIB, Package("1.0"), None, None)
    assert sorted(facts.failed) == ["cores", "torch"] and facts.failed["torch"] == "crashed with SIGSEGV"


def test_every_fact_has_a_probe():
    assert {*probes.HERE, *probes.ELSEWHERE} == set(Facts.__dataclass_fields__) - {"failed"}


def test_packages_that_are_absent_broken_or_in_need_of_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {"odd_raises": "raise SystemExit('no')", "odd_needs": "import odd_gone", "odd_fine": ""}.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert probes.package("odd_gone") == probes.package("odd_gone.inner") == Package()
    assert probes.package("odd_raises") == Package("?", "SystemExit: no")
    assert probes.package("odd_needs") == Package("?", "ModuleNotFoundError: No module named 'odd_gone'")
    assert probes.package("odd_fine") == Package("?")


@pytest.mark.parametrize("kind", ["", "other", "plain", "nvidia", "broken"])
def test_which_apex_it_is(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "amp_C")]:
        monkeypatch.delitem(sys.modules, name)
    if kind:
        (tmp_path / "apex").mkdir()
        (tmp_path / "apex/__init__.py").write_text("import pyramid_of_old" if kind == "other" else "")
    if kind in ("plain", "nvidia", "broken"):
        (tmp_path / "apex/optimizers").mkdir()
        (tmp_path / "apex/optimizers/fused_sgd.py").write_text("class FusedSGD: pass")
        text = "raise OSError('libcudart.so.12')" if kind == "broken" else "from .fused_sgd import FusedSGD"
        (tmp_path / "apex/optimizers/__init__.py").write_text(text)
    if kind == "nvidia":
        (tmp_path / "amp_C.py").write_text("")
    found = probes.apex()
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]
    assert found == Apex(kind, "OSError: libcudart.so.12" if kind == "broken" else "")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_limits_of_cgroups_of_version_2(tmp_path):
    """The least of the process's own group and those above it."""
    cgroup, mine = "sys/fs/cgroup", "sys/fs/cgroup/user.slice/job"
    root = write(tmp_path, {"proc/self/cgroup": "0::/user.slice/job", f"{mine}/cpu.max": "max 100000"})
    write(root, {f"{mine}/memory.max": "max", "proc/meminfo": "MemTotal:       67108864 kB\nMemFree: 1 kB"})
    assert probes.cgroup_quota(root) is None and probes.memory(root) == Memory(64 * GIB)
    write(root, {f"{cgroup}/user.slice/cpu.max": "50000 100000", f"{mine}/cpu.max": "400000 100000"})
    write(root, {f"{mine}/memory.max": str(2 * GIB), f"{cgroup}/user.slice/memory.max": str(4 * GIB)})
    assert probes.cgroup_quota(root) == 0.5 and probes.memory(root) == Memory(64 * GIB, 2 * GIB)


def test_limits_of_cgroups_of_version_1(tmp_path):
    """Also in a container, where the process's path is the host's, and what is mounted is its own group."""
    table = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n0::/docker/abc"
    cpu, memory = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory"
    root = write(tmp_path, {"proc/self/cgroup": table, f"{memory}/memory.limit_in_bytes": "9223372036854771712"})
    write(root, {f"{cpu}/cpu.cfs_quota_us": "-1", f"{cpu}/cpu.cfs_period_us": "100000"})
    assert probes.cgroup_quota(root) is None and probes.cgroup_memory(root) is None
    write(root, {f"{cpu}/cpu.cfs_quota_us": "250000", f"{memory}/memory.limit_in_bytes": str(GIB)})
    assert probes.cgroup_quota(root) == 2.5 and probes.cgroup_memory(root) == GIB


def test_no_cgroups(tmp_path):
    assert probes.cgroup_quota(tmp_path) is None and probes.cgroup_memory(tmp_path) is None


def test_a_place_that_need_not_exist(tmp_path):
    found = probes.place(tmp_path / "a/b")
    assert found.writable and found.free > 0 and list(tmp_path.iterdir()) == []
    assert not probes.place(Path("/proc/self/runs")).writable


# ---- this machine ----


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([*filter(None, [environment.pop("first", "")]), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run([sys.executable, "-m", "fastmix.doctor", *words], env=env, capture_output=True, text=True)


@pytest.mark.long
def test_this_machine_runs_these_tests():
    """So training can run on it, whatever else it has."""
    done = run("--json")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr, told["can_train"]) == (0, "", True)
    import torch as real

    assert told["facts"]["torch"]["version"] == real.__version__ and told["facts"]["failed"] == {}
    assert len(told["facts"]["torch"]["gpus"]) == real.cuda.device_count()
    assert told["facts"]["numba"]["failure"] == told["facts"]["triton"]["failure"] == ""


def test_a_torch_that_raises_is_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("""
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise OSError("libtorch_cpu.so: undefined symbol")
sys.meta_path.insert(0, Broken())
""")
    done = run(first=str(tmp_path))
    lines = screen(done.stdout, 1)
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = [line for line in lines if line.startswith("error")]
    assert re.fullmatch(r"error    torch +\S+ cannot be imported: OSError: libtorch_cpu.so: undefined symbol", line)
    assert "Traceback" not in done.stdout
