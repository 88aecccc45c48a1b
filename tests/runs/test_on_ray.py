"""Sweeps on a cluster of Ray whose three machines are this one: runs are as without it, also of a lost one."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from fastmix import cli, config, report, sweep, train  # noqa: E402
from fastmix.runs import clusters, on_ray, one_run, queue, run_folder, scheduler  # noqa: E402
from helpers import ROOT  # noqa: E402
from helpers.small_runs import SMALL, rows, same  # noqa: E402
from helpers.sweeping import CLIMBING, PATIENT, parents, trainers, wait  # noqa: E402

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]  # of Ray
CLUSTERS = "lab: {engine: ray, address: '%s'}\nmany: {engine: ray, address: '%s', cpus_per_run: 64}\n"
LAB = ("--on", "lab", "--clusters", "clusters.yaml")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three machines with a core each; the sweep is on the first. Tests work in a folder that all see."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(on_ray.SAVES, "0")
        patch.setattr(scheduler, "POLL", 0.05)
        (folder / "small.yaml").write_text(SMALL + "device: cpu\n")
        (folder / "patient.py").write_text(PATIENT)
        (folder / "climb.py").write_text(CLIMBING)
        machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(2):
            machines.add_node(num_cpus=1)
        (folder / "clusters.yaml").write_text(CLUSTERS % (machines.address, machines.address))
        yield machines
        machines.shutdown()


def raylet(machine) -> int:
    return machine.all_processes["raylet"][0].process.pid


def learned(folder: Path) -> list[dict]:
    """What a log says but for times; of a step that was done again, the last time."""
    found = {(row["kind"], row["step"]): row for kind in ("train", "val") for row in rows(folder, kind)}
    clock = ("time", "images_per_s", "data_wait", "memory_mb")
    return [{key: value for key, value in row.items() if key not in clock} for _, row in sorted(found.items())]


def test_runs_of_a_lost_machine_go_on_elsewhere_and_all_are_as_without_a_cluster(cluster, capsys):
    words = [
        "small.yaml",
        "mix=cutmix",
        "seed=0,1,2,3,4,5,6,7",
        "epochs=4",
        "val_every=4",
        "log_every=1",
        "save_every=2",
    ]
    jobs = queue.expand("small.yaml", words[1:], Path("runs"))
    lost = []

    def lose() -> None:
        """Kills a machine, with all that runs on it, while it trains."""
        worker = wait(lambda: next(filter(None, map(begun, cluster.worker_nodes)), None))
        lost.append(Path(worker[1]))
        pids = [raylet(worker[0]), *parents(worker[2])[:1], worker[2]]
        for pid in pids:  # nobody is left to see another die
            os.kill(pid, signal.SIGKILL)

    def begun(machine):
        for folder, pid in trainers().items():
            if (Path(folder) / "last.pt").exists() and raylet(machine) in parents(pid):
                return machine, folder, pid

    thread = threading.Thread(target=lose)
    thread.start()
    assert sweep.main([*words, *LAB]) == 0
    thread.join()
    cluster.remove_node(next(node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.poll()))
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "8 runs: 8 finished" and len(re.findall(": finished, top-1", text)) == 8
    for job in jobs:
        begins = (job.folder / "train.log").read_text().count(f"-> {job.folder}")
        assert begins == 2 + (job.folder in lost), "a begin and an end; of the lost run another begin"
        assert train.main([*words[:2], f"seed={job.cfg.seed}", *words[3:], "--quiet", f"out=whole/{job.cfg.seed}"]) == 0
        same(job.folder / "last.pt", Path("whole", str(job.cfg.seed), "last.pt"))
        assert learned(job.folder) == learned(Path("whole", str(job.cfg.seed)))


@pytest.mark.parametrize("how", [[], ["--stop", "asha"]])
def test_ctrl_c_has_the_runs_save_and_leaves_nothing(cluster, capsys, monkeypatch, how):
    monkeypatch.setattr(one_run, "command", lambda job, *_: ["patient", str(job.folder)])
    words = ["small.yaml", "mix=mixup", "optim.lr=0.1,0.2,0.3,0.4", f"epochs={3 + len(how)}"]
    jobs = queue.expand(words[0], words[1:], Path("runs"))
    count, seen = 1 + len(cluster.worker_nodes), []

    def interrupt() -> None:
        wait(lambda: sum((job.folder / "log.jsonl").exists() for job in jobs) == count)
        seen.append([job.state for job in jobs])
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert sweep.main([*words, *LAB, *how]) == 130
    thread.join()
    assert [seen[0].count(state) for state in ("running", "waiting")] == [count, 4 - count], "as any machine sees it"
    assert trainers() == {} and sorted(job.state for job in jobs) == ["stopped"] * count + ["waiting"] * (4 - count)
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 runs: ")
    began = [job.folder for job in jobs if job.state == "stopped"]
    assert [(folder / "train.log").read_text() for folder in began] == ["saving\n"] * count
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    try:
        wait(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])
    finally:
        ray.shutdown()
    assert sweep.main([*words, *LAB, "--status"]) == 0


@pytest.mark.parametrize("how", ["kill", "ctrl-c twice"])
def test_the_run_of_a_killed_sweep_saves_and_a_second_ctrl_c_kills(cluster, how):
    (job,) = queue.expand("small.yaml", ["mix=vanilla", f"epochs={len(how)}"], Path("runs"))
    script = "from fastmix import sweep; from fastmix.runs import one_run; import sys; "
    script += f"one_run.command = lambda job, *_: ['{how.split()[0].replace('-', '_')}', str(job.folder)]; sweep.main()"
    Path("kill.py").write_text(PATIENT)
    Path("ctrl_c.py").write_text(
        PATIENT.replace('time.sleep(0.5), sys.exit(print("saving"))', "print('no', flush=True)")
    )
    sweeping = subprocess.Popen([sys.executable, "-c", script, "small.yaml", "mix=vanilla", f"epochs={len(how)}", *LAB])
    wait((job.folder / "log.jsonl").exists)
    if how == "kill":
        sweeping.kill()
        wait(lambda: job.state == "stopped")
    else:
        sweeping.send_signal(signal.SIGINT)
        wait((job.folder / "train.log").read_text)
        sweeping.send_signal(signal.SIGINT)
    sweeping.wait(timeout=60)
    wait(lambda: job.state != "running")
    assert trainers() == {} and (job.state, (job.folder / "train.log").read_text()) == {
        "kill": ("stopped", "saving\n"), "ctrl-c twice": ("failed", "no\n"),
    }[how]  # fmt: skip


def test_asha_gives_up_runs_that_are_behind_and_no_table_counts_them(cluster, capsys, monkeypatch):
    def climbing(job, *_) -> list[str]:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "config.yaml").write_text(config.dump(job.cfg))
        return ["climb", str(job.folder), str(job.cfg.optim.lr)]

    monkeypatch.setattr(one_run, "command", climbing)
    words = ["mix=cutmix", "optim.lr=loguniform(.01,1)", "epochs=27"]
    jobs = queue.expand("small.yaml", words, Path("runs"), samples=4)
    argv = ["small.yaml", *words, "--stop", "asha", *LAB]
    assert sweep.main([*argv, "--samples", "3"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("runs/small").glob("*/train.log")}
    assert sweep.main([*argv, "--samples", "4"]) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in before.items()), "what has ended is not trained again"
    told = capsys.readouterr().out
    whole = [job for job in jobs if job.state == "finished"]
    early = [job for job in jobs if job.state == "stopped early"]
    assert max(jobs, key=lambda job: job.cfg.optim.lr) in whole and len(whole) + len(early) == 4 and early
    for job in early:
        epoch = int(re.fullmatch(r"by asha after epoch (\d+) of 27", run_folder.early(job.folder))[1])
        assert f"{job.folder}: stopped early by asha after epoch {epoch} of 27, top-1" in told
        others = [run_folder.read(other.folder).val for other in jobs if other is not job]
        mine = run_folder.read(job.folder).val[epoch]["top1"]
        assert epoch in (1, 3, 9) and any(val[epoch]["top1"] > mine for val in others if epoch in val)
        assert (job.folder / "train.log").read_text() == "saved\n"
    assert report.main(["--runs", "runs/small", "--columns", "method,top1,runs,best"]) == 0
    table, notes = capsys.readouterr()
    for job in early:
        assert f"{job.folder}: {run_folder.read(job.folder).epochs} of 27 epochs (stopped early by asha" in notes
    assert sum(f"lr={job.cfg.optim.lr:g} " in table for job in whole) == len(whole)
    assert not any(f"lr={job.cfg.optim.lr:g} " in table for job in early)
    assert report.main(["--runs", "runs/small", "--html", "page.html"]) == 0
    assert f"{len(early)} stopped early" in Path("page.html").read_text()


@pytest.mark.parametrize(
    "words, says",
    [
        (["mix=all", "seed=0"], "give one mix: the benchmark's rows and their seeds are compared by whole runs"),
        (["mix=cutmix", "seed=0,1,2"], "give one seed: the benchmark's rows"),
        (["mix=cutmix"], "needs settings to compare"),
        (["mix=cutmix", "optim.lr=.1,.2", "--on", "local"], "--stop asha is Ray Tune's: give --on ray"),
    ],
)
def test_asha_is_not_for_rows_of_the_benchmark(cluster, capsys, words, says):
    assert cli.run(sweep.main, "sweep", ["small.yaml", *words, "--stop", "asha"]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_a_run_that_is_preempted_goes_on_and_one_that_fails_is_not_tried_again(cluster, capsys, monkeypatch):
    monkeypatch.setattr(one_run, "command", lambda job, *_: ["twice", str(job.folder)])
    (job,) = queue.expand("small.yaml", ["mix=fmix"], Path("runs"))
    second = (
        "import sys\nfrom pathlib import Path\nif Path(sys.argv[1], 'log.jsonl').exists():\n    sys.exit('no luck')\n"
    )
    Path("twice.py").write_text(second + PATIENT)

    def preempt() -> None:
        wait((job.folder / "log.jsonl").exists)
        os.kill(trainers()[str(job.folder)], signal.SIGTERM)

    thread = threading.Thread(target=preempt)
    thread.start()
    assert sweep.main(["small.yaml", "mix=fmix", *LAB]) == 1
    thread.join()
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{job.folder}: ")]
    assert [line.removeprefix(f"{job.folder}: ") for line in told] == [
        "handed to the cluster", "stopped, saved", "handed to the cluster", "failed, no luck (see train.log there)"
    ]  # fmt: skip
    assert job.state == "failed"


def test_what_no_machine_has_yet_waits(cluster):
    (job,) = queue.expand("small.yaml", ["mix=vanilla"], Path("runs"))
    with engine("many", job) as many:
        assert many.begin(job, False).endswith("where no machine has cpus_per_run 64 and gpus_per_run 0 yet")
        assert many.ended() == []
        many.stop()
        assert [outcome.kind for _, outcome in wait(many.ended)] == ["stopped"]


def test_a_machine_that_does_not_see_the_folder_says_so(cluster, monkeypatch):
    (job,) = queue.expand("small.yaml", ["mix=vanilla"], Path("runs"))
    with engine("lab", job) as lab:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getcwd", lambda: "/nowhere/shared")
            lab.begin(job, False)
        ((_, outcome),) = wait(lab.ended)
    assert outcome.kind == "failed" and "has no /nowhere/shared: run folders lie where all" in outcome.text
    assert outcome.text.count("\n") == 0


@contextmanager
def engine(name: str, job: queue.Job) -> Iterator[on_ray.OnRay]:
    made = on_ray.OnRay(clusters.load(name, Path("clusters.yaml")), job)
    try:
        yield made
    finally:
        made.close()


def test_where_no_cluster_is(cluster, capsys):
    for words, says in (
        (("--on", "off"), "no cluster of Ray at 127.0.0.1:9: Connection refused"),
        (("--on", "none"), "address 'nowhere' of the cluster is no HOST:PORT"),
    ):
        text = Path("clusters.yaml").read_text() + "off: {engine: ray, address: '127.0.0.1:9'}\n"
        Path("more.yaml").write_text(text + "none: {engine: ray, address: nowhere}\n")
        argv = ["small.yaml", "mix=vanilla", "--clusters", "more.yaml", *words]
        assert cli.run(sweep.main, "sweep", argv) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1, err
    assert not Path("runs/small/vanilla_s0").exists()
