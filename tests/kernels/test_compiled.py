"""Compiled code is kept where it can be; where it cannot, or is damaged, functions compile and run all the same."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmix.kernels import compiled
from helpers import ROOT

CODE = """
from fastmix.kernels.compiled import compiled

@compiled()
def double(x):
    return 2 * x
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that imports a file with a compiled function anew, from a folder where nothing is kept yet."""
    path = tmp_path / "doubling.py"
    path.write_text(CODE)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(compiled.Kept, "told", False)

    def load():
        spec = importlib.util.spec_from_file_location("doubling", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def homeless(module, tmp_path, monkeypatch):
    """Nothing can be written: beside the source a file is in the way, and there is no home."""
    (tmp_path / "__pycache__").write_text("")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/dev/null")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def hits(module) -> int:
    assert module.double(21) == 42
    return sum(module.double.stats.cache_hits.values())


def test_beside_the_source(module, tmp_path, capsys):
    assert [hits(module()), hits(module())] == [0, 1]
    assert list((tmp_path / "__pycache__").glob("doubling*.nbc")) and capsys.readouterr().err == ""


def test_in_a_temporary_folder_of_this_user_alone(homeless, module, capsys):
    assert [hits(module()), hits(module())] == [0, 1]
    (folder,) = homeless.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.rglob("*.nbc"))
    assert capsys.readouterr().err == (
        f"fastmix: compiled code is kept in {folder}; NUMBA_CACHE_DIR names a folder for it\n"
    )


def test_not_in_a_folder_that_others_may_write(homeless, module):
    folder = homeless / f"fastmix-compiled-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert [hits(module()), hits(module())] == [0, 0]
    assert list(folder.iterdir()) == []


def test_nowhere(homeless, module, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    assert [hits(module()), hits(module())] == [0, 0]


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x05", bytes(100)])
def test_damaged_code_is_compiled_anew(module, tmp_path, ending, content):
    hits(module())
    for path in (tmp_path / "__pycache__").glob(f"*.{ending}"):
        path.write_bytes(content)
    assert [hits(module()), hits(module())] == [0, 1]


def test_a_full_disk(module, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    assert hits(module()) == 0
    said = capsys.readouterr().err
    assert said.startswith("fastmix: compiled code is not kept (") and "No space left on device" in said
    assert said.count("\n") == 1 and Path(said[37:].split(":")[0]).name == "__pycache__"


def test_old_code_is_not_used_after_another_file_of_the_package_has_changed(tmp_path, monkeypatch):
    (tmp_path / "folder/deeper").mkdir(parents=True)
    for name in ("folder/__init__.py", "folder/deeper/__init__.py", "folder/times.py"):
        (tmp_path / name).write_text("")
    inner = "from fastmix.kernels.compiled import compiled\n\n@compiled()\ndef times(x):\n    return {} * x\n"
    outer = inner.replace("\n\n", "\nfrom folder.times import times as by\n\n", 1).format("by(1)")
    (tmp_path / "folder/deeper/outer.py").write_text(outer)
    monkeypatch.syspath_prepend(tmp_path)

    def found(factor: int) -> tuple[int, int]:
        """What the outer function gives with this factor in the other file, and whether it came from the disk."""
        if (code := inner.format(factor)) != (was := tmp_path / "folder/times.py").read_text():
            was.write_text(code)
        for name in [name for name in sys.modules if name.partition(".")[0] == "folder"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        compiled._stamp.cache_clear()
        times = importlib.import_module("folder.deeper.outer").times
        return times(7), sum(times.stats.cache_hits.values())

    assert [found(2), found(2), found(30), found(30)] == [(14, 0), (14, 1), (210, 0), (210, 1)]


FIRST_STEP = """
import json
import torch
from numba.core import event
from fastmix.kernels.mix import mix
from fastmix.kernels.mix.cases import Case
from fastmix.pipelines.beton import Beton
from fastmix.pipelines.view import View

class Heard(event.Listener):
    compiled = []
    def on_start(self, what):
        function = what.data["dispatcher"].py_func
        if function.__module__.startswith("fastmix"):
            self.compiled.append([f"{function.__module__}.{function.__qualname__}", str(what.data["args"])])
    def on_end(self, what):
        pass

event.register("numba:compile", Heard())
images, *_ = next(iter(Beton("shapes:train?n=16&size=32", 8, view=View(16), train=True, workers=1).epoch(0)))
mixed = mix(**Case("mixup+cutmix", 8, (16, 16)).arguments())
print(json.dumps([Heard.compiled, int(images.long().sum()), mixed.double().sum().item()]))
"""


@pytest.mark.long
def test_a_first_step_compiles_what_it_needs_once_and_a_second_process_nothing(tmp_path):
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", FIRST_STEP]
    found = [json.loads(subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE).stdout) for _ in range(2)]
    (first, *values), (second, *again) = found
    assert second == [] and values == again
    assert not [what for what in first if "Literal" in what[1]]  # compiled for one number alone
    passes = [what for what in first if what[0].endswith("mix_kind")]
    others = [tuple(what) for what in first if what not in passes]
    assert len(passes) == 2 and len(others) == len(set(others)) < 50
    assert not [name for name, _ in others if "_put_blocks" in name or "_map_weights" in name]  # of other kinds


def test_a_function_that_compiled_ones_call_is_plain_python_by_itself():
    @compiled.inner()
    def half(x):
        return x / 2

    @compiled.compiled()
    def quarter(x):
        return half(half(x))

    assert quarter(8) == 2 and half(8) == 4  # the second one after it was compiled, without an entry for Python
    assert isinstance(half([8][0]), float)
