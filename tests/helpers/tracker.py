"""In place of the package wandb: a tracker that goes wrong as a test says, at the point that it says."""

from pathlib import Path

CODE = """
import os, signal, subprocess, sys, time

POINT, WHAT = {point!r}, {what!r}

def pass_by(point):
    if point == POINT:
        if WHAT == "raises":
            raise RuntimeError("the server is not there")
        if WHAT == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if WHAT == "hangs":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # of {folder}"])
            time.sleep(600)

class Settings:
    def __init__(self, **settings): pass

class Image:
    def __init__(self, path): pass

class Run:
    def define_metric(self, *names, **more): pass
    def log(self, values): pass_by("log")
    def finish(self, exit_code): pass_by("finish")

def init(**more):
    pass_by("init")
    return Run()
"""


def plant(folder: Path, point: str, what: str) -> None:
    """Writes the package to the folder. point: init, log or finish; what: raises, dies, or hangs, with a child."""
    (folder / "wandb.py").write_text(CODE.format(point=point, what=what, folder=folder))
