"""What a launcher says of this process: torchrun's variables, checked. Those of srun and mpirun become torchrun's."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from fastmix.launchers import SAID, as_torchrun

TOGETHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets for each process, and torch.distributed needs."""
TORCHRUN = "torchrun --nproc_per_node=N -m fastmix.train ..."


@dataclass(frozen=True)
class Launch:
    """Process `rank` of `world`, and its number on this machine."""

    rank: int = 0
    world: int = 1
    local: int = 0


def launched() -> Launch:
    """What the launcher says, in torchrun's variables, which it sets where srun or mpirun has started the process.

    Raises ValueError where it is incomplete or contradicts itself.
    """
    if not any(os.environ.get(name) for name in TOGETHER[:2]):
        os.environ.update(as_torchrun(os.environ))
    local_world()
    given = [name for name in TOGETHER[:2] if os.environ.get(name)]
    world = _number("WORLD_SIZE", 1, least=1)
    if not given or (given == ["WORLD_SIZE"] and world == 1):
        return Launch()
    missing = [name for name in TOGETHER[: 4 if world > 1 else 2] if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set, but not {' and '.join(missing)}: start "
            f"with {TORCHRUN}, which sets them all, or unset them to train on one process"
        )
    found = Launch(_number("RANK", 0), world, _number("LOCAL_RANK", 0))
    if found.rank >= world:
        raise ValueError(f"RANK is {found.rank}, but WORLD_SIZE is {world}: ranks go from 0 to {world - 1}")
    if world > 1:
        _number("MASTER_PORT", 0, most=65535)
    return found


def alone() -> dict[str, str]:
    """The environment for a process of its own, without what a launcher says of this one."""
    said = (*TOGETHER, *SAID, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return {name: value for name, value in os.environ.items() if name not in said}


def several(count: int) -> list[dict[str, str]]:
    """What torchrun would set for each of `count` processes of one run on this machine; nothing for a single one.

    They meet at a port that is free now.
    """
    if count == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [together | {"RANK": str(k), "LOCAL_RANK": str(k)} for k in range(count)]


def local_world() -> int:
    """Processes on this machine, which share its cores. Raises ValueError."""
    return _number("LOCAL_WORLD_SIZE", 1, least=1)


def _number(name: str, default: int, least: int = 0, most: int = (1 << 31) - 1) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        what = f"{name} in the environment is {text!r}; it must be a whole number from {least} to {most}"
        raise ValueError(f"{what}, as torchrun sets it")
    return int(text)
