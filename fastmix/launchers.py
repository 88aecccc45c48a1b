"""What srun and mpirun say of a process, in the words of torchrun.

A task that srun or mpirun has started knows its number and how many there are; where they can meet, it does not. With
Slurm that is the first machine of the step, if its name can be looked up; with mpirun it is this machine, if all tasks
are on it. MASTER_ADDR says otherwise, and MASTER_PORT takes the place of a port that follows from the job.
"""

from __future__ import annotations

import re
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

PORTS = 20000, 10000
"""The first port and their number, of those that jobs meet at: below what Linux gives to outgoing connections."""


@dataclass(frozen=True)
class Launcher:
    """The variables of one launcher; `job` are those that tell its jobs apart."""

    name: str
    size: str
    rank: str
    local: str
    local_size: str
    job: tuple[str, ...]


SLURM = Launcher(
    "srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
    ("SLURM_JOB_ID", "SLURM_STEP_ID"),
)  # fmt: skip
LAUNCHERS = (
    SLURM,
    Launcher(
        "mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE", ("OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE"),
    ),
    Launcher(
        "mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE", (),
    ),
    Launcher("mpiexec", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", ()),
)  # fmt: skip
BATCH = "SLURM_NTASKS"
"""How many tasks a job of Slurm may start: said in its batch script too, which is a single process."""
SAID = {word for each in LAUNCHERS for word in (each.size, each.rank, each.local, each.local_size)} | {BATCH}
"""The variables that make a process one of several."""


def as_torchrun(said: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT of the environment `said`.

    Empty for a process that is alone. Raises ValueError where a variable is missing or nobody says where to meet.
    """
    for launcher in LAUNCHERS:
        size = said.get(launcher.size, "")
        if size.isdecimal() and int(size) > 1:
            return _translated(launcher, said)
        if launcher is SLURM and size == "1":
            return {}  # SLURM_NTASKS may be that of the whole job
    count = said.get(BATCH, "")
    if count.isdecimal() and int(count) > 1:
        raise ValueError(
            f"{BATCH} is {count}, but srun has not started this process, which would train alone: srun python -m "
            f"fastmix.train ..., or unset {BATCH} to train on one process"
        )
    return {}


def first_host(hosts: str) -> str:
    """The first of Slurm's list of hosts: "n1" of "n[1-3,7],m2", "r01n3" of "r[01-02]n[3,5]"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def tasks_here(counts: str, node: int) -> str:
    """How many tasks Slurm's list "2(x3),1" says of machine number `node`. Raises ValueError."""
    each: list[str] = []
    for part in counts.split(","):
        count, times = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part).groups()
        each += [count] * int(times or 1)
    return each[node]


def _translated(launcher: Launcher, said: Mapping[str, str]) -> dict[str, str]:
    words = (launcher.size, launcher.rank, launcher.local, launcher.local_size)
    if missing := [word for word in words if not said.get(word)]:
        raise ValueError(
            f"{launcher.name} started {said[launcher.size]} processes ({launcher.size}), but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set: start them with torchrun, or unset {launcher.size} to "
            "train on one process"
        )
    size, rank, local, here = (said[word] for word in words)
    address = said.get("MASTER_ADDR", "")
    if launcher is SLURM:
        try:
            here = tasks_here(here, int(said.get("SLURM_NODEID", "0")))
        except (AttributeError, IndexError, ValueError):
            raise ValueError(f"{launcher.local_size} is {here!r}, which names no tasks of this machine") from None
        address = address or first_host(said.get("SLURM_STEP_NODELIST", ""))
        if not _known(address):
            raise ValueError(
                f"the first host of the step, {address!r} of SLURM_STEP_NODELIST, cannot be looked up here: set "
                "MASTER_ADDR to its address"
            )
    elif not address:
        if here != size:
            raise ValueError(
                f"{launcher.name} started {size} processes on several machines, and nobody says where they meet: set "
                "MASTER_ADDR to the address of the first one's (of Open MPI: mpirun -x MASTER_ADDR=...)"
            )
        address = "127.0.0.1"
    alone = "," not in said.get("CUDA_VISIBLE_DEVICES", ",")  # each task was given a GPU of its own, its number 0
    return {
        "RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": "0" if alone else local, "LOCAL_WORLD_SIZE": here,
        "MASTER_ADDR": address, "MASTER_PORT": said.get("MASTER_PORT") or _port(launcher, said),
    }  # fmt: skip


def _known(host: str) -> bool:
    try:
        return bool(host and socket.getaddrinfo(host, None))
    except OSError:
        return False


def _port(launcher: Launcher, said: Mapping[str, str]) -> str:
    """The same in all tasks of a job, and likely another in another job on the same machine."""
    job = " ".join(said.get(word, "") for word in launcher.job)
    first, count = PORTS
    return str(first + zlib.crc32(job.encode()) % count)
