"""Training on several hosts: tasks of srun and mpirun are one run, and a host that is lost ends or shrinks the run."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from fastmix import files
from helpers import hosts
from helpers.forked import forked
from helpers.small_runs import SMALL, rows, same
from helpers.small_runs import run as train

pytestmark = pytest.mark.long
TRAIN = [sys.executable, "-m", "fastmix.train", "small.yaml", "mix=cutmix"]
without_slurm = pytest.mark.skipif(not hosts.can_have_slurm(), reason="needs root, slurm-wlm and munge")
without_networks = pytest.mark.skipif(not hosts.can_have_networks(), reason="needs root and network namespaces")


def torchrun(*words: str, before: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> None:
    """Trains on two processes; `before` stands before the module's name, `options` before that."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options]
    done = run([*command, "-m", *before, *TRAIN[2:], *words], hosts.environment())
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder, in which two processes of torchrun have trained."""
    folder = tmp_path_factory.mktemp("hosts")
    before = os.getcwd()
    os.chdir(folder)
    try:
        (folder / "small.yaml").write_text(SMALL)
        torchrun("out=two")
        yield folder
    finally:
        os.chdir(before)


@without_slurm
def test_tasks_of_srun_are_one_run(folder, tmp_path_factory):
    with hosts.slurm(tmp_path_factory.mktemp("slurm")) as env:
        words = ["srun", "--input=none", "-n2", "-N2", *TRAIN]
        done = run([*words, "out=srun"], env | {"MASTER_ADDR": "127.0.0.1"})
        assert done.returncode == 0, done.stderr[-2000:]
        lost = run([*words, "out=lost"], env)
    same(folder / "two/last.pt", folder / "srun/last.pt")
    assert "'n0' of SLURM_STEP_NODELIST, cannot be looked up" in lost.stderr and not (folder / "lost").exists()


@pytest.mark.skipif(not shutil.which("mpirun"), reason="needs Open MPI")
def test_tasks_of_mpirun_are_one_run(folder):
    words = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", *TRAIN, "out=mpirun"]
    done = run(words, hosts.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    same(folder / "two/last.pt", folder / "mpirun/last.pt")


def test_a_process_that_dies_is_started_again_and_the_run_is_the_same(folder):
    """By torchrun's --max-restarts, from the last checkpoint."""
    lost, again = ("faults.during", "lost", "9"), ("--max-restarts=1",)
    torchrun("out=again", "save_every=7", "--resume", before=lost, options=again)
    assert files.read_torch(folder / "again/left.pt")["run"]["step"] == 7
    same(folder / "two/last.pt", folder / "again/last.pt")


def test_a_machine_that_is_lost_shrinks_the_run(folder):
    """By torchrun's --nnodes=1:2: the other goes on with the whole batch, as one process does from that checkpoint."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    elastic = ["--nnodes=1:2", "--nproc_per_node=1", "--max-restarts=2", "--rdzv-backend=c10d", "--rdzv-id=less"]
    elastic += [f"--rdzv-endpoint=127.0.0.1:{port}"]
    words = ["-m", "faults.during", "gone", "9", *TRAIN[2:], "out=less", "save_every=7", "--resume"]
    agents = []
    for k in range(2):  # the first one keeps the store in which they meet
        conf = f"--rdzv-conf=is_host={1 - k},last_call_timeout=5,keep_alive_interval=2"
        command = [sys.executable, "-m", "torch.distributed.run", *elastic, conf, *words]
        with open(folder / f"less.{k}", "w") as log:
            agents.append(subprocess.Popen(command, env=hosts.environment(), stdout=log, stderr=log))
    assert agents[0].wait(timeout=240) == 0, (folder / "less.0").read_text()
    assert agents[1].wait(timeout=60) == -signal.SIGKILL
    shutil.copytree(folder / "less", folder / "alone")
    os.replace(folder / "alone/left.pt", folder / "alone/last.pt")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes
    try:
        assert train("mix=cutmix", "out=alone", resume=True) == 0
    finally:
        torch.set_num_threads(threads)
    same(folder / "less/last.pt", folder / "alone/last.pt")
    assert files.read_torch(folder / "less/last.pt")["run"]["step"] == 10


def run(words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def slurm_like(k: int, count: int, address: str) -> dict[str, str]:
    return {
        "SLURM_STEP_NUM_TASKS": str(count), "SLURM_PROCID": str(k), "SLURM_LOCALID": "0", "SLURM_NODEID": str(k),
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{count})", "MASTER_ADDR": address,
    }  # fmt: skip


@without_networks
def test_four_hosts_on_a_network(running, folder, count=4):
    with hosts.Hosts(count) as network:
        started = [
            network.start(
                k, *TRAIN, "out=net", "epochs=1", log=folder / f"net.{k}", **slurm_like(k, count, "10.91.0.1")
            )
            for k in range(count)
        ]
        for k, each in enumerate(started):
            assert each.wait(timeout=300) == 0, (folder / f"net.{k}").read_text()
    assert forked(running, *TRAIN[2:], "out=four", "epochs=1", count=count).code == 0
    same(folder / "four/last.pt", folder / "net/last.pt")


@without_networks
def test_a_host_that_is_cut_off_ends_the_others_and_the_run_goes_on(folder):
    words = [*TRAIN, "out=cut", "save_every=2", "log_every=1", "epochs=400", "val_every=400"]
    with hosts.Hosts(2) as network:

        def start(*more: str) -> list[subprocess.Popen]:
            env = {"FASTMIX_SILENT_TIMEOUT": "15"}
            return [
                network.start(k, *words, *more, log=folder / f"cut.{k}", **env, **slurm_like(k, 2, "10.91.0.1"))
                for k in range(2)
            ]

        running = start()
        until(lambda: (folder / "cut/last.pt").exists(), running)
        network.cut(1)
        began = time.monotonic()
        assert [each.wait(timeout=60) for each in running] == [1, 1]
        assert time.monotonic() - began < 15 + 15
        assert "heard of" in (text := (folder / "cut.0").read_text()) and "(process 1) for 15 s" in text, text
        assert "(process 0) for 15 s" in (folder / "cut.1").read_text()
        reached = rows(folder / "cut", "train")[-1]["step"]
        network.join(1)
        running = start("--resume")
        until(lambda: rows(folder / "cut", "train")[-1]["step"] > reached + 2, running)
        for each in running:
            each.terminate()
        assert [each.wait(timeout=60) for each in running] == [75, 75]


def until(condition, running) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end and all(each.poll() is None for each in running)
        time.sleep(0.2)
