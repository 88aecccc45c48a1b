"""A run of two epochs, trained once a process, for faults to be planted in."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from fastmix import files, train
from faults.harness import CONFIG

WORDS = ("epochs=2", "out=run")
COMMAND = "fastmix.train {config} epochs=2 out=run --resume"
"""Continues it."""


@cache
def _made() -> tempfile.TemporaryDirectory:
    folder, before = tempfile.TemporaryDirectory(), Path.cwd()
    os.chdir(folder.name)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            assert train.main([str(CONFIG), *WORDS]) == 0
    finally:
        os.chdir(before)
    return folder


def finished(folder: Path) -> Path:
    """Copies the finished run to folder/run."""
    return Path(shutil.copytree(Path(_made().name) / "run", folder / "run"))


def unfinished(folder: Path) -> Path:
    """The same after its first epoch: the step of its checkpoint says so, and nothing is exported."""
    run = finished(folder)
    (run / "model.safetensors").unlink()
    change(run / "last.pt", lambda content: content["run"].update(step=2, validated=1))
    return run


def change(path: Path, how) -> None:
    """Loads a checkpoint, changes its content and writes it anew, with a right checksum."""
    content = files.read_torch(path)
    how(content)
    files.write_torch(path, content)
