"""What launchers say of a process: torchrun's variables hold together, and tasks of srun and mpirun join one run."""

import os
from unittest.mock import patch

import pytest

from fastmix.launch import TOGETHER, Launch, alone, launched, local_world
from fastmix.launchers import SAID, as_torchrun, first_host, tasks_here

# As srun -n6 -N2 (Slurm 22.05) and mpirun -n 2 (Open MPI 4.1) set them.
SRUN = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,2",
    "SLURM_STEP_NODELIST": "localhost,n[1-2]",
}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_ess_base_jobid": "203030529",
}
HYDRA = {"PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
ALL = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def clean():
    """No launcher's variables; those that a test sets, or the launch itself, are gone afterwards."""
    with patch.dict(os.environ):
        for name in (*TOGETHER, *SAID, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES"):
            os.environ.pop(name, None)
        yield os.environ.update


@pytest.mark.parametrize(
    "env, expected",
    [
        ({}, Launch()),
        (ALL, Launch(1, 2, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Launch()),
        ({"WORLD_SIZE": "1"}, Launch()),
        ({**ALL, "SLURM_NTASKS": "2"}, Launch(1, 2, 1)),  # torchrun below srun
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Launch()),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, Launch()),  # srun -n 1 within a larger job
        ({"SLURM_NTASKS": "", "PMI_SIZE": "x"}, Launch()),
        (SRUN, Launch(5, 6, 1)),
        ({**SRUN, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, Launch(5, 6, 1)),
        ({**SRUN, "CUDA_VISIBLE_DEVICES": "1"}, Launch(5, 6, 0)),  # --gpus-per-task=1: the one that it sees
        (MPIRUN, Launch(1, 2, 1)),
        (HYDRA, Launch(0, 2, 0)),
        ({**SRUN, **ALL}, Launch(1, 2, 1)),
    ],
)
def test_what_is_whole_is_taken(env, expected, clean):
    clean(env)
    assert launched() == expected


@pytest.mark.parametrize(
    "env, says",
    [
        ({"RANK": "0"}, "RANK is set, but not WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, but not RANK and MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT"),
        ({**ALL, "RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2: ranks go from 0 to 1"),
        ({**ALL, "RANK": "-1"}, "RANK in the environment is '-1'"),
        ({**ALL, "WORLD_SIZE": "0"}, "WORLD_SIZE in the environment is '0'"),
        ({**ALL, "WORLD_SIZE": "two"}, "WORLD_SIZE in the environment is 'two'"),
        ({**ALL, "LOCAL_RANK": "x"}, "LOCAL_RANK in the environment is 'x'"),
        ({**ALL, "MASTER_PORT": "99999"}, "MASTER_PORT in the environment is '99999'"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "SLURM_NTASKS is 2, but srun has not started.*unset SLURM_NTASKS"),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"},
            r"srun started 4 .*SLURM_STEP_NUM_TASKS\), but SLURM_PROCID and SLURM_LOCALID and",
        ),
        ({**SRUN, "SLURM_STEP_NODELIST": "no-such-host[7-9]"}, "'no-such-host7' of SLURM_STEP_NODELIST, .*MASTER_ADDR"),
        ({**SRUN, "SLURM_NODEID": "2"}, "SLURM_STEP_TASKS_PER_NODE is '4,2'"),
        ({**SRUN, "SLURM_PROCID": "6"}, "RANK is 6, but WORLD_SIZE is 6"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes.*but OMPI_COMM_WORLD_RANK"),
        (
            {**MPIRUN, "OMPI_COMM_WORLD_SIZE": "4"},
            "mpirun started 4 processes on several machines.*mpirun -x MASTER_ADDR",
        ),
        (
            {"PMI_SIZE": "3", "PMI_RANK": "1"},
            "mpiexec started 3 .*MPI_LOCALRANKID and MPI_LOCALNRANKS are not set: .*torchrun",
        ),
    ],
)
def test_what_is_not_is_refused(env, says, clean):
    clean(env)
    with pytest.raises(ValueError, match=says):
        launched()


@pytest.mark.parametrize("text", ["0", "-2", "x", "1.5"])
def test_processes_of_a_machine(text, clean):
    assert local_world() == 1
    clean({"LOCAL_WORLD_SIZE": text})
    with pytest.raises(ValueError, match=f"LOCAL_WORLD_SIZE in the environment is '{text}'"):
        local_world()


@pytest.mark.parametrize(
    "said, address",
    [
        (SRUN, "localhost"),
        ({**SRUN, "MASTER_ADDR": "10.0.0.9"}, "10.0.0.9"),
        (MPIRUN, "127.0.0.1"),
        (HYDRA, "127.0.0.1"),
    ],
)
def test_where_tasks_meet(said, address):
    """All at one place, and two jobs at different ones."""
    found = as_torchrun(said)
    sizes = [word for word in said if word.endswith(("RANK", "PROCID"))]
    other = as_torchrun({**said, **dict.fromkeys(sizes, "0")})
    assert (found["MASTER_ADDR"], other["MASTER_ADDR"]) == (address, address)
    assert found["MASTER_PORT"] == other["MASTER_PORT"] and 20000 <= int(found["MASTER_PORT"]) < 30000
    assert as_torchrun({**said, "MASTER_PORT": "1234"})["MASTER_PORT"] == "1234"
    for word in ("SLURM_JOB_ID", "SLURM_STEP_ID", "OMPI_MCA_ess_base_jobid"):
        if word in said:
            assert as_torchrun({**said, word: "18"})["MASTER_PORT"] != found["MASTER_PORT"]


@pytest.mark.parametrize(
    "hosts, first",
    [
        ("n1", "n1"), ("n[1-3,7],m2", "n1"), ("m2,n[1-3]", "m2"), ("gpu-a[001-004]", "gpu-a001"),
        ("r[01-02]n[3,5]", "r01n3"),         ("n[12]-ib.cluster", "n12-ib.cluster"), ("", ""),
    ],
)  # fmt: skip
def test_first_host(hosts, first):
    assert first_host(hosts) == first


def test_tasks_of_each_machine():
    assert [tasks_here("2(x3),1", node) for node in range(4)] == ["2", "2", "2", "1"]
    assert tasks_here("8", 0) == "8"


def test_a_process_of_its_own_is_told_nothing(clean):
    clean({**SRUN, "KEPT": "1"})
    assert launched().world == 6
    found = alone()
    assert found["KEPT"] == "1" and as_torchrun(found) == {}
    assert not {*TOGETHER, "LOCAL_RANK", "LOCAL_WORLD_SIZE"} & set(found)
