"""Work in processes of its own, several at a time: what one of them does to itself or to the GPU ends none of the rest.

A CUDA context is lost for good by one illegal access. The process that lost it ends, and a new one takes over what it
had not done.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

MOST = 8  # processes; each holds a context of its own on the GPU


def apart(function: Callable, tasks: list[tuple], processes: int | None = None) -> Iterator[tuple[tuple, object, str]]:
    """(task, result, error) of function(*task) for each task, as they end; error is a line, empty where it went well.

    function is one that a new process can import. processes: at a time; default: as many as cores, at most MOST.
    """
    processes = min(processes or os.cpu_count() or 1, MOST, len(tasks))
    context = multiprocessing.get_context("spawn")
    waiting = [tasks[k::processes] for k in range(processes)]
    running = {}

    def start(share: list[tuple]) -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, function, share), daemon=True)
        process.start()
        theirs.close()
        running[ours] = process, list(share)

    for share in waiting:
        start(share)
    try:
        while running:
            for pipe in wait(list(running)):
                process, share = running[pipe]
                try:
                    result, error = pipe.recv()
                except EOFError:
                    process.join()
                    del running[pipe]
                    pipe.close()
                    if share and process.exitcode:
                        yield share.pop(0), None, f"its process died with exit code {process.exitcode}"
                    if share:
                        start(share)
                    continue
                yield share.pop(0), result, error
    finally:
        for pipe, (process, _) in running.items():
            process.kill()
            process.join()
            pipe.close()


def lost(error: Exception) -> bool:
    """Whether the error may have cost the process its CUDA context: one of the runtime's, by torch or by Triton."""
    return any(words in str(error) for words in ("CUDA error", "Error [CUDA]"))


def _serve(pipe, function: Callable, tasks: list[tuple]) -> None:
    for task in tasks:
        try:
            pipe.send((function(*task), ""))
        except Exception as error:  # a proof reports whatever goes wrong
            line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"{task}: {line}", file=sys.stderr)
            traceback.print_exc()
            pipe.send((None, line))
            if lost(error):
                break  # the rest is a new process's
    pipe.close()
