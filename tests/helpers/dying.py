"""Work for other processes, some of which do not survive it."""

import os


def work(name: str) -> str:
    if name == "dies":
        os._exit(7)
    if name == "loses the GPU":
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
    if name == "fails":
        raise ValueError("two\nlines")
    return f"{name} by {os.getpid()}"
