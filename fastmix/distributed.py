"""Processes: a launcher starts them, this file says who we are and adds numbers up. One process needs none of it."""

from __future__ import annotations

import inspect
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastmix.heartbeat import SILENT, Heartbeat
from fastmix.launch import Launch, launched, local_world
from fastmix.system import seconds

_heartbeat: Heartbeat | None = None  # of a run on several machines
JOIN = 600.0  # seconds that processes wait for each other at the start; FASTMIX_JOIN_TIMEOUT sets another number


def init(device: str = "auto", captured: bool = False) -> torch.device:
    """Joins the group that torchrun, srun or mpirun describes, if any; returns this process's device.

    captured: gradients will be averaged in CUDA graphs, beside whose capture no thread of NCCL's may look for errors.
    Raises ValueError for a device that is not there and for what no launcher should say, OSError where the others do
    not come.
    """
    launch = launched() if not dist.is_initialized() else Launch(rank(), world(), dist.get_node_local_rank(0))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU: use device=cpu, or a CUDA build of torch")
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    own = torch.device("cuda", launch.local) if cuda else torch.device("cpu")
    if cuda:
        if launch.local >= (count := torch.cuda.device_count()):
            raise ValueError(
                f"LOCAL_RANK is {launch.local}, but there are {count} GPUs: torchrun --nproc_per_node={count}"
            )
        torch.cuda.set_device(own)
    # A 1x1 convolution's gradient is the same memory in both layouts; torch warns of a copy that costs nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    if launch.world > 1 and not dist.is_initialized():
        if captured and cuda:
            os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
        # Without device_id NCCL takes the GPU numbered as the rank, which on a second machine is another or none.
        _join(launch, "nccl" if cuda else "gloo", {"device_id": own} if cuda else {})
    return own


def _join(launch: Launch, backend: str, options: dict) -> None:
    """Meets the other processes, for which a shorter time is enough than for what they then compute."""
    limit = seconds("FASTMIX_JOIN_TIMEOUT", JOIN)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        if launch.rank:
            _find(address, port, limit)
        store, rank, world = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=limit))))
        first = launch.local == 0 or local_world() == 1
        name, whole = _agreed(store, rank, world, limit), store
        store = _under(name, whole)
        store.set(f"joined/{launch.rank}", socket.gethostname() if first else "")
        store.wait([f"joined/{k}" for k in range(world)], timedelta(seconds=limit))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, **options)
        if local_world() < world:
            _watch(store, _under(name, whole.clone()), launch, first)
    except (RuntimeError, OSError) as error:  # torch's are RuntimeErrors
        raise OSError(
            f"process {launch.rank} of {launch.world} has not met the others at {address}:{port} in {limit:g} s "
            f"({str(error).splitlines()[0]}): start all of them, or set FASTMIX_JOIN_TIMEOUT to more seconds"
        ) from None


def _agreed(store: dist.Store, rank: int, world: int, limit: float) -> str:
    """A name under which no earlier start of these processes has written into the store; the same for all. Or "": there
    was none.

    torchrun's agents keep one store over restarts, where old addresses would be taken for new ones. So each process
    asks under a word of its own, and the first one answers until all have heard it. Raises RuntimeError.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return ""
    own, wait, end = uuid4().hex, timedelta(seconds=limit), time.monotonic() + limit
    if rank:
        store.set(f"asks/{rank}", own)
        store.wait([f"answer/{own}"], wait)
        name = store.get(f"answer/{own}").decode()
        store.set(f"{name}/heard/{rank}", "")
        return name
    asks, answered = [f"asks/{k}" for k in range(1, world)], set()
    store.wait(asks, wait)
    while not store.check([f"{own}/heard/{k}" for k in range(1, world)]):
        for word in {*store.multi_get(asks)} - answered:
            store.set(f"answer/{word.decode()}", own)
            answered.add(word)
        if time.monotonic() > end:
            raise RuntimeError("not all have answered")
        time.sleep(0.02)
    return own


def _under(name: str, store: dist.Store) -> dist.Store:
    return dist.PrefixStore(name, store) if name else store


def _watch(store: dist.Store, other: dist.Store, launch: Launch, first: bool) -> None:
    """Has a thread look after the other machines, which count in the store from now on; `other`: a connection more."""
    global _heartbeat
    hosts = [host.decode() for host in store.multi_get([f"joined/{k}" for k in range(launch.world)])]
    machines = {f"alive/{k}": f"{host} (process {k})" for k, host in enumerate(hosts) if host}
    own = f"alive/{launch.rank}" if first else None
    if own:
        store.set(own, "0")
    limit = seconds("FASTMIX_SILENT_TIMEOUT", SILENT)
    _heartbeat = Heartbeat(other, machines, own, limit)


def _find(address: str, port: int, limit: float) -> None:
    """Waits until process 0 listens. torch would, too, with a page of warnings."""
    end = time.monotonic() + limit
    while True:
        try:
            socket.create_connection((address, port), limit).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(min(0.2, limit))


@contextmanager
def together() -> Iterator[None]:
    """Within it the end of another process, which torch tells in words of its transport, is an OSError of one line."""
    try:
        yield
    except RuntimeError as error:
        text = re.sub(r"^\[[^]]*\] *", "", str(error)).split("\n")[0]  # without the line of torch's source
        if world() == 1 or not (isinstance(error, dist.DistError) or re.search(r"gloo|nccl|connection", text, re.I)):
            raise
        raise OSError(f"another process of the run has ended, or cannot be reached ({text[:100]})") from error


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, as a new tensor."""
    values = values.clone()
    if world() > 1:
        dist.all_reduce(values)
    return values


def gather(value: object) -> list:
    """The values of all processes, in their order, on the first of them; tensors come to the host. Called by all."""
    found = [None] * world() if rank() == 0 else None
    dist.gather_object(_on_host(value), found)
    return found or []


def parallel(
    module: nn.Module,
    device: torch.device,
    compression: str = "none",
    powersgd_rank: int = 1,
    powersgd_start: int = 1000,
    bucket_mb: int | None = None,
    static_graph: bool = False,
    bucket_view: bool = False,
) -> DistributedDataParallel:
    """The module with gradients averaged over the processes; each has its own buffers between validations.

    The options are those of config.Ddp. powersgd: Vogels et al. 2019, torch's, with error feedback, which begins anew,
    as do the steps before it, wherever a module is made again.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch 2.13 renamed it
    # Else it would begin by overwriting them with the first process's, which may have other shapes.
    names = [name for name, _ in module.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
    options = {sync: False, "bucket_cap_mb": bucket_mb, "static_graph": static_graph}
    options |= {"gradient_as_bucket_view": bucket_view}
    made = DistributedDataParallel(module, [device] if device.type == "cuda" else None, **options)
    if compression != "none":
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

        if compression == "powersgd":
            state = powerSGD_hook.PowerSGDState(None, powersgd_rank, powersgd_start)
            made.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        else:
            made.register_comm_hook(None, getattr(default_hooks, f"{compression}_compress_hook"))
    return made


def average_buffers(module: nn.Module) -> None:
    """Averages floating-point buffers (batch-norm statistics) over the processes, so that all validate one model."""
    if world() > 1:
        buffers = [b for b in module.buffers() if b.is_floating_point()]
        for b in buffers:
            dist.all_reduce(b)
        if buffers:
            torch._foreach_div_(buffers, world())


def _on_host(value):
    if isinstance(value, dict):
        return {key: _on_host(one) for key, one in value.items()}
    return value.detach().cpu() if isinstance(value, Tensor) else value


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def close() -> None:
    if _heartbeat:
        _heartbeat.end()
    if dist.is_initialized():
        dist.destroy_process_group()
