"""Trackers hold what the log holds, go on with a resumed run, and can neither stop, hang nor change one."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from fastmix import cli, config, train
from fastmix.runs import follower, trackers
from helpers import ROOT, tracker
from helpers.small_runs import SMALL, launch, run, same, stop_at

pytestmark = pytest.mark.usefixtures("own_cache")
VARIABLES = ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT")


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with the small config; trackers write into it."""
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def logged(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def expected(out: Path) -> set[tuple[str, int, float]]:
    """(name, step, value) of all that the log holds, as trackers are to name it."""
    rows = logged(out)
    return {(f"{row['kind']}/{key}", row["step"], row[key]) for row in rows for key in row.keys() - {"kind", "step"}}


def rounded(values: set) -> set:
    """Values to the precision of tensorboard's floats."""
    return {(name, step, float(f"{value:.5g}")) for name, step, value in values}


def as_csv(out: Path) -> set:
    with open(out / "track/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    skip = {"kind", "step"}
    return {
        (f"{row['kind']}/{key}", int(row["step"]), float(value))
        for row in rows
        for key, value in row.items()
        if value != "" and key not in skip
    }


def as_tensorboard(out: Path) -> set:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "track/tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    (text,) = events.Tensors("config.yaml")
    (picture,) = events.Images("first_batch")
    assert b"    mix: cutmix\n" in text.tensor_proto.string_val[0]
    assert b"commit" in events.Tensors("versions.json")[0].tensor_proto.string_val[0]
    assert picture.encoded_image_string == (out / "first_batch.png").read_bytes()
    return {(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}


def wandb_records(path: Path) -> Iterator[bytes]:
    """Records of an offline run's file: 7 bytes, then as leveldb's logs, in blocks of 32 KiB."""
    data, at, record = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def as_wandb(out: Path) -> set:
    from wandb.proto.wandb_internal_pb2 import Record

    found, ids, keys, pictures = set(), set(), set(), 0
    for path in (out / "track/wandb").glob("offline-run-*/*.wandb"):
        for data in wandb_records(path):
            record = Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                keys |= {item.key for item in record.run.config.update}
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            pictures += "first_batch" in items
            found |= {(key, items["step"], value) for key, value in items.items() if "/" in key}
    assert len(ids) == 1 and pictures == 1 and {"mix", "optim.lr", "versions.commit"} <= keys
    assert len([*(out / "track/wandb").glob("offline-run-*/files/media/images/first_batch*.png")]) == 1
    return found


def as_trackio(out: Path) -> set:
    with sqlite3.connect(Path(os.environ["TRACKIO_DIR"]) / "fastmix.db") as db:
        rows = [
            (name, step, json.loads(text))
            for name, step, text in db.execute("select run_name, step, metrics from metrics")
        ]
        settings = [json.loads(text) for (text,) in db.execute("select config from configs")]
    db.close()
    assert len({name for name, _, _ in rows}) == 1 and settings[0]["mix"] == "cutmix"
    assert sum("first_batch" in values for _, _, values in rows) == 1
    return {(key, step, value) for _, step, values in rows for key, value in values.items() if "/" in key}


def as_mlflow(out: Path) -> set:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient((out / "track/mlflow").resolve().as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("fastmix").experiment_id])
    assert found.info.run_name == out.name and found.info.status == "FINISHED"
    assert found.data.params["mix"] == "cutmix" and "versions.commit" in found.data.params
    names = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert names == {"config.yaml", "versions.json", "model.json", "first_batch.png"}
    metrics = [m for key in found.data.metrics for m in client.get_metric_history(found.info.run_id, key)]
    return {(m.key, m.step, m.value) for m in metrics}


READ = {"csv": as_csv, "tensorboard": as_tensorboard, "wandb": as_wandb, "trackio": as_trackio, "mlflow": as_mlflow}


def test_every_tracker_is_read_here():
    assert READ.keys() == trackers.TRACKERS.keys() == {*get_args(config.Tracker)}


@pytest.mark.parametrize("name", READ)
@pytest.mark.filterwarnings("ignore")  # of the packages that read
def test_a_stopped_and_resumed_run_is_one_run_in_its_tracker(folder, monkeypatch, capsys, name):
    for package in trackers.PACKAGES.get(name, ()):
        pytest.importorskip(package)
    words = ("mix=cutmix", "out=a", f"track={name}", "optim.clip=1")
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert run(*words) == cli.TRY_AGAIN
    first = json.loads((folder / f"a/track/{name}.json").read_text())
    assert first["read"] == (folder / "a/log.jsonl").stat().st_size, (folder / f"a/track/{name}.log").read_text()
    assert run(*words, resume=True) == 0
    then = json.loads((folder / f"a/track/{name}.json").read_text())
    assert then["identity"] == first["identity"] and then["read"] == (folder / "a/log.jsonl").stat().st_size
    assert "track:" not in capsys.readouterr().err
    assert rounded(READ[name](folder / "a")) == rounded(expected(folder / "a"))


def test_a_tracker_that_joins_a_resumed_run_gets_all_of_it(folder, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert run("mix=cutmix", "out=a") == cli.TRY_AGAIN
    assert not (folder / "a/track").exists()
    assert run("mix=cutmix", "out=a", "track=[csv]", resume=True) == 0
    assert as_csv(folder / "a") == expected(folder / "a")


SAYS = {
    "raises": "ended with 1 (RuntimeError: the server is not there)",
    "dies": "ended with -9",
    "hangs": "has not ended in 4 s (FASTMIX_TRACK_WAIT)",
}
SHORT = [("log", "raises"), ("finish", "hangs")]
REST = [(point, what) for point in ("init", "log", "finish") for what in SAYS if (point, what) not in SHORT]


@pytest.mark.parametrize("point, what", [*SHORT, *(pytest.param(*one, marks=pytest.mark.long) for one in REST)])
def test_a_tracker_that_fails_is_one_line_and_changes_nothing(folder, monkeypatch, capsys, point, what):
    planted = folder / "planted"
    planted.mkdir()
    tracker.plant(planted, point, what)
    monkeypatch.syspath_prepend(planted)
    monkeypatch.setenv("FASTMIX_TRACK_WAIT", "4")
    assert run("mix=cutmix", "out=without") == 0
    capsys.readouterr()
    began = time.monotonic()
    assert run("mix=cutmix", "out=a", "track=[wandb, csv]") == 0
    assert time.monotonic() - began < 20
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("track:")]
    assert len(lines) == 1 and lines[0].startswith(f"track: wandb {SAYS[what]}; the run goes on without it.")
    same(folder / "without/last.pt", folder / "a/last.pt")
    assert as_csv(folder / "a") == expected(folder / "a"), "the others are not harmed"
    assert str(planted) not in "".join(running()), "what it started has ended with it"


def running() -> list[str]:
    """Command lines of the processes there are."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:  # it has ended
            continue
    return found


def test_a_missing_package_and_a_wrong_name_are_one_line_before_anything_is_written(folder, capsys, monkeypatch):
    monkeypatch.setitem(trackers.PACKAGES, "csv", ("no_such_package",))
    before = sorted(folder.iterdir())
    for words, says in [
        (["track=csv"], "track: csv needs packages that are not installed: pip install no_such_package"),
        (["track=csv", "--dry-run"], "track: csv needs packages that are not installed: pip install no_such_package"),
        (["track=[tensorbord]"], "track is 'tensorbord'; choose one of tensorboard, wandb, trackio, mlflow, csv"),
        (["track=tensorbord"], "track is 'tensorbord'; it must be a list, or tensorboard, or wandb"),
    ]:
        assert cli.run(train.main, "train", ["small.yaml", "mix=cutmix", *words]) == 2
        err = capsys.readouterr().err
        assert says in err and len([line for line in err.splitlines() if not line.startswith("drawing")]) == 1
        assert sorted(folder.iterdir()) == before


def test_one_name_is_a_list_of_one_and_none_comes_twice():
    assert config.from_tree({"track": "csv"}, "here").track == ["csv"]
    assert config.from_tree({"track": ["csv", "wandb", "csv"]}, "here").track == ["csv", "wandb"]
    assert config.from_tree({}, "here").track == []


KILLED = """
import json, os, signal, sys
from pathlib import Path
from fastmix.runs.follower import Followers
folder = Path(sys.argv[1])
with open(folder / "log.jsonl", "w") as log:
    followers = Followers(folder, ["csv"], print)
    for step in range(1, 6):
        log.write(json.dumps({"kind": "train", "time": 1, "step": step, "epoch": 1, "images_per_s": 1}) + "\\n")
    log.write('{"kind": "train", "time": 1, "st')
    log.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_the_rest_is_handed_on_and_half_a_line_is_not(folder):
    (folder / "config.yaml").write_text(config.dump(config.Config()))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder)], env=env).returncode == -signal.SIGKILL
    end = time.monotonic() + 30
    while any("follower" in line and str(folder) in line for line in running()) and time.monotonic() < end:
        time.sleep(0.1)
    assert {step for name, step, _ in as_csv(folder) if name == "train/epoch"} == {1, 2, 3, 4, 5}


@pytest.mark.long
def test_of_several_processes_the_first_alone_has_trackers(running, folder):
    launch(running, "mix=cutmix", "out=a", "track=csv", "optim.clip=1", "log_mixed=true", "log_clean=1")
    assert {"grad_norm", "mixed", "clean_top1", "memory_mb"} <= logged(folder / "a")[0].keys()
    assert as_csv(folder / "a") == expected(folder / "a")
    assert len((folder / "a/track/log.csv").read_text().splitlines()) == len(logged(folder / "a")) + 1


def test_a_limit_that_is_none_is_a_line(monkeypatch):
    monkeypatch.setenv("FASTMIX_TRACK_WAIT", "soon")
    with pytest.raises(ValueError, match="FASTMIX_TRACK_WAIT is 'soon'"):
        follower.require([])


def test_quiet_tells_warnings_and_the_result_alone(folder, capsys):
    words = ["small.yaml", "mix=cutmix", "out=a", "--quiet", "data.train=shapes:train?n=100&size=32"]
    assert run("mix=cutmix", "out=b") == 0  # draws the images
    loud = capsys.readouterr()
    assert train.main(words) == 0
    quiet = capsys.readouterr()
    assert "epoch 1: top-1" in loud.err and quiet.err == ""
    assert loud.out.startswith("done: top-1") and quiet.out.startswith("done: top-1")
