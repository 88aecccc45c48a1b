"""Checkpoints: damaged ones, foreign ones, those of another run; runs that are stopped, and what they leave."""

from __future__ import annotations

import fcntl
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch

from fastmix import files
from faults import trained
from faults.harness import Fault, nothing

VALIDATE = "fastmix.validate run"
DURING = "faults.during {} {} fastmix.train {{config}} out=run {}"
LOCKS = []  # kept open by this process


def last(how: Callable[[Path], object]) -> Callable[[Path], None]:
    """Prepares a run whose last.pt is damaged in that way."""

    def prepare(folder: Path) -> None:
        how(trained.unfinished(folder) / "last.pt")

    return prepare


def content(how: Callable[[dict], object]) -> Callable[[Path], None]:
    """Prepares a run whose last.pt holds something else, under a right checksum."""
    return last(lambda path: trained.change(path, how))


def bytes_of(value: bytes) -> Callable[[Path], object]:
    return last(lambda path: path.write_bytes(value))


def flipped(share: float) -> Callable[[Path], object]:
    """One bit, at that share of the file; 1: in its last byte."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(int(share * len(data)), len(data) - 1)] ^= 8
        path.write_bytes(data)

    return last(flip)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(__file__, "a.py")
    return file.getvalue()


class Command:
    """What a pickle would run if it were loaded without care."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def unsealed(path: Path) -> None:
    """As an older version, or torch itself, writes it."""
    path.write_bytes(path.read_bytes()[: -files.LENGTH])


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def first_of(part: str) -> Callable[[dict], str]:
    return lambda found: next(key for key, value in found[part].items() if isinstance(value, torch.Tensor))


def without_a_tensor(found: dict) -> None:
    del found["task"][first_of("task")(found)]


def misshaped(found: dict) -> None:
    found["task"][first_of("task")(found)] = torch.zeros(2, 3)


def misshaped_momentum(found: dict) -> None:
    found["opt"]["state"][0]["momentum_buffer"] = torch.zeros(2, 3)


def not_finite(found: dict) -> None:
    found["task"][first_of("task")(found)].fill_(float("nan"))


def locked(folder: Path) -> None:
    trained.unfinished(folder)
    LOCKS.append(open(folder / "run/lock", "w"))
    fcntl.flock(LOCKS[-1], fcntl.LOCK_EX)


def half_a_line(folder: Path) -> None:
    """A log as a kill leaves it: half a line, and behind it what a resumed run of an older version wrote."""
    log = trained.finished(folder) / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], lines[1][:20], *lines[1:]]))


def before_the_first_save(folder: Path) -> None:
    run = trained.finished(folder)
    for name in ("last.pt", "best.pt", "log.jsonl", "model.safetensors"):
        (run / name).unlink()


def best_as_last(folder: Path) -> None:
    run = trained.unfinished(folder)
    (run / "last.pt").write_bytes((run / "best.pt").read_bytes())


def half_beside(folder: Path) -> None:
    (trained.unfinished(folder) / "last.pt.part").write_bytes(b"half")


def at_step(step: int) -> Callable[[Path, str], None]:
    """The checkpoint is of that step, and whole."""

    def after(folder: Path, output: str) -> None:
        assert files.read_torch(folder / "run/last.pt")["run"]["step"] == step
        assert not (folder / "run/model.safetensors").exists()
        assert not (folder / "run/lock").exists()

    return after


def exported(folder: Path, output: str) -> None:
    assert (folder / "run/model.safetensors").exists()
    lines = (folder / "run/log.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)


def without_export(folder: Path, output: str) -> None:
    assert not (folder / "run/model.safetensors").exists() and not (folder / "run/last.pt").exists()


def tied(folder: Path, output: str) -> None:
    import timm

    path = folder / "run/model.safetensors"
    timm.create_model("coat_tiny", img_size=32, num_classes=10, checkpoint_path=str(path))


def resume(name: str, prepare: Callable, *says: str, code: int = 2, **more) -> Fault:
    return Fault(name, prepare, trained.COMMAND, ("run/last.pt", *says), code, **more)


CHANGED = ("run/*",)
NO_TORCH = "not a checkpoint, or a damaged one: torch cannot read it"
DAMAGED = "damaged: its bytes are not those that were written; take another checkpoint"

FAULTS = [
    resume("empty", bytes_of(b""), "an empty file, no checkpoint"),
    resume("text", bytes_of(b"hello\n" * 99), NO_TORCH),
    resume("one byte", bytes_of(b"\x80"), NO_TORCH),
    resume("zeros", bytes_of(bytes(100_000)), NO_TORCH),
    resume("a tar file", bytes_of(archive()), NO_TORCH),
    resume("a pickle that runs a command", bytes_of(saved(Command())), NO_TORCH),
    resume("a tensor alone", bytes_of(saved(torch.ones(3))), "no checkpoint of a run with task, opt, scaler"),
    resume("weights alone", bytes_of(saved({"fc.weight": torch.ones(3)})), "no checkpoint of a run with task, opt"),
    resume("a list", bytes_of(saved([1, 2])), "no checkpoint of a run with task, opt"),
    *(resume(f"a bit flipped at {share}", flipped(share), DAMAGED) for share in (0.01, 0.3, 0.6, 0.9, 0.98, 1)),
    resume("a bit flipped in the first byte", flipped(0), DAMAGED),
    *(resume(f"cut to {share}", last(lambda path, s=share: cut(path, s)), DAMAGED) for share in (0.1, 0.5, 0.99)),
    resume("more behind it", last(lambda path: path.write_bytes(path.read_bytes() + b"x")), DAMAGED),
    resume("no optimiser", content(lambda found: found.pop("opt")), "no checkpoint of a run with task, opt, scaler"),
    resume("no step", content(lambda found: found["run"].pop("step")), "no checkpoint of a run"),
    resume("no config", content(lambda found: found["run"].pop("config")), "no checkpoint of a run"),
    resume("a list as config", content(lambda found: found["run"].update(config=[1])), "the config is [1]; it must be"),
    resume("a config without bounds", content(lambda found: found["run"]["config"].update(seed=-1)), "seed is -1"),
    resume("a tensor missing", content(without_a_tensor), "its task does not fit this run", "Missing key"),
    resume("a tensor misshaped", content(misshaped), "its task does not fit this run", "size mismatch"),
    resume("momentum misshaped", content(misshaped_momentum), "its opt does not fit this run", "[2, 3]"),
    resume("a list as optimiser", content(lambda found: found.update(opt=[1])), "its opt does not fit this run"),
    *(
        resume(
            f"{key}={value}", content(lambda found, k=key, v=value: found["run"].update({k: v})), f"{key} is {value}"
        )
        for key, value in [
            ("step", 10**9),
            ("step", -1),
            ("step", 1.5),
            ("step", None),
            ("validated", 3),
            ("best", float("nan")),
            ("result", [1]),
            ("meter", 3),
        ]
    ),
    resume("of more steps", content(lambda found: found["run"].update(steps=6)), "a run of 6 steps", "it has 4"),
    resume("of another config", content(lambda found: found["run"]["config"]["optim"].update(lr=1)), "optim.lr"),
    resume("without a checksum", last(unsealed), "no checksum in it", code=0, changes=CHANGED, after=exported),
    resume("weights that are not finite", content(not_finite), "not finite", code=1, changes=CHANGED),
    Fault(
        "a finished run whose weights are not finite",
        lambda folder: trained.change(trained.finished(folder) / "last.pt", not_finite),
        trained.COMMAND,
        ("the weights are not finite after step 4", "the last good checkpoint is"),
        1,
        changes=("run/config.yaml", "run/versions.json"),
    ),
    Fault("a link to nowhere", last(lambda path: (path.unlink(), path.symlink_to("gone"))), VALIDATE, ("run/last.pt",)),
    Fault("a folder", last(lambda path: (path.unlink(), path.mkdir())), trained.COMMAND, ("run/last.pt", "no such")),
    Fault("a pipe", last(lambda path: (path.unlink(), os.mkfifo(path))), trained.COMMAND, ("run/last.pt", "no such")),
    Fault("validate a flipped bit", flipped(0.5), VALIDATE, ("run/last.pt", DAMAGED)),
    Fault("validate text", bytes_of(b"hello"), VALIDATE, ("run/last.pt", NO_TORCH)),
    Fault("validate without a checksum", last(unsealed), VALIDATE, ("run/last.pt: no checksum in it", "top1"), 0),
    Fault(
        "validate weights of another model",
        content(misshaped),
        VALIDATE,
        ("run/last.pt: the weights do not fit the model", "size mismatch"),
    ),
    Fault(
        "validate half an export",
        lambda folder: cut(trained.finished(folder) / "model.safetensors", 0.5),
        "fastmix.validate run/model.safetensors",
        ("run/model.safetensors: not a readable safetensors file",),
    ),
    Fault(
        "a run that another process trains", locked, trained.COMMAND, ("run: another process trains in this folder",)
    ),
    Fault("a folder that is there", trained.finished, "fastmix.train {config} out=run", ("run exists", "--resume")),
    Fault(
        "half a line in the log, report", half_a_line, "fastmix.report run", ("run/log.jsonl, line 2", "passed over"), 0
    ),
    Fault("half a line in the log, resume", half_a_line, trained.COMMAND, ("done: top-1",), 0, changes=CHANGED),
    Fault(
        "half a line at the log's end, resume",
        lambda folder: cut(trained.unfinished(folder) / "log.jsonl", 0.9),
        trained.COMMAND,
        ("done: top-1",),
        0,
        after=lambda folder, _: json.loads((folder / "run/log.jsonl").read_text().splitlines()[-1]),
        changes=CHANGED,
    ),
    *(
        Fault(
            f"stopped by {name}",
            nothing,
            DURING.format(name, 1, ""),
            ("stopped at step 1 of 2, saved",),
            75,
            at_step(1),
        )
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGTERM+SIGTERM", "SIGHUP+SIGTERM")
    ),
    Fault("Ctrl-C twice", nothing, DURING.format("SIGINT+SIGINT", 1, ""), ("interrupted",), 130),
    Fault("Ctrl-C after SIGTERM", nothing, DURING.format("SIGTERM+SIGINT", 1, ""), ("interrupted",), 130),
    Fault(
        "a full disk at the first save",
        nothing,
        DURING.format("full", 1, ""),
        ("run/best.pt: File too large; there is no checkpoint yet",),
        1,
    ),
    Fault(
        "a full disk at a later save",
        trained.unfinished,
        DURING.format("full", 3, "epochs=2 --resume"),
        ("run/last.pt: File too large; the last good checkpoint is run/last.pt. --resume out=run goes on",),
        1,
        lambda folder, _: files.check(folder / "run/last.pt"),
        changes=("run/log.jsonl", "run/config.yaml", "run/versions.json"),
    ),
    Fault(
        "weights that the last step made infinite",
        nothing,
        DURING.format("nan", 2, ""),
        ("the weights are not finite after step 2", "there is no checkpoint yet", "optim.lr"),
        1,
        without_export,
    ),
    Fault(
        "a learning rate that makes the loss infinite",
        nothing,
        "fastmix.train {config} out=run optim.lr=1000 epochs=20",
        ("not finite", "the last good checkpoint is run/last.pt"),
        1,
    ),
    Fault(
        "a model with tied weights",
        nothing,
        "fastmix.train {config} out=run model.name=coat_tiny model.args.img_size=32",
        ("done: top-1",),
        0,
        tied,
    ),
]
