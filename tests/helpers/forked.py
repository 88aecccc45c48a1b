"""python -m helpers.forked COUNT MODULE ARGUMENT ...: a module in so many processes, told of each other as by torchrun.

Each is a fork of this process: run by the server of tests/faults, they begin with everything imported.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from pathlib import Path

from faults.harness import Outcome, Server


def forked(by: Server, *words: str, count: int = 2) -> Outcome:
    """How `python -m WORDS` ended in so many processes that work in this folder; the first exit code that is not 0."""
    return by.run(["helpers.forked", str(count), *words], Path.cwd(), {}, 300)


def two_processes(by: Server, file: str, *arguments: str) -> None:
    """Runs process(*arguments) of a test's file on two processes, which are a group."""
    done = forked(by, "helpers.process", file, *arguments)
    assert done.code == 0, done.output


def main() -> None:
    count, children = int(sys.argv[1]), []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for rank in range(count):
        if child := os.fork():
            children.append(child)
            continue
        size, place = ("WORLD_SIZE", "LOCAL_WORLD_SIZE"), ("RANK", "LOCAL_RANK")
        os.environ |= dict.fromkeys(size, str(count)) | dict.fromkeys(place, str(rank))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        del sys.argv[:2]
        sys.modules.pop(sys.argv[0], None)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(next(filter(None, codes), 0))


if __name__ == "__main__":
    main()
