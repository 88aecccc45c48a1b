"""Every fault of the tables in this folder: one line that says what, where and what to do, or the right result."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from faults.harness import judge

TABLES = [path.stem for path in sorted(Path(__file__).parent.glob("*.py")) if "\nFAULTS" in path.read_text()]
CASES = {f"{table}/{fault.name}": fault for table in TABLES for fault in import_module(f"faults.{table}").FAULTS}
LONG = ("checkpoints", "remote", "skipping", "where")  # tables whose commands train, load weights or wait


def case(name: str):
    return pytest.param(name, marks=pytest.mark.long if name.partition("/")[0] in LONG else ())


@pytest.mark.parametrize("name", [case(name) for name in CASES])
def test_fault(name: str, running, tmp_path: Path):
    judge(CASES[name], tmp_path, running)
