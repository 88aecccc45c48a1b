"""Work for other processes, some of which do not survive it."""

import os
import signal
import subprocess
import sys

from helpers import ROOT

SMALL = "from fastmix.pipelines.packing import writer, pack; writer.NOTED = 3000; import sys, time, os\n"
DIES = SMALL + (  # of SIGKILL, after so many rows
    "add, left = writer.BetonWriter.add, int(sys.argv.pop(1))\n"
    "def counted(self, *row):\n"
    "    global left; left -= 1\n"
    "    if left < 0: self._file.flush(); os.kill(os.getpid(), 9)\n"
    "    return add(self, *row)\n"
    "writer.BetonWriter.add = counted\n"
    "from fastmix import cli, convert; sys.exit(cli.run(convert.main, 'convert', sys.argv[1:]))"
)


def work(name: str) -> str:
    if name == "dies":
        os._exit(7)
    if name == "loses the GPU":
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
    if name == "fails":
        raise ValueError("two\nlines")
    return f"{name} by {os.getpid()}"


def killed(*argv: object) -> None:
    """Converts as these arguments say, the first being after how many rows it is killed."""
    done = subprocess.run([sys.executable, "-c", DIES, *map(str, argv)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
