"""Tests marked `cuda` skip without a GPU; `data` unpacks real images where FASTMIX_DATA names a folder of archives."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from faults.harness import Server, server
from helpers.pinned import others

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: threads of torch in each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ARCHIVES = {
    "cifar10": "cifar10_jpeg.tar.xz",  # cifar10/{train,test}/<class>/NNNN.jpg, 32x32
    "imagenet_sample": "imagenet_sample.tar",  # imagenet_sample/train/<wnid>/<name>.JPEG, full size
    "tiny-imagenet-20": "tiny_imagenet_20.tar.xz",  # {train/<wnid>,val}/images/*.JPEG, 64x64
}


def pytest_configure(config: pytest.Config) -> None:
    """A warning is an error, but beside other versions of the packages, which may warn of what ours do not."""
    if not others():
        config.addinivalue_line("filterwarnings", "error")
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in defaults.items():  # ignored where a shell runs this in its background, or nohup does
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_terminal_summary(terminalreporter) -> None:
    if found := ", ".join(others()):
        terminalreporter.write_line(f"warnings were no errors: constraints.txt has other versions than {found}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that has imported what commands need, and forks for each that a test has it run."""
    with server(tmp_path_factory.mktemp("server")) as by:
        yield by


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A function from a name in ARCHIVES to the folder of that name, unpacked once a session."""
    if not os.environ.get("FASTMIX_DATA"):
        pytest.skip("needs FASTMIX_DATA")
    root = tmp_path_factory.mktemp("data")

    @cache
    def unpacked(name: str) -> Path:
        archive = Path(os.environ["FASTMIX_DATA"]) / ARCHIVES[name]
        subprocess.run(["tar", "-xf", archive, "-C", root], check=True)
        return root / name

    yield unpacked
    shutil.rmtree(root)
