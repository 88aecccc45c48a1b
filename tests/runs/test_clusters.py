"""Clusters by name, and what is drawn for a search."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from fastmix import cli, launch, sweep
from fastmix.runs import clusters, draws, on_slurm, one_run, queue, run_folder
from helpers import ROOT
from helpers.small_runs import SMALL
from helpers.sweeping import wait

FILE = """
lab: {engine: ray, address: "10.0.0.1:6379", gpus_per_run: 0.5}
a100: {engine: slurm, partition: gpu, time: 24:00:00, gpus_per_run: 4, cpus_per_run: 32, extra: {account: vision}}
slurm: {partition: short}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "clusters.yaml").write_text(FILE)
    return tmp_path


def test_a_name_is_an_entry_or_an_engine(folder):
    file = Path("clusters.yaml")
    assert clusters.load("local", file) is None and clusters.load("local") is None
    assert clusters.load("lab", file) == clusters.Ray("10.0.0.1:6379", 0.5)
    assert clusters.load("ray", file) == clusters.Ray() and clusters.load("slurm") == clusters.Slurm()
    assert clusters.load("slurm", file) == clusters.Slurm("short")
    assert clusters.load("a100", file).time == "24:00:00" and clusters.load("a100", file).extra == {"account": "vision"}
    clusters.own_file().parent.mkdir(parents=True)
    file.rename(clusters.own_file())
    assert clusters.load("lab").gpus_per_run == 0.5


def test_the_entries_of_the_docs_are_some(folder):
    text = (ROOT / "docs/scale.md").read_text().split("```\nlab:")[1].split("```")[0]
    (folder / "docs.yaml").write_text("lab:" + text)
    lab, site = (clusters.load(name, Path("docs.yaml")) for name in ("lab", "site"))
    assert lab.extra == {"accelerator_type": "H100"} and site.time == "24:00:00" and site.gpus_per_run == 4


def test_a_sweep_finishes_what_a_search_gave_up(folder, monkeypatch, capsys):
    (job,) = queue.expand("small.yaml", ["mix=cutmix"], Path("runs"))
    job.folder.mkdir(parents=True)
    (job.folder / run_folder.EARLY).write_text("by asha after epoch 1 of 2\n")
    argv = ["small.yaml", "mix=cutmix", "device=cpu"]
    assert sweep.main([*argv, "--status"]) == 0
    assert "| stopped early | 0/2   | –     | –        | –    | by asha after epoch 1 of 2 |" in capsys.readouterr().out
    line = json.dumps({"kind": "val", "time": 1, "step": 1, "epoch": 2, "top1": 1})
    end = f"open('{job.folder}/log.jsonl', 'w').write('{line}\\n'); open('{job.folder}/model.safetensors', 'w')"
    monkeypatch.setattr(one_run, "command", lambda *_: ["timeit", "-n", "1", "-r", "1", end])
    monkeypatch.setattr(sweep, "require", lambda jobs: None)
    assert sweep.main(argv) == 0 and job.state == "finished" and not (job.folder / run_folder.EARLY).exists()
    assert sweep.main([*argv, "--on", "slurm"]) == 0 and "no run is left to train" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, entry, says",
    [
        ("labb", "", "--on labb: no such cluster in clusters.yaml; did you mean 'lab'?"),
        ("new", "new: {adress: x, engine: ray}", "unknown key 'new.adress'; did you mean 'new.address'?"),
        ("new", "new: {engine: pbs}", "new.engine is 'pbs'; choose one of ray, slurm"),
        (
            "new",
            "new: {engine: ray, gpus_per_run: 1.5}",
            "new.gpus_per_run is 1.5; it must be a whole number or less than",
        ),
        ("new", "new: {engine: slurm, gpus_per_run: 0.5}", "new.gpus_per_run is 0.5; it must be a whole number"),
        ("new", "new: {engine: slurm, time: 60}", "new.time is 60; it must be text"),
        ("new", "new: [slurm]", "new is ['slurm']; it must be a mapping"),
    ],
)
def test_a_wrong_entry_is_one_line(folder, capsys, name, entry, says):
    (folder / "clusters.yaml").write_text(FILE + entry)
    before = sorted(folder.rglob("*"))
    words = ["small.yaml", "mix=cutmix", "--clusters", "clusters.yaml", "--on", name]
    assert cli.run(sweep.main, "sweep", words) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1, err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "words, says",
    [
        (["--on", "ray", "--gpus", "0"], "--gpus and --per-gpu are of this machine"),
        (["--clusters", "nowhere.yaml"], "--clusters nowhere.yaml: no such file"),
        (["optim.lr=uniform(1,2)"], "optim.lr=uniform(1,2) is drawn: give --samples N"),
        (["--samples", "3"], "--samples goes with a key whose values are drawn"),
        (["optim.lr=uniform(2,1)", "--samples", "3"], "the first bound must be below the second"),
        (["optim.lr=uniform(a,b)", "--samples", "3"], "write two numbers in the brackets"),
        (["optim.lr=uniform(1)", "--samples", "3"], "write two numbers in the brackets"),
        (["optim.lr=loguniform(0,1)", "--samples", "3"], "its bounds must be above 0"),
        (["seed=randint(0.5,2)", "--samples", "3"], "write two whole numbers"),
        (["optim.lr=uniform(1,2),3", "--samples", "3"], "choice(a,b) draws one of several"),
    ],
)
def test_a_wrong_search_is_one_line(folder, capsys, words, says):
    assert cli.run(sweep.main, "sweep", ["small.yaml", "mix=cutmix", *words]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1, err


def test_an_engine_whose_package_is_missing_says_how_to_get_it(folder, capsys, monkeypatch):
    monkeypatch.setattr("fastmix.optional.find_spec", lambda name: None)
    for words, says in (
        (["--on", "ray"], "Ray needs packages that are not installed: pip install ray"),
        (["--on", "slurm"], "Slurm needs packages that are not installed: pip install submitit"),
        (["--stop", "asha"], "--stop asha needs packages that are not installed: pip install ray"),
    ):
        argv = ["small.yaml", "mix=cutmix", "data.train=shapes:train?n=100&size=32", *words]
        assert cli.run(sweep.main, "sweep", argv) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1, err


def test_draws_have_their_distributions_and_more_samples_keep_the_first(folder):
    """Kolmogorov-Smirnov: 1,000 draws differ from their distribution by more than 0.0615 once in a thousand times."""
    for text, share in (
        ("loguniform(.01,1)", lambda value: math.log(value / 0.01) / math.log(100)),
        ("uniform(-2,6)", lambda value: (value + 2) / 8),
    ):
        values = sorted(float(draws.draw("optim.lr", text, k, seed=0)) for k in range(1000))
        assert max(abs(share(value) - (k + 0.5) / 1000) for k, value in enumerate(values)) < 0.0615
    counts = np.bincount([int(draws.draw("epochs", "randint(2,5)", k, 0)) for k in range(3000)])
    assert len(counts) == 5 and not counts[:2].any() and abs(counts[2:] - 1000).max() < 4 * math.sqrt(3000 * 2 / 9)
    chosen = [draws.draw("data.mean", "choice([0,0,0],[1,1,1])", k, 0) for k in range(100)]
    assert set(chosen) == {"[0,0,0]", "[1,1,1]"}

    def expand(*words: str, **how: int) -> list[tuple]:
        jobs = queue.expand("small.yaml", ["mix=cutmix,mixup", *words], Path("runs"), **how)
        return [(job.cfg.mix, job.cfg.optim.lr, job.cfg.optim.weight_decay) for job in jobs]

    few, more = (expand("optim.lr=uniform(0,1)", samples=n) for n in (2, 4))
    assert few[:2] == more[:2] and few[2:] == more[4:6], "the same for each method"
    assert [lr for _, lr, _ in few[:2]] == [lr for _, lr, _ in few[2:]]
    both = expand("optim.weight_decay=uniform(0,1)", "optim.lr=uniform(0,1)", samples=2)
    assert [lr for _, lr, _ in both] == [lr for _, lr, _ in few] != [wd for _, _, wd in both]
    assert expand("optim.lr=uniform(0,1)", samples=2, seed=1) != few
    assert len(expand("optim.lr=choice(.1,.2)", samples=50)) == 4, "what is drawn twice is one run"


def test_several_gpus_are_as_many_processes_that_meet(folder, monkeypatch):
    place = clusters.load("a100", Path("clusters.yaml"))
    (job,) = queue.expand("small.yaml", ["mix=cutmix", "data.workers=null"], Path("runs"))
    words, count = clusters.call(place, job)
    assert count == 4 and {"data.workers=8", "device=cuda"} <= set(words)  # 32 cores
    assert on_slurm.arguments(place, job)["additional_parameters"]["gpus-per-node"] == 4
    assert clusters.call(clusters.load("lab", Path("clusters.yaml")), job)[1] == 1
    monkeypatch.setenv("RANK", "7")  # of a launcher around the sweep
    tell = "import os; from fastmix.launch import launched; print(launched(), os.environ['MASTER_PORT'])"
    child = one_run.start(job, ["timeit", "-n", "1", "-r", "1", tell], job.lock(), {}, processes=2)
    wait(child.ended)
    lines = [line.split(") ") for line in (job.folder / "train.log").read_text().splitlines() if "Launch" in line]
    assert sorted(who for who, _ in lines) == [f"Launch(rank={k}, world=2, local={k}" for k in range(2)]
    assert len({port for _, port in lines}) == 1 and one_run.end(child).kind == "stopped" and job.state == "waiting"
    assert launch.several(1) == [{}] and os.environ["RANK"] == "7"


def test_the_exit_of_several_processes_is_that_of_the_one_that_failed(folder):
    (job,) = queue.expand("small.yaml", ["mix=cutmix"], Path("runs"))
    for codes, state in (((75, 75), "waiting"), ((0, 3), "failed"), ((-15, 75), "waiting"), ((75, -9), "failed")):
        exits = f"import os; code = {codes}[int(os.environ['RANK'])]; "
        exits += "os._exit(code) if code >= 0 else os.kill(os.getpid(), -code)"
        child = one_run.start(job, ["timeit", "-n", "1", "-r", "1", exits], job.lock(), {}, processes=2)
        wait(child.ended)
        assert one_run.end(child).kind == {"waiting": "stopped"}.get(state, state) and job.state == state, codes
