"""The three ways to have fastmix: an editable install, a wheel, a bare checkout. Each from a foreign directory."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import fastmix
from fastmix.cli import VERBS
from helpers import ROOT

INSTALLED_AS = {
    "fastmix": "fastmix",
    "configs": "fastmix/configs",
    "kernels": "fastmix/kernels",
    "pipelines": "fastmix/pipelines",
}
BESIDE = ("docs", "examples", "results", "tests")  # folders that an sdist holds and a wheel does not
HEAVY = {"cv2", "ffcv", "matplotlib", "numba", "PIL", "timm", "torch", "torchvision", "triton"}

PROBE = """
import json, fastmix, fastmix.kernels, fastmix.pipelines
from importlib.resources import files
from importlib.util import find_spec
from fastmix.config import find
configs = sorted(f.name for f in files("fastmix.configs").iterdir() if f.name.endswith(".yaml"))
print(json.dumps({
    "places": [fastmix.__file__, *fastmix.kernels.__path__, *fastmix.pipelines.__path__, str(files("fastmix.configs"))],
    "configs": configs,
    "found": [find(name.removesuffix(".yaml")).name for name in configs],
    "strays": [name for name in ("configs", "kernels", "pipelines") if find_spec(name)],
}))
"""


def python(executable: Path | str, *args: str, cwd: Path, path: Path | None = None) -> str:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run([executable, *args], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*args: str, cwd: Path) -> None:
    python(sys.executable, "-m", "pip", "--disable-pip-version-check", *args, cwd=cwd)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the project, so that nothing is built in the checkout itself."""
    copy = tmp_path_factory.mktemp("source")
    for name in (*INSTALLED_AS, *BESIDE):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "-w", ".", str(source), cwd=out)
    (path,) = out.glob("fastmix-*.whl")
    return path


@pytest.fixture
def environment(tmp_path) -> Path:
    """A fresh virtual environment that sees the packages of the running one, but not its fastmix."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return folder


@pytest.fixture
def foreign(tmp_path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def files_of(root: Path) -> set[str]:
    """Where each file of the project that code or configs are made of must lie once installed."""
    return {
        f"{place}/{file.relative_to(root / name).as_posix()}"
        for name, place in INSTALLED_AS.items()
        for file in (root / name).rglob("*.*")
        if file.suffix in (".py", ".yaml", ".csv", ".typed", ".html", ".css", ".js")
    }


def test_an_sdist_holds_the_checkout(source, tmp_path):
    """All that its tests, documents and make targets need."""
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    python(sys.executable, "-c", script, str(tmp_path), cwd=source)
    (path,) = tmp_path.glob("fastmix-*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    made = {name for name in files if ".egg-info/" in name or name.startswith("build/")}
    assert {"Makefile", "constraints.txt", "docs/design.md", "LICENSE", "tests/helpers/__init__.py"} <= held
    assert sorted(files - made - held) == []


def test_wheel_holds_every_file_and_nothing_beside_the_package(source, wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {n for n in names if ".dist-info/" not in n} == files_of(source)
    assert all(n.startswith("fastmix") for n in names)


@pytest.mark.long
@pytest.mark.parametrize("way", ["editable", "wheel"])
def test_installed(way, source, wheel, environment, foreign):
    what = ["-e", str(source)] if way == "editable" else [str(wheel)]
    executable = environment / "bin/python"
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    pip("--python", str(executable), "install", *options, *what, cwd=foreign)
    seen = json.loads(python(executable, "-c", PROBE, cwd=foreign))
    home = source if way == "editable" else environment
    assert [p for p in seen["places"] if not Path(p).is_relative_to(home)] == []
    assert seen["configs"] == seen["found"] == sorted(p.name for p in (source / "configs").glob("*.yaml"))
    assert seen["strays"] == []
    overview = python(environment / "bin/fastmix", "--help", cwd=foreign)
    assert [verb for verb in VERBS if verb not in overview] == []


def test_bare_checkout(source, foreign):
    seen = json.loads(python(sys.executable, "-c", PROBE, cwd=foreign, path=source))
    assert [p for p in seen["places"] if not Path(p).is_relative_to(source)] == []
    assert seen["configs"] == seen["found"] == sorted(p.name for p in (source / "configs").glob("*.yaml"))


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy(verb, source, foreign):
    script = f"""
import runpy, sys
sys.argv = ["fastmix.{verb}", "--help"]
try:
    runpy.run_module("fastmix.{verb}", run_name="__main__", alter_sys=True)
except SystemExit as done:
    assert not done.code, done.code
print("loaded:", *sorted({HEAVY!r} & set(sys.modules)))
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = python(sys.executable, "-c", script, cwd=foreign, path=source).splitlines()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert lines[0].startswith("usage: ") and lines[-1] == "loaded:"
    # Processor time, because the machine may be busy.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_every_torch_that_may_be_installed_has_what_is_used(wheel):
    """torch 2.8: the first that comes with Triton 3.4, takes a process group's device, and names dynamo's limit so."""
    told = zipfile.ZipFile(wheel).read(f"fastmix-{fastmix.__version__}.dist-info/METADATA").decode()
    floors = dict(re.findall(r"^Requires-Dist: (torch|torchvision)>=([\d.]+)$", told, re.M))
    assert floors == {"torch": "2.8", "torchvision": "0.23"} and "torch ≥ 2.8 and" in told
