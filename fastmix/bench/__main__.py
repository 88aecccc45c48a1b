"""python -m fastmix.bench"""

import sys

from fastmix.bench import main
from fastmix.cli import run

if __name__ == "__main__":
    sys.exit(run(main, "bench"))
