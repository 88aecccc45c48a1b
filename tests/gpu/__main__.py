"""PYTHONPATH=.:tests python -m gpu CHECK ARGUMENT ...: a check of this folder, in a process that believes in a GPU."""

import runpy
import sys

from gpu import guard

assert "torch" not in sys.modules
guard.load()
sys.argv = sys.argv[1:]
runpy.run_module(f"gpu.{sys.argv[0]}", run_name="__main__")
