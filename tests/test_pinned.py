"""Warnings are errors beside the pinned versions, and beside no others."""

import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError

import pytest

from helpers import ROOT
from helpers.pinned import differing, others

CONSTRAINTS = "# of the tests\ntorch==2.13.0\ntriton==3.7.1  # comes with it\n\nffcv==1.0.2\n"
OLDER = """
import importlib.metadata, sys
real = importlib.metadata.version
importlib.metadata.version = lambda name: "0.1" if name == "numpy" else real(name)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def installed(**versions: str):
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return version


def test_what_differs_is_named():
    assert differing(CONSTRAINTS, installed(torch="2.13.0+cpu", triton="3.7.1")) == ()
    assert differing(CONSTRAINTS, installed(torch="2.8.0", triton="3.4.0")) == ("torch 2.8.0", "triton 3.4.0")


def test_a_warning_is_an_error_for_the_pinned_versions():
    if others():
        pytest.skip(f"other versions: {', '.join(others())}")
    with pytest.raises(FutureWarning):
        warnings.warn("of another version", FutureWarning, stacklevel=1)


def test_a_warning():
    """For the test below: passes where warnings are no errors."""
    if others():
        warnings.warn("of another version", FutureWarning, stacklevel=1)


def test_a_warning_is_none_beside_others():
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", f"{__file__}::test_a_warning"]
    done = subprocess.run([sys.executable, "-c", OLDER, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "other versions than numpy 0.1" in done.stdout, done.stdout + done.stderr
    assert "1 passed, 1 warning" in done.stdout
