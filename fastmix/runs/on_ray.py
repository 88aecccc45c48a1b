"""Runs of a sweep on a cluster of Ray: a task each, which starts the run's processes on the machine where it is placed.

A task of Ray lies on one machine with all its GPUs. Where its machine is lost Ray places it anew, and the run goes on
from its last checkpoint; so it does where its processes were told to stop by somebody else than the sweep. Cancelling
a task is a KeyboardInterrupt in it (one_run.train). If the sweep is killed, Ray ends its tasks, and the runs save where
SAVES is set.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from fastmix import optional
from fastmix.errors import words
from fastmix.runs import one_run
from fastmix.runs.clusters import Ray, call, gpus
from fastmix.runs.one_run import Outcome
from fastmix.runs.queue import Job

ALONG = ("FASTMIX_", "WANDB_", "MLFLOW_", "TRACKIO_", "HF_")
"""Variables of the sweep's environment that runs on other machines have too, by how they begin."""
SAVES = "RAY_kill_child_processes_on_worker_exit"
"""0 where a machine's Ray is started: the runs of a sweep that is killed are told to save, and not killed with it."""
REACH = 5.0
"""Seconds to reach the head of a cluster."""


def connect(place: Ray) -> None:
    """Connects to the cluster, or starts one on this machine. Raises ValueError where there is none."""
    optional.need("Ray", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(SAVES, "0")  # in a cluster that is started here
    import ray

    if place.address not in ("", "auto"):
        _reach(place.address)
    own = {} if place.address else {"include_dashboard": False}
    try:
        ray.init(address=place.address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"no cluster of Ray at address {place.address or 'local'!r}: {words(error)[:200]}") from error


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"address {address!r} of the cluster is no HOST:PORT of its head, such as 10.0.0.1:6379, nor auto"
        )
    try:
        socket.create_connection((host, int(port)), REACH).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"no cluster of Ray at {address}: {words(error)}") from None


def environment() -> dict[str, str]:
    """What of this environment a run on another machine has too. Ray sets OMP_NUM_THREADS where it is not set."""
    names = [name for name in os.environ if name.startswith(ALONG) or name in ("PYTHONPATH", "OMP_NUM_THREADS")]
    return {name: os.environ[name] for name in names}


def enter(folder: str) -> None:
    """Goes to the sweep's folder, from which its paths are seen. Raises OSError where this machine has it not."""
    if not Path(folder).is_dir():
        raise OSError(f"{socket.gethostname()} has no {folder}: run folders lie where all machines see them")
    os.chdir(folder)


def _task(folder: str, job: Job, told: list[str], env: dict[str, str], count: int, retry: bool) -> Outcome:
    enter(folder)
    return one_run.train(job, told, env, count, retry)


class OnRay:
    """The engine. Raises ValueError where the cluster is not there, or is this machine and has too little for a run."""

    goes_on = True

    def __init__(self, place: Ray, job: Job):
        connect(place)
        import ray

        self.place, self.running = place, {}
        options = {"num_cpus": place.cpus_per_run, "num_gpus": gpus(place, job), "max_retries": -1, **place.extra}
        self.remote = ray.remote(**options)(_task)
        has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        asks = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
        room = any(all(node.get(kind, 0) >= count for kind, count in asks.items()) for node in has)
        self.lack = "" if room else f"no machine has cpus_per_run {asks['CPU']:g} and gpus_per_run {asks['GPU']:g}"
        if self.lack and not place.address:
            self.close()
            raise ValueError(
                f"{self.lack}: this one has {has[0].get('CPU', 0):g} CPUs and {has[0].get('GPU', 0):g} GPUs"
            )

    def busy(self) -> bool:
        return bool(self.running)

    def room(self) -> bool:
        return True

    def begin(self, job: Job, retry: bool) -> str:
        told, count = call(self.place, job)
        self.running[self.remote.remote(os.getcwd(), job, told, environment(), count, retry)] = job
        return "handed to the cluster" + f", where {self.lack} yet" * bool(self.lack)

    def ended(self) -> list[tuple[Job, Outcome]]:
        import ray

        if not self.running:
            return []
        over, _ = ray.wait([*self.running], num_returns=len(self.running), timeout=0)
        return [(self.running.pop(ref), self._outcome(ref)) for ref in over]

    def _outcome(self, ref) -> Outcome:
        import ray
        from ray import exceptions

        try:
            return ray.get(ref)
        except exceptions.TaskCancelledError:
            return Outcome("stopped", "stopped")
        except (exceptions.RayError, OSError, ValueError) as error:
            return Outcome("failed", f"failed, {words(getattr(error, 'cause', None) or error)}")  # behind Ray's words

    def stop(self) -> None:
        import ray

        for ref in self.running:
            ray.cancel(ref)

    def close(self) -> None:
        import ray

        with suppress(KeyboardInterrupt):
            ray.shutdown()
