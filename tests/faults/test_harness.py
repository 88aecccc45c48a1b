"""The harness finds planted faults of each of its kinds, and none where there is none."""

from __future__ import annotations

import pytest

from faults.harness import Fault, judge

PLANTED = {
    "sleeps": "HANG",
    "raises": "CRASH: a traceback",
    "dies": "CRASH: died by signal 6",
    "ends otherwise": "CRASH: expected exit code 2",
    "says nothing": "SILENT: expected exit code 2",
    "says more": "SILENT: expected one line",
    "says an empty line": "SILENT: expected one line",
    "changes": "LOST: changed or gone: .'x.csv'",
    "leaves": "LOST: left behind: .'new'",
    "leaves a process": "LEAK: left over: .'process",
    "leaves a temporary file": "LEAK: left over: .'tmp",
}


@pytest.mark.parametrize("fault", [*PLANTED, "none"])
def test_planted_faults_are_found(fault, running, tmp_path):
    def prepare(folder):
        (folder / "x.csv").write_text("a.jpg,-1\n")

    case = Fault(fault, prepare, f"faults.planted '{fault}'", ("x.csv, row 3", "-1"), limit=2)
    if fault == "none":
        judge(case, tmp_path, running)
        case = Fault(fault, prepare, "faults.planted none", ("row 4",))
        with pytest.raises(AssertionError, match="SILENT: not said: .'row 4'"):
            judge(case, tmp_path, running)
    else:
        with pytest.raises(AssertionError, match=PLANTED[fault]):
            judge(case, tmp_path, running)
