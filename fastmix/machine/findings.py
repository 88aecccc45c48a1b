"""What follows from Facts for training: a list of findings, in the order of the screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastmix.machine.facts import Facts, Gpu, Package, Place

OK, MISSING, WARNING, ERROR = LEVELS = ("ok", "missing", "warning", "error")

TORCH = "2.8"  # at least, as setup.py says it
TRITON = "3.4"  # comes with it
MIB, GIB = 1 << 20, 1 << 30
NCCL_SHM = GIB  # what NVIDIA's documentation gives its containers
WORKERS_SHM = 8 * GIB  # a few float32 batches for each process of torch's DataLoader
LITTLE_DISK = 5 * GIB  # for last.pt, best.pt, one of them written anew, and the weights, of a large network
LITTLE_MEMORY = 4 * GIB
FEW_FILES = 256
BUSY = 0.5  # processes for each core, from which on threads are kept waiting by others

INSTALL_GPU = {  # a torch for a driver, by the driver's major version of CUDA
    12: "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cu126",
    13: "pip install --force-reinstall torch torchvision",
}
UPDATE_DRIVER = "update the NVIDIA driver: https://www.nvidia.com/drivers"
INSTALL_COMPILER = "apt-get install gcc g++ python3-dev"
INSTALL_APEX = "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install --no-build-isolation git+https://github.com/NVIDIA/apex"


@dataclass(frozen=True)
class Finding:
    """level: error where training cannot start, warning where something goes worse than it looks, missing where a
    part could be had. text: what is; gives: what the part would give; command: how to get it, where there is one."""

    level: str
    part: str
    text: str
    gives: str = ""
    command: str = ""


def findings(facts: Facts) -> list[Finding]:
    """All that is to be said. What rests on a part that does not work is left out: one cause is one line."""
    groups = [_torch(facts)]
    usable = groups[0][0].level == OK
    if usable:
        groups += [_gpus(facts), _bf16(facts), _triton(facts), _nccl(facts), _torchvision(facts)]
    groups += [_packages(facts, usable), _numba(facts), _turbojpeg(facts, usable)]
    if usable:
        groups += [_apex(facts), _dali(facts), _ffcv(facts)]
    groups += [_compiler(facts), _cores(facts), _memory(facts), _shm(facts), _open_files(facts)]
    groups += [_place(facts.runs, "runs", "checkpoints and weights", "out=FOLDER")]
    groups += [_place(facts.cache, "cache", "what comes from a URL or shapes:", "export FASTMIX_CACHE=FOLDER")]
    told = {"torch", "torchvision", "packages", "triton", "numba"}
    told |= set() if usable else {"apex", "dali", "ffcv", "turbojpeg"}
    lost = [(name, why) for name, why in facts.failed.items() if name not in told]
    groups += [[Finding(WARNING, name, f"not found out: {why}")] for name, why in lost]
    return [finding for group in groups for finding in group]


def can_train(found: list[Finding]) -> bool:
    return all(finding.level != ERROR for finding in found)


# ---- torch and GPUs ----


def _torch(facts: Facts) -> list[Finding]:
    torch, command = facts.torch, f'pip install "torch>={TORCH}" torchvision'
    if torch is None:
        return [_lost(facts, "torch", ERROR, command)]
    if not torch.works:
        return [_broken("torch", torch, command)]
    if _number(torch.version) < _number(TORCH):
        text = f"{torch.version} is too old, fastmix needs {TORCH}: Triton before {TRITON} cannot compile its kernels"
        return [Finding(ERROR, "torch", text, command=command)]
    return [Finding(OK, "torch", f"{torch.version}, {f'built for CUDA {torch.cuda}' if torch.cuda else 'a CPU build'}")]


def _gpus(facts: Facts) -> list[Finding]:
    torch, driver = facts.torch, facts.driver
    version = f"driver {driver.version or '?'}, CUDA {driver.cuda or '?'}" if driver else "driver unknown"
    if torch.gpus:
        bad = [(k, gpu) for k, gpu in enumerate(torch.gpus) if gpu.error]
        if not bad:
            return [Finding(OK, "GPU", f"{', '.join(_alike(torch.gpus))}; {version}")]
        again = INSTALL_GPU.get(_major(driver.cuda) if driver else 0, "")
        told = "GPU {} ({}, {}) does not compute: {}; device=cpu trains without it"
        return [Finding(ERROR, "GPU", told.format(k, g.name, _sm(g), g.error), command=again) for k, g in bad]
    if driver is None or not (driver.cuda or driver.gpus):
        why = "torch sees none" if driver is None else "no NVIDIA driver here"
        return [Finding(MISSING, "GPU", f"{why}: training runs on the CPU")]
    names = ", ".join(driver.gpus) or "a GPU"
    command = INSTALL_GPU.get(min(_major(driver.cuda), 13), UPDATE_DRIVER)
    if not torch.cuda:
        text = f"{names} ({version}), but torch is a CPU build: training runs on the CPU"
    elif driver.cuda and _major(driver.cuda) < _major(torch.cuda):
        text = f"{names}: the {version}, is too old for a torch of CUDA {torch.cuda}: training runs on the CPU"
    else:
        text = f"{names} ({version}), but torch sees none: training runs on the CPU"
        command = "nvidia-smi; echo $CUDA_VISIBLE_DEVICES"
    return [Finding(WARNING, "GPU", text, "training on the GPU", command)]


def _bf16(facts: Facts) -> list[Finding]:
    gpus = facts.torch.gpus
    if gpus:
        without = [gpu for gpu in gpus if not gpu.bf16]
        if not without:
            return [Finding(OK, "bf16", "the GPU computes in it: precision=auto trains in bf16")]
        told = ", ".join(sorted({f"{gpu.name} ({_sm(gpu)})" for gpu in without}))
        return [Finding(MISSING, "bf16", f"{told} does not compute in it: precision=auto trains in fp16, loss scaled")]
    if facts.cpu_bf16:
        return [Finding(OK, "bf16", "the processor computes in it: precision=auto trains in bf16")]
    return [Finding(MISSING, "bf16", "the processor does not compute in it: precision=auto trains in fp32")]


def _triton(facts: Facts) -> list[Finding]:
    triton, gpu = facts.triton, bool(facts.torch.gpus)
    worse, gives = (ERROR if gpu else WARNING), "" if gpu else "the kernels' tests and `bench roofline`"
    if triton is None:
        return [_lost(facts, "Triton", worse)]
    if not triton.version:
        text = "not installed: no kernel runs on the GPU" if gpu else "not installed; training on a CPU needs none"
        return [Finding(ERROR if gpu else MISSING, "Triton", text, gives, "pip install triton")]
    if triton.error:
        return [Finding(worse, "Triton", f"{triton.version} cannot be imported: {triton.error}", gives)]
    if _number(triton.version) < _number(TRITON):
        text = f"{triton.version} cannot compile fastmix's kernels: {TRITON} can, which comes with torch {TORCH}"
        return [Finding(worse, "Triton", text, gives, f'pip install "torch>={TORCH}" torchvision "triton>={TRITON}"')]
    if triton.failure:
        command = INSTALL_COMPILER if facts.compiler and not (facts.compiler.c and facts.compiler.headers) else ""
        return [Finding(worse, "Triton", f"{triton.version} does not compile: {triton.failure}", gives, command)]
    return [Finding(OK, "Triton", f"{triton.version} {triton.did}")]


def _nccl(facts: Facts) -> list[Finding]:
    n = len(facts.torch.gpus)
    if n < 2:
        return []
    if facts.torch.nccl:
        return [Finding(OK, "NCCL", f"there: torchrun --nproc_per_node={n} -m fastmix.train ... uses all GPUs")]
    text = f"this torch has none: a run uses one GPU of {n}, torchrun cannot start"
    return [
        Finding(WARNING, "NCCL", text, "runs on all GPUs", INSTALL_GPU[13 if _major(facts.torch.cuda) > 12 else 12])
    ]


def _apex(facts: Facts) -> list[Finding]:
    apex, gpu = facts.apex, bool(facts.torch.gpus)
    if apex is None:
        return []
    if apex.kind == "nvidia":
        return [Finding(OK, "apex", "NVIDIA's, with fused optimisers")]
    level, command = WARNING, INSTALL_APEX if gpu else ""
    if apex.kind == "other":
        text = "the package of PyPI, which is another project than NVIDIA's and is not used"
        command = f"pip uninstall apex{'; ' * gpu}{command}"
    elif apex.kind == "plain":
        text = "NVIDIA's without its CUDA extensions, whose optimisers refuse; optim.fused=torch declines it"
        level = ERROR if gpu else WARNING
    elif apex.kind == "broken":
        text = f"NVIDIA's cannot be imported: {apex.error}; optim.fused=torch declines it"
    else:
        level = MISSING
        text = "not installed: torch's fused optimisers are used" if gpu else "not installed; of use on a GPU alone"
    return [Finding(level, "apex", text, "fused SGD, AdamW and LAMB" if gpu else "", command)]


# ---- packages ----


def _torchvision(facts: Facts) -> list[Finding]:
    vision, command = facts.torchvision, "pip install --force-reinstall --no-deps torchvision"
    if vision is None:
        return [_lost(facts, "torchvision", ERROR, command)]
    if not vision.works:
        return [_broken("torchvision", vision, command)]
    beside = ", not built for this torch, which has no CUDA: fastmix.compat lets it import" if vision.mended else ""
    return [Finding(OK, "torchvision", f"{vision.version}{beside}")]


def _packages(facts: Facts, torch: bool) -> list[Finding]:
    if facts.packages is None:
        return [_lost(facts, "packages", ERROR)]
    vision = facts.torchvision is not None and facts.torchvision.works
    judged = {name: found for name, found in facts.packages.items() if name != "timm" or torch and vision}
    bad = [_broken(name, found, f"pip install {name}") for name, found in judged.items() if not found.works]
    fine = ", ".join(f"{name} {found.version}" for name, found in judged.items() if found.works)
    return bad + [Finding(OK, "packages", fine)] * bool(fine)


def _numba(facts: Facts) -> list[Finding]:
    numba = facts.numba
    if numba is None:
        return [_lost(facts, "numba", ERROR, "pip install numba")]
    if not numba.works:
        return [_broken("numba", numba, "pip install numba")]
    if numba.failure:
        return [Finding(ERROR, "numba", f"{numba.version} does not compile: {numba.failure}")]
    if numba.temporary or not numba.cache:
        where = f"in {numba.cache}, a temporary folder" if numba.cache else "nowhere: it compiles anew each time"
        text = f"{numba.version} has no folder of its own that can be written and keeps compiled code {where}"
        return [Finding(WARNING, "numba", text, command="export NUMBA_CACHE_DIR=FOLDER")]
    return [Finding(OK, "numba", f"{numba.version}, keeps compiled code in {numba.cache}")]


def _turbojpeg(facts: Facts, torch: bool) -> list[Finding]:
    rests = (facts.numba, (facts.packages or {}).get("simplejpeg"), (facts.packages or {}).get("numpy"))
    if facts.turbojpeg is None or not torch or not all(part is not None and part.works for part in rests):
        return []
    if facts.turbojpeg:
        return [Finding(OK, "turbojpeg", "TurboJPEG 3: of a JPEG only what a crop needs is decoded")]
    text = "no TurboJPEG 3: every JPEG is decoded whole"
    return [Finding(MISSING, "turbojpeg", text, "less decoding, the same pixels", "pip install turbojpeg")]


def _dali(facts: Facts) -> list[Finding]:
    cuda = _major(facts.driver.cuda) if facts.driver else 0
    command = f'pip install "nvidia-dali-cuda1{"2" if cuda == 12 else "3"}0>=2"'
    return _loader("DALI", facts.dali, "loader dali, which decodes on the GPU too", command)


def _ffcv(facts: Facts) -> list[Finding]:
    command = "pip install ffcv==1.0.2   (system libraries first: docs/install.md)"
    return _loader("ffcv", facts.ffcv, "loader ffcv; .beton files are read without it", command)


def _loader(name: str, package: Package | None, gives: str, command: str) -> list[Finding]:
    if package is None:
        return []
    if package.error:
        return [Finding(WARNING, name, f"{package.version} cannot be imported: {package.error}", gives, command)]
    if not package.version:
        return [Finding(MISSING, name, "not installed", gives, command)]
    return [Finding(OK, name, f"{package.version}: the {gives.split(';')[0]}")]


def _compiler(facts: Facts) -> list[Finding]:
    tools = facts.compiler
    if tools is None:
        return []
    parts = {"a C compiler": tools.c, "a C++ compiler": tools.cpp, "Python.h": tools.headers}
    without = [name for name, there in parts.items() if not there]
    if not without:
        return [Finding(OK, "compilers", f"{tools.c}, {tools.cpp}, Python.h")]
    gives = "model.compile, and what builds ffcv and apex"
    if facts.torch and facts.torch.gpus and not (tools.c and tools.headers):
        text = f"there is not {' nor '.join(without)}: Triton launches only kernels that it has kept"
        return [Finding(WARNING, "compilers", text, gives, INSTALL_COMPILER)]
    return [Finding(MISSING, "compilers", f"there is not {' nor '.join(without)}", gives, INSTALL_COMPILER)]


# ---- the machine ----


def _cores(facts: Facts) -> list[Finding]:
    cores = facts.cores
    if cores is None:
        return []
    seen = f"{cores.allowed} of {cores.present}" if cores.allowed < cores.present else str(cores.present)
    if cores.quota is None or cores.quota >= cores.allowed:
        if (cores.busy or 0) < BUSY * cores.present:
            return [Finding(OK, "cores", seen)]
        text = f"{seen}, and {cores.busy:.1f} processes want them: threads that wait for one another keep cores busy"
        return [Finding(WARNING, "cores", text, command="OMP_WAIT_POLICY=passive python -m fastmix.train CONFIG")]
    n = max(1, int(cores.quota))
    text = f"the cgroup grants {cores.quota:g} of {seen}: a thread for each that is seen would wait for the others"
    command = f"OMP_NUM_THREADS={n} python -m fastmix.train CONFIG data.workers={n}"
    return [Finding(WARNING, "cores", text, command=command)]


def _memory(facts: Facts) -> list[Finding]:
    if facts.memory is None:
        return []
    total, limit = facts.memory.total, facts.memory.limit
    text = f"{_size(total)}" if limit is None or limit >= total else f"{_size(limit)} by the cgroup, of {_size(total)}"
    if min(total, limit or total) >= LITTLE_MEMORY:
        return [Finding(OK, "memory", text)]
    return [Finding(WARNING, "memory", f"{text}: little; a smaller batch_total, or accum over 1, takes less")]


def _shm(facts: Facts) -> list[Finding]:
    if facts.shm is None:
        return []
    several, size = bool(facts.torch and len(facts.torch.gpus) > 1), _size(facts.shm)
    command = "docker run --shm-size=8g ..., or: mount -o remount,size=8g /dev/shm"
    if facts.shm < NCCL_SHM and several:
        text = f"{size}: little for NCCL, by which processes on several GPUs share gradients"
        return [Finding(WARNING, "/dev/shm", text, command=command)]
    if facts.shm < WORKERS_SHM:
        text = f"{size}: enough for training, whose loaders are threads"
        return [Finding(MISSING, "/dev/shm", text, "room for `bench` peers that load in processes", command)]
    return [Finding(OK, "/dev/shm", size)]


def _open_files(facts: Facts) -> list[Finding]:
    if facts.open_files is None:
        return []
    soft, hard = facts.open_files
    if soft >= FEW_FILES or soft < 0:  # -1 is no limit
        return [Finding(OK, "open files", "no limit" if soft < 0 else f"up to {soft}")]
    more = hard if 0 <= hard < 4096 else 4096
    command = (
        f"ulimit -n {more}" if more > soft else "docker run --ulimit nofile=4096 ..., or /etc/security/limits.conf"
    )
    text = f"up to {soft}: few; a thread that loads image files opens one, a sweep's runs have theirs"
    return [Finding(WARNING, "open files", text, command=command)]


def _place(place: Place | None, part: str, holds: str, command: str) -> list[Finding]:
    if place is None:
        return []
    if not place.writable:
        text = f"{place.path} cannot be written: no place for {holds}"
        return [Finding(WARNING, part, text, command=command)]
    text = f"{place.path}, {_size(place.free)} free"
    if place.free < LITTLE_DISK:
        return [Finding(WARNING, part, f"{text}: little for {holds}", command=command)]
    return [Finding(OK, part, text)]


# ---- words ----


def _broken(name: str, package: Package, command: str) -> Finding:
    text = f"{package.version} cannot be imported: {package.error}" if package.error else "not installed"
    return Finding(ERROR, name, text.removeprefix("? "), command=command)


def _lost(facts: Facts, part: str, level: str, command: str = "") -> Finding:
    """Of a part whose probe failed."""
    return Finding(level, part, f"trying it failed: {facts.failed.get(part.lower(), 'no answer')}", command=command)


def _alike(gpus: tuple[Gpu, ...]) -> Iterator[str]:
    """A phrase for each kind of GPU."""
    told = [f"{gpu.name}, {_size(gpu.memory)}, {_sm(gpu)}" for gpu in gpus]
    for phrase in dict.fromkeys(told):
        n = told.count(phrase)
        yield f"{n} x {phrase}" if n > 1 else phrase


def _sm(gpu: Gpu) -> str:
    return f"sm_{gpu.capability.replace('.', '')}"


def _number(version: str) -> tuple[int, ...]:
    """Major and minor; a version that says neither counts as new."""
    return tuple(map(int, re.findall(r"\d+", version)[:2])) or (999,)


def _major(version: str) -> int:
    return _number(version)[0] if version else 0


def _size(n: int) -> str:
    return f"{n / GIB:.1f} GiB" if n >= GIB else f"{n / MIB:.0f} MiB"
