"""Queues of the smallest real runs: nothing is trained twice, a kill costs nothing, a failure stops only itself."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from fastmix import cli, report, sweep
from fastmix.runs import one_run, queue, run_folder, scheduler
from helpers import ROOT
from helpers.small_runs import SMALL, same
from helpers.sweeping import PATIENT, trainers, wait


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(scheduler, "POLL", 0.05)
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL + "device: cpu\n")
    return tmp_path


def expand(*words: str) -> list[queue.Job]:
    return queue.expand("small.yaml", list(words), Path("runs"))


def launch(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fastmix.sweep", "small.yaml", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.long
def test_two_sweeps_share_the_runs_and_a_failure_stops_only_itself(folder, capsys, monkeypatch):
    words = ("mix=cutmix", "epochs=1", "data.val=shapes:val?n=43&size=32,broken.beton")
    Path("broken.beton").write_bytes(bytes(100))
    both = [launch(*words), launch(*words)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [1, 1], texts
    good, bad = expand(*words)
    assert (good.state, bad.state) == ("finished", "failed")
    for job in (good, bad):
        assert sum(f"{job.folder}: started" in text for text in texts) == 1, texts
    assert all("broken.beton" in line for text in texts for line in text.splitlines() if "| failed " in line)
    (note,) = [line for text in texts for line in text.splitlines() if f"{bad.folder}: failed" in line]
    assert "broken.beton: not a .beton file" in note
    assert (good.folder / "log.jsonl").read_text().count('"val"') == 1

    kept = (good.folder / "last.pt").stat().st_mtime_ns
    started = []
    monkeypatch.setattr(one_run, "start", lambda job, *_: started.append(job))
    assert sweep.main(["small.yaml", *words]) == 1 and started == []
    assert sweep.main(["small.yaml", *words, "--dry-run"]) == 0
    assert "broken" not in capsys.readouterr().out.splitlines()[-1]
    assert sweep.main(["small.yaml", *words, "--dry-run", "--retry"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("python -m fastmix.train small.yaml mix=cutmix") and f"out={bad.folder}" in last
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(one_run, "command", lambda job, *_: ["timeit", "-n", "1", "raise SystemExit('broken again')"])
    assert sweep.main(["small.yaml", *words, "--retry"]) == 1
    assert "broken again" in capsys.readouterr().out and bad.state == "failed"
    assert (good.folder / "last.pt").stat().st_mtime_ns == kept
    assert "| finished | 1.0/1 |" in scheduler.status([good])
    assert report.main([str(good.folder)]) == 0


@pytest.mark.long
def test_killed_and_continued_equals_uninterrupted(folder, capsys):
    words = ("mix=cutmix", "epochs=12", "save_every=4", "log_every=1", "val_every=4", "ema.decay=0.9")
    (job,) = expand(*words)
    process = launch(*words)
    wait(lambda: (job.folder / "last.pt").exists())
    child = trainers()[str(job.folder)]
    process.kill()
    os.kill(child, signal.SIGKILL)
    process.communicate()
    wait(lambda: job.state == "stopped")
    assert run_folder.last(job.folder)["train"]["step"] < 60, "there is something left to do"

    assert sweep.main(["small.yaml", *words]) == 0
    assert f"{job.folder}: finished, top-1 " in capsys.readouterr().out
    # In a process too: sums depend on the number of threads, which is one there and may be another here.
    subprocess.run([sys.executable, "-m", "fastmix.train", "small.yaml", *words, "out=whole"], check=True)
    same(job.folder / "last.pt", folder / "whole/last.pt")
    parts, whole = run_folder.read(job.folder), run_folder.read("whole")
    assert parts.finished and [row["top1"] for row in parts.val.values()] == [row["top1"] for row in whole.val.values()]


@pytest.mark.long
@pytest.mark.parametrize("how", ["kill", "ctrl-c"])
def test_the_run_of_a_killed_sweep_saves_and_ends(folder, how):
    (folder / "patient.py").write_text(PATIENT)
    (job,) = expand("mix=cutmix")
    script = "from fastmix import sweep; from fastmix.runs import one_run; "
    script += "one_run.command = lambda job, *_: ['patient', str(job.folder)]; sweep.main()"
    command = [sys.executable, "-c", script, "small.yaml", "mix=cutmix"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait((job.folder / "log.jsonl").exists)
    assert "| running " in scheduler.status([job])
    if how == "kill":
        process.kill()
        process.wait()
        assert job.state == "running", "the lock is kept while the run saves"
    else:
        os.killpg(process.pid, signal.SIGINT)  # the whole group, as a terminal does
    wait(lambda: job.state == "stopped")
    process.wait()
    assert (job.folder / "train.log").read_text() == "saving\n"


def test_sigterm_and_ctrl_c_end_the_sweep_in_order(folder, capsys, monkeypatch):
    (folder / "patient.py").write_text(PATIENT)
    monkeypatch.setattr(one_run, "command", lambda job, *_: ["patient", str(job.folder)])
    first, second = expand("mix=cutmix", "seed=0,1")
    for kind in (signal.SIGTERM, signal.SIGINT):
        (first.folder / "log.jsonl").unlink(missing_ok=True)

        def interrupt(kind=kind):
            wait((first.folder / "log.jsonl").exists)
            os.kill(os.getpid(), kind)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert sweep.main(["small.yaml", "mix=cutmix", "seed=0,1"]) == 128 + kind
        thread.join()
        text = capsys.readouterr().out
        assert f"{first.folder}: stopped, saved" in text and text.splitlines()[-1] == "2 runs: 1 stopped, 1 waiting"
        assert (first.folder / "train.log").read_text().split()[-1] == "saving" and not second.folder.exists()


def test_a_run_whose_process_is_killed_has_failed(folder, capsys, monkeypatch):
    kill = "import os, signal; print('halfway', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(one_run, "command", lambda *_: ["timeit", "-n", "1", kill])
    assert sweep.main(["small.yaml", "mix=cutmix"]) == 1
    assert "failed, killed by SIGKILL; last: halfway" in capsys.readouterr().out


def test_lists_are_multiplied_and_named(folder):
    found = expand("mix=all", "seed=0,1", "optim.lr=0.1,0.2", "data.workers=1", "epochs=3")
    assert len(found) == 4 * 2 * 2
    assert [(job.cfg.mix, job.cfg.seed, job.cfg.optim.lr) for job in found[:5]] == [
        ("vanilla", 0, 0.1), ("vanilla", 0, 0.2), ("vanilla", 1, 0.1), ("vanilla", 1, 0.2), ("cutmix", 0, 0.1)
    ]  # fmt: skip
    assert str(found[0].folder) == "runs/small/vanilla_s0_epochs=3_optim.lr=0.1"
    assert len({job.folder for job in found}) == len(found)
    (one,) = expand("augment.fill=[1,2,3]", "data.mean=[0, 0, 0]")
    assert one.cfg.augment.fill == (1, 2, 3) and one.cfg.data.mean == (0, 0, 0)
    a, b = expand("data.ramp=[32,0,1],[32,0,2]")
    assert (a.cfg.data.ramp, b.cfg.data.ramp) == ((32, 0, 1), (32, 0, 2)) and a.folder != b.folder
    a, b = expand("data.train=x/y.beton,x-y.beton")
    assert a.folder.parent == b.folder.parent == Path("runs/small") and a.folder != b.folder


def test_gpus_are_shared_out(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (
        scheduler.devices(None) == ["0", "1"]
        and scheduler.devices("1") == ["1"]
        and scheduler.devices(None, "cpu") == [None]
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert scheduler.devices(None) == ["4", "6"] and scheduler.devices("6") == ["6"]
    with pytest.raises(ValueError, match="no GPU '1'; there are: 4, 6"):
        scheduler.devices("1")
    with pytest.raises(ValueError, match="device: cpu"):
        scheduler.devices("4", "cpu")
    (folder / "small.yaml").write_text(SMALL.replace(", workers: 2", ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    (job,) = expand("mix=cutmix")
    words = scheduler.Local(["4", "6"] * 2).words(job, "4")
    assert {"data.workers=4", "device=cuda"} <= set(words)  # 16 cores, four runs at a time
    assert not {"data.workers=16", "device=cuda"} & set(scheduler.Local([None]).words(job, None))

    # Three runs on two GPUs: the third waits for a place, and each process sees its own GPU alone.
    tell = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    monkeypatch.setattr(one_run, "command", lambda *_: ["timeit", "-n", "1", tell])
    assert sweep.main(["small.yaml", "mix=cutmix", "seed=0,1,2", "--gpus", "4,6"]) == 1  # none of them trains
    seen = [(job.folder / "train.log").read_text().split()[0] for job in expand("mix=cutmix", "seed=0,1,2")]
    assert seen[:2] == ["4", "6"] and seen[2] in ("4", "6")


def test_status_and_time_left_of_a_running_run(folder, capsys):
    first, second = expand("mix=cutmix", "seed=0,1", "epochs=100")
    lock = first.lock()
    assert first.lock() is None and first.state == "running"
    line = {"kind": "train", "time": 9.0, "step": 50, "epoch": 10.0, "loss": 1.0, "lr": 0.1, "images_per_s": 2.0}
    (first.folder / "log.jsonl").write_text(json.dumps(line) + "\n" + '{"kind": "tr')
    assert sweep.main(["small.yaml", "mix=cutmix", "seed=0,1", "epochs=100", "--status"]) == 0
    text = capsys.readouterr().out
    # 450 more steps of 20 images at 2 images/s are 75 minutes
    row = [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]]
    assert row == [str(first.folder), "running", "10.0/100", "–", "2", "1:15", ""]
    assert text.splitlines()[-1] == "2 runs: 1 running, 1 waiting" and not second.folder.exists()
    lock.release()
    assert first.state == "stopped"
    line = {"kind": "val", "time": 9.0, "step": 50, "epoch": 10, "top1": 50.0, "ema_top1": 60.0}
    (first.folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert "| stopped | 0/100 | 60.00 |" in scheduler.status([first])


def test_a_terminal_shows_one_table_that_fits(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(scheduler.shutil, "get_terminal_size", lambda: os.terminal_size((40, 8)))
    screen = scheduler.Screen(expand("mix=cutmix", "seed=0,1"))
    screen.show()
    drawn = capsys.readouterr().out
    assert drawn.count("\n") == 5 and max(map(len, drawn.splitlines())) == 40
    screen.show()
    assert capsys.readouterr().out == "", "not again so soon"
    screen.say("news")
    assert capsys.readouterr().out == "\x1b[5A\x1b[Jnews\n", "the table gives way"
    screen = scheduler.Screen(expand("mix=all", "seed=0,1"))
    screen.show()
    assert capsys.readouterr().out.splitlines()[-1] == "8 runs: 8 waiting", "too many: only those that run"


@pytest.mark.parametrize(
    "words, says",
    [
        (["mix=cutmix,cutmixx"], "mix=cutmixx: mixers: no row 'cutmixx'"),
        (["mix=all", "seed=0,x"], "mix=vanilla seed=x: small.yaml: seed is 'x'"),
        (["optim.lrr=1,2"], "optim.lrr=1: small.yaml: unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        (["data.val=nowhere.beton"], "data.val=nowhere.beton: data.val is 'nowhere.beton', which does not exist"),
        (["seed=0,0"], "comes twice"),
        (["seed=0", "seed=1"], "seed=a,b"),
        (["out=a"], "--runs FOLDER"),
        (["seed"], "write key=value"),
        (["--gpus", "0"], "--gpus 0"),
        (["--per-gpu", "0"], "argument --per-gpu: '0' is not a whole number from 1"),
        (["--runs", "old", "optim.lr=0.5"], "these keys differ: batch_total; choose another --runs"),
    ],
)
def test_mistakes_are_found_before_anything_starts(folder, capsys, words, says):
    (folder / "old/small/vanilla_s0_optim.lr=0.5").mkdir(parents=True)
    text = SMALL.replace("lr: 0.05", "lr: 0.5").replace("batch_total: 20", "batch_total: 10")
    (folder / "old/small/vanilla_s0_optim.lr=0.5/config.yaml").write_text(text)
    before = sorted(folder.rglob("*"))
    assert cli.run(sweep.main, "sweep", ["small.yaml", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastmix sweep: error: ") and says in err and err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "words, why",
    [
        (["data.train=nowhere.beton"], "nowhere.beton"),
        (["mixers.attentivemix.teacher=resnet18", "mix=vanilla,attentivemix"], "weights is not given"),
    ],
)
def test_what_a_run_lacks_is_found_before_any_begins(words, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=why):
        sweep.main(["quickstart", *words])
    assert not (tmp_path / "runs").exists()
