"""Hosts that are none: network namespaces on a bridge, and a cluster of Slurm's own daemons on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from helpers import ROOT


def command(*words: object, **options) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def can_have_networks() -> bool:
    if os.geteuid() or not shutil.which("ip"):
        return False
    name = f"fmtry{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    command("ip", "netns", "del", name)
    return True


class Hosts:
    """`count` namespaces with addresses 10.91.0.1, 2, ... on a bridge in another one."""

    def __init__(self, count: int):
        self.count, self.prefix = count, f"fm{os.getpid() % 10000}"

    def name(self, k: int) -> str:
        return f"{self.prefix}h{k}"

    def address(self, k: int) -> str:
        return f"10.91.0.{k + 1}"

    def __enter__(self) -> Hosts:
        switch = f"{self.prefix}s"
        command("ip", "netns", "add", switch)
        command("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        command("ip", "-n", switch, "link", "set", "br0", "up")
        for k in range(self.count):
            command("ip", "netns", "add", self.name(k))
            command(
                "ip",
                "link",
                "add",
                "eth0",
                "netns",
                self.name(k),
                "type",
                "veth",
                "peer",
                "name",
                f"p{k}",
                "netns",
                switch,
            )
            command("ip", "-n", switch, "link", "set", f"p{k}", "master", "br0", "up")
            command("ip", "-n", self.name(k), "addr", "add", f"{self.address(k)}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                command("ip", "-n", self.name(k), "link", "set", link, "up")
        return self

    def __exit__(self, *_) -> None:
        for name in (*map(self.name, range(self.count)), f"{self.prefix}s"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def cut(self, k: int) -> None:
        """No packet comes or goes any more, and nobody is told."""
        command("ip", "-n", f"{self.prefix}s", "link", "set", f"p{k}", "nomaster")

    def join(self, k: int) -> None:
        command("ip", "-n", f"{self.prefix}s", "link", "set", f"p{k}", "master", "br0")

    def start(self, k: int, *words: str, log: Path, **env: str) -> subprocess.Popen:
        env = environment() | {"GLOO_SOCKET_IFNAME": "eth0", "TP_SOCKET_IFNAME": "eth0", **env}
        with open(log, "w") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name(k), *words], env=env, stdout=out, stderr=subprocess.STDOUT
            )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


DAEMONS = ("munged", "slurmctld", "slurmd", "srun")
CONF = """
ClusterName=fastmix
SlurmctldHost={host}
SlurmctldPort={control}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/control.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/control.log
SlurmdLogFile={folder}/%n.log
ReturnToService=2
KillWait=30
JobRequeue=1
MailProg=/bin/true
{nodes}
PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def can_have_slurm() -> bool:
    return not os.geteuid() and all(map(shutil.which, DAEMONS))


@contextmanager
def slurm(folder: Path, nodes: int = 2, more: str = "") -> Iterator[dict[str, str]]:
    """A cluster whose nodes are all this machine; what its commands need in their environment. more: of slurm.conf."""
    host = socket.gethostname().partition(".")[0]
    ports = free_ports(nodes + 1)
    listed = "\n".join(f"NodeName=n{k} NodeHostname={host} Port={ports[k]} CPUs=1 State=UNKNOWN" for k in range(nodes))
    for name in ("state", *(f"n{k}" for k in range(nodes))):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, control=ports[-1], folder=folder, nodes=listed) + more)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    for path, mode in ((key, 0o600), (folder, 0o755)):
        path.chmod(mode)
    env = environment() | {"SLURM_CONF": str(conf)}
    paths = [f"--{word}-file={folder / word}" for word in ("pid", "log", "seed")]
    daemons = [["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", *paths]]
    daemons += [["slurmctld", "-D", "-f", conf]] + [["slurmd", "-D", "-N", f"n{k}", "-f", conf] for k in range(nodes)]
    running = []
    try:
        for words in daemons:
            with open(folder / "daemons.log", "a") as log:
                running.append(subprocess.Popen([*map(str, words)], env=env, stdout=log, stderr=log))
            time.sleep(0.5)
        end = time.monotonic() + 60
        while subprocess.run(["sinfo", "-h", "-o", "%t"], env=env, capture_output=True, text=True).stdout.split() != [
            "idle"
        ]:
            if time.monotonic() > end:
                pytest.skip(f"Slurm's daemons do not start here: {(folder / 'daemons.log').read_text()[-300:]}")
            time.sleep(0.5)
        yield env
    finally:
        for each in reversed(running):
            each.terminate()
        for each in running:
            try:
                each.wait(timeout=20)
            except subprocess.TimeoutExpired:  # Slurm's controller waits for a task that is gone
                each.kill()
                each.wait()
        for each in begun_with(f"SLURM_CONF={conf}"):  # a step's keeper is a session of its own
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)


def begun_with(setting: str) -> list[int]:
    """Processes that had it in their environment when they began."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if setting.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
