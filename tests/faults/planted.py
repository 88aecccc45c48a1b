"""python -m faults.planted FAULT: a command with a fault of each kind that the harness must find, and one without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINE = "fastmix faults.planted: error: x.csv, row 3: -1 is no label"


def main(fault: str) -> int:
    if fault == "sleeps":
        time.sleep(60)
    if fault == "raises":
        raise RuntimeError("x")
    if fault == "dies":
        os.abort()
    if fault == "says nothing":
        return 0
    if fault == "changes":
        Path("x.csv").write_text("changed")
    if fault == "leaves":
        Path("new").mkdir()
    if fault == "leaves a process":
        subprocess.Popen(["sleep", "30"])
    if fault == "leaves a temporary file":
        tempfile.mkstemp()
    if fault == "says more":
        print("and more", file=sys.stderr)
    if fault == "says an empty line":
        print(LINE.split("x.csv")[0], file=sys.stderr)
        return 2
    if fault == "ends otherwise":
        return 1
    print(LINE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
