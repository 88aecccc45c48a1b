"""What launchers say of a process: torchrun's variables hold together, and no other launcher's tasks train alone."""

import pytest

from fastmix.launch import LAUNCHERS, TOGETHER, Launch, launched, local_world

ALL = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in (*TOGETHER, *LAUNCHERS, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return lambda env: [monkeypatch.setenv(name, value) for name, value in env.items()]


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
        (
            {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
            r"2 processes \(SLURM_NTASKS\).*torchrun.*unset SLURM_NTASKS",
        ),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}, r"srun started 4 processes \(SLURM_STEP_NUM_TASKS\)"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes"),
        ({"PMI_SIZE": "3"}, "mpiexec started 3 processes"),
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
