"""What a machine has, without judgement. Sizes are in bytes; "" is what is not there, None what no probe has found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Package:
    """version: "" where it is not installed. error: what importing it raised, in a line."""

    version: str = ""
    error: str = ""

    @property
    def works(self) -> bool:
        return bool(self.version) and not self.error


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees. capability: such as "8.0". error: what a small sum on it raised."""

    name: str
    memory: int
    capability: str
    bf16: bool
    error: str = ""


@dataclass(frozen=True)
class Torch(Package):
    """cuda: the version it is built for, "" in a CPU build. gpus: those that it sees."""

    cuda: str = ""
    nccl: bool = False
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Driver:
    """NVIDIA's. cuda: the newest version that it knows. gpus: the names that nvidia-smi lists, which needs no torch."""

    version: str = ""
    cuda: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Triton(Package):
    """did: what a small kernel of ours did, such as "compiles for sm_90"; failure: why it did not."""

    did: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Torchvision(Package):
    """mended: its operators do not load, and fastmix.compat lets it import."""

    mended: bool = False


@dataclass(frozen=True)
class Numba(Package):
    """cache: where it keeps code that it compiled, "" for nowhere; temporary: whether only there is a place for it;
    failure: why it compiles none."""

    cache: str = ""
    temporary: bool = False
    failure: str = ""


@dataclass(frozen=True)
class Apex:
    """kind: "" where no package is called so, "nvidia", "plain" (NVIDIA's without its CUDA extensions), "other"
    (another project), "broken" (NVIDIA's, whose import raises `error`)."""

    kind: str = ""
    error: str = ""


@dataclass(frozen=True)
class Compiler:
    """Paths of the compilers that Triton and torch.compile would call, and whether Python.h is there."""

    c: str = ""
    cpp: str = ""
    headers: bool = False


@dataclass(frozen=True)
class Cores:
    """present in the machine; allowed to this process; quota: cores' worth of time that its cgroup grants, or None;
    busy: the mean number of processes that ran or waited to run, over the last minute; None: not known, or threads
    do not spin while they wait."""

    present: int
    allowed: int
    quota: float | None = None
    busy: float | None = None


@dataclass(frozen=True)
class Memory:
    """limit: of the cgroup, or None."""

    total: int
    limit: int | None = None


@dataclass(frozen=True)
class Place:
    """A folder to write to, which need not exist. free: where it is or would be."""

    path: str
    free: int
    writable: bool


@dataclass(frozen=True)
class Facts:
    """failed: of the fields that are None, those whose probe failed, with the reason in a line."""

    system: str | None = None
    torch: Torch | None = None
    driver: Driver | None = None
    torchvision: Torchvision | None = None
    packages: dict[str, Package] | None = None
    triton: Triton | None = None
    numba: Numba | None = None
    turbojpeg: str | None = None  # the library's file
    apex: Apex | None = None
    dali: Package | None = None
    ffcv: Package | None = None
    compiler: Compiler | None = None
    cpu_bf16: bool | None = None
    cores: Cores | None = None
    memory: Memory | None = None
    shm: int | None = None
    open_files: tuple[int, int] | None = None  # soft limit, hard limit
    runs: Place | None = None
    cache: Place | None = None
    failed: dict[str, str] = field(default_factory=dict)
