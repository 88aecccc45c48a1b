"""Where it runs: other systems, file systems without locks, no home, threads, launchers."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path

from PIL import Image

from fastmix.launchers import SAID
from faults.harness import Fault, nothing

PLACE = tempfile.TemporaryDirectory()
atexit.register(PLACE.cleanup)
ALONE = {name: "" for name in SAID}
GROUP = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "FASTMIX_JOIN_TIMEOUT": "2"}


def pictures(folder: Path) -> None:
    """Class folders a and b of 4 images each, and modes and times as a user's files have them."""
    for name in ("a", "b"):
        (folder / "data" / name).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (32, 32), (k * 40, 80, 120)).save(folder / "data" / name / f"{k}.jpg")


def modes(expected: int):
    """Every file of the run has this mode."""
    written = {
        "config.yaml",
        "model.json",
        "data.json",
        "versions.json",
        "log.jsonl",
        "first_batch.png",
        "last.pt",
        "best.pt",
        "model.safetensors",
    }

    def check(folder: Path, _: str) -> None:
        found = {path.name: oct(path.stat().st_mode & 0o777) for path in (folder / "a").iterdir()}
        assert found == dict.fromkeys(written, oct(expected))

    return check


def exported(folder: Path, _: str) -> None:
    assert (folder / "a" / "model.safetensors").is_file()


def at(what: str, command: str, *says: str, name: str = "", code: int = 0, prepare=nothing, after=None) -> Fault:
    name = name or f"{what}: {command.split()[0]}"
    return Fault(name, prepare, f"faults.elsewhere {what} {command}", says, code, after)


def launched(name: str, *says: str, **env: str) -> Fault:
    return Fault(name, nothing, "fastmix.train {config} out=a", says, env={**ALONE, **env})


TRAIN = "fastmix.train {config} out=a"
FAULTS = [
    at("mac", TRAIN, "done:", after=exported),
    at("mac", "fastmix.convert data out.beton", "8", prepare=pictures),
    at("unlocked", TRAIN, "done:", after=exported),
    at("unlocked", "fastmix.convert data out.beton", prepare=pictures),
    at("windows", TRAIN, "done:", after=exported),
    at("windows+mac", "fastmix.convert data out.beton", prepare=pictures),
    at("thread", TRAIN, "done:", after=exported),
    at("thread", "fastmix.train {config} out=a model.name=nosuch", "nosuch", code=2, name="thread: a run that fails"),
    at("threadless", TRAIN, "no more threads", "data.workers=1", code=2),
    at("closed", TRAIN, after=exported),
    at("ascii", "fastmix.train {config} out=é", name="ascii: a folder with an accent"),
    at("gone", "fastmix.train {config} out=a", "present folder has been removed", name="gone", code=2),
    Fault("umask 022", nothing, TRAIN, after=modes(0o644), code=0),
    at("umask077", TRAIN, after=modes(0o600)),
    Fault(
        "no home", nothing, TRAIN, ("done:",), 0,
        env={"HOME": "/dev/null", "FASTMIX_CACHE": "", "XDG_CACHE_HOME": "", "TMPDIR": PLACE.name},
    ),
    Fault(
        "a cache that cannot be", nothing, TRAIN, ("/dev/null/x", "set FASTMIX_CACHE"),
        env={"FASTMIX_CACHE": "/dev/null/x"},
    ),
    Fault("a run folder that cannot be", nothing, "fastmix.train {config} out=/dev/null/a", ("/dev/null",)),
    launched("a batch script of Slurm's", "SLURM_NTASKS is 2", "srun python", SLURM_NTASKS="2", SLURM_PROCID="0"),
    launched("srun's step", "srun started 4 processes", "SLURM_PROCID", SLURM_STEP_NUM_TASKS="4", SLURM_NTASKS="4"),
    launched("mpirun", "mpirun started 2", "torchrun", OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0"),
    launched("mpiexec", "mpiexec started 2", "torchrun", PMI_SIZE="2", PMI_RANK="0"),
    launched("RANK alone", "RANK is set, but not WORLD_SIZE", "torchrun", RANK="0"),
    launched("WORLD_SIZE alone", "WORLD_SIZE is set, but not RANK", WORLD_SIZE="2"),
    launched("no MASTER_ADDR", "not MASTER_ADDR and MASTER_PORT", RANK="0", WORLD_SIZE="2"),
    launched("a rank too high", "RANK is 2, but WORLD_SIZE is 2", **{**GROUP, "RANK": "2"}),
    launched("a rank of text", "RANK in the environment is 'one'", **{**GROUP, "RANK": "one"}),
    launched("no processes", "WORLD_SIZE in the environment is '0'", RANK="0", WORLD_SIZE="0"),
    launched("no processes here", "LOCAL_WORLD_SIZE in the environment is '0'", LOCAL_WORLD_SIZE="0"),
    launched("nobody joins", "process 0 of 2 has not met the others", "FASTMIX_JOIN_TIMEOUT", **GROUP),
    launched("nobody to join", "process 1 of 2", "at 127.0.0.1:9", **{**GROUP, "RANK": "1", "MASTER_PORT": "9"}),
    launched("a host that is none", "no.such.invalid", **{**GROUP, "RANK": "1", "MASTER_ADDR": "no.such.invalid"}),
    launched("a port that is none", "MASTER_PORT in the environment is 'x'", **{**GROUP, "MASTER_PORT": "x"}),
    launched("a wait that is none", "FASTMIX_JOIN_TIMEOUT is '-1'", **{**GROUP, "FASTMIX_JOIN_TIMEOUT": "-1"}),
]  # fmt: skip
