"""Sweeps on Slurm's own daemons, two nodes that are this machine: a run that is pre-empted, or out of time, goes on."""

import os
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("submitit")

from fastmix import cli, sweep  # noqa: E402
from fastmix.runs import queue  # noqa: E402
from helpers import ROOT, hosts  # noqa: E402
from helpers.small_runs import SMALL, rows  # noqa: E402
from helpers.sweeping import wait  # noqa: E402

CLUSTERS = """
two:
  engine: slurm
  partition: low
  time: "60"
  extra: {comment: tests}
gpus: {engine: slurm, gres: "gpu:a100:2", gpus_per_run: 2, cpus_per_run: 8, save_within: 300, at_a_time: 4}
"""
PREEMPT = """
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=ALL GraceTime=60 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL + "device: cpu\n")
    (tmp_path / "clusters.yaml").write_text(CLUSTERS)
    return tmp_path


@pytest.mark.long
@pytest.mark.skipif(not hosts.can_have_slurm(), reason="needs root, slurm-wlm and munge")
def test_runs_that_are_preempted_or_out_of_time_go_on_and_cancelled_ones_do_not(folder, tmp_path_factory, capsys):
    words = [
        "mix=cutmix",
        "seed=0,1",
        "epochs=25",
        "val_every=25",
        "log_every=1",
        "data.train=shapes:train?n=400&size=32",
    ]
    first, second = jobs = queue.expand("small.yaml", words, Path("runs"))
    argv = ["small.yaml", *words, "--on", "two", "--clusters", "clusters.yaml"]
    with hosts.slurm(tmp_path_factory.mktemp("slurm"), more=PREEMPT) as env, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", env["SLURM_CONF"])
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        assert sweep.main(argv) == 0
        text = capsys.readouterr().out
        (job,) = re.findall(r"^2 runs submitted as job (\d+) of Slurm; scancel \1 has them save and end$", text, re.M)
        assert sweep.main(argv) == 0 and "2 runs are in the queue already" in capsys.readouterr().out

        wait(lambda: all((each.folder / "last.pt").exists() for each in jobs))
        assert all(each.state == "running" for each in jobs)
        of = {each.folder: task for each, task in zip(jobs, (f"{job}_0", f"{job}_1"), strict=True)}
        hosts.command("srun", "--partition=high", "-N1", "-n1", "true", env=env)  # takes the place of one
        preempted = next(each for each in jobs if state(of[each.folder], env) != "RUNNING")
        other = second if preempted is first else first
        hosts.command("scancel", "--signal=TERM", of[other.folder], env=env)  # as Slurm does before its time limit
        wait(lambda: all(state(task, env) == "PENDING" for task in of.values()))
        assert all(each.state == "stopped" for each in jobs)
        assert all(rows(each.folder, "train")[-1]["step"] < 500 for each in jobs), "there is something left to do"
        wait(lambda: all(started(task, env) for task in of.values()))
        wait(lambda: other.state == "running")
        hosts.command("scancel", of[other.folder], env=env)
        wait(lambda: not state(of[other.folder], env))
        wait(lambda: preempted.state == "finished")
        wait(lambda: not hosts.command("squeue", "-h", env=env))
    assert other.state == "stopped"
    for each in jobs:
        (log,) = Path("runs/small/slurm").glob(f"{of[each.folder]}_*.out")
        text = log.read_text()
        assert text.count(f"{each.folder}: stopped, saved") == 1 + (each is other), text
    assert [row["step"] for row in rows(preempted.folder, "train")] == list(range(1, 501)), "no step is done again"


def state(task: str, env: dict[str, str]) -> str:
    return subprocess.run(
        ["squeue", "-h", "-j", task, "-o", "%T"], env=env, capture_output=True, text=True
    ).stdout.strip()


def started(task: str, env: dict[str, str]) -> bool:
    """Asks for it at once: Slurm begins a requeued task two minutes later, from when its last step is gone. That may be
    after it is pending, so asking once is not enough."""
    words = ["scontrol", "update", f"JobId={task}", "StartTime=now"]
    if state(task, env) == "PENDING":
        subprocess.run(words, env=env, capture_output=True)  # refused where it began meanwhile
    return state(task, env) != "PENDING"


def test_a_dry_run_prints_the_script_and_writes_nothing(folder, capsys):
    argv = ["small.yaml", "mix=cutmix", "seed=0,1,2", "--clusters", "clusters.yaml", "--dry-run"]
    before = sorted(folder.rglob("*"))
    assert sweep.main([*argv, "--on", "two"]) == 0
    told = set(capsys.readouterr().out.splitlines())
    two = {"--partition=low", "--time=60", "--comment=tests", "--cpus-per-task=1", "--array=0-2%3"}
    two |= {"--requeue", "--signal=TERM@120", "--job-name=fastmix-small", "--open-mode=append"}
    assert {f"#SBATCH {word}" for word in two} < told and not any("gpus" in line or "wckey" in line for line in told)
    assert sweep.main([*argv, "--on", "slurm"]) == 0
    assert "#SBATCH --time" not in capsys.readouterr().out
    assert sweep.main([*argv, "--on", "gpus", "device=cuda"]) == 0
    told = set(capsys.readouterr().out.splitlines())
    gpus = {"--gres=gpu:a100:2", "--cpus-per-task=8", "--signal=TERM@300", "--array=0-2%3", "--ntasks-per-node=1"}
    assert {f"#SBATCH {word}" for word in gpus} < told and not any("gpus-per-node" in line for line in told)
    assert sorted(folder.rglob("*")) == before


def test_a_machine_without_slurm_says_so(folder, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.run(sweep.main, "sweep", ["small.yaml", "mix=cutmix", "--on", "slurm"]) == 2
    err = capsys.readouterr().err
    assert "Slurm takes no jobs from here" in err and err.count("\n") == 1
