"""Runs of a sweep as one array job of Slurm, through submitit: a job each, which goes on when the sweep has ended.

Before its time limit, and when it is pre-empted, Slurm sends SIGTERM: the run saves and ends with exit code 75, and
the job puts itself into the queue again. One that is cancelled does not: Slurm no longer calls it running then. A job
whose machine is lost is queued again by Slurm.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

from fastmix import cli, files, optional
from fastmix.errors import words
from fastmix.runs import one_run
from fastmix.runs.clusters import Slurm, call, gpus
from fastmix.runs.queue import Job

SUBMITTED = "submitted.json"
"""Beside submitit's files: the job of each run folder that was submitted last."""


def folder(jobs: list[Job]) -> Path:
    """Where the jobs' files lie: beside the run folders, and like them seen by all machines."""
    return jobs[0].folder.parent.absolute() / "slurm"


def arguments(place: Slurm, job: Job) -> dict:
    """What submitit is told; all in sbatch's own words, of which the last ones win."""
    count = int(gpus(place, job))
    said = {"partition": place.partition, "time": place.time, "gres": place.gres, "cpus-per-task": place.cpus_per_run}
    said |= {"gpus-per-node": count} if count and not place.gres else {}
    said |= {"requeue": True, "signal": f"TERM@{place.save_within}", **place.extra}
    given = {key: value for key, value in said.items() if value != ""}
    return {
        "job_name": f"fastmix-{job.folder.parent.name}", "stderr_to_stdout": True, "array_parallelism": place.at_a_time,
        "nodes": 1, "ntasks_per_node": 1, "wckey": None, "additional_parameters": given,
        "time": None,  # submitit's own would be five minutes
    }  # fmt: skip


def script(place: Slurm, jobs: list[Job]) -> str:
    """The batch script that would be submitted."""
    optional.need("Slurm", "submitit")
    from submitit.slurm import slurm

    where = folder(jobs)
    command = f"{sys.executable} -u -m submitit.core._submit {where}"
    count = len(jobs) if len(jobs) > 1 else None
    return slurm._make_sbatch_string(command, where, map_count=count, **arguments(place, jobs[0]))


def submit(place: Slurm, jobs: list[Job], retry: bool) -> list[str]:
    """Submits the runs but those that wait or are trained already; returns what to tell. Raises ValueError."""
    if not jobs:
        return ["no run is left to train"]
    optional.need("Slurm", "submitit")
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    note = folder(jobs) / SUBMITTED
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    queued = _queued() if before else set()
    new = [job for job in jobs if before.get(job.folder.name) not in queued]
    told = [f"{len(jobs) - len(new)} runs are in the queue already"] * (len(new) < len(jobs))
    if not new:
        return told
    try:
        executor = submitit.SlurmExecutor(folder(jobs))
        executor.update_parameters(**arguments(place, jobs[0]))
        with redirect_stderr(io.StringIO()):  # sbatch's words are in the error, too
            made = executor.map_array(_task, new, [call(place, job) for job in new], [retry] * len(new))
    except (RuntimeError, FailedJobError, FailedSubmissionError, FileNotFoundError) as error:
        raise ValueError(f"Slurm takes no jobs from here: {words(error)[-300:]}") from error
    ids = {job.folder.name: done.job_id for job, done in zip(new, made, strict=True)}
    files.write_text(note, json.dumps(before | ids, indent=1) + "\n")
    whole = made[0].job_id.partition("_")[0]
    return [*told, f"{len(new)} runs submitted as job {whole} of Slurm; scancel {whole} has them save and end"]


def _queued() -> set[str]:
    """The user's jobs that wait or run, those of an array one by one. Raises ValueError."""
    try:
        command = ["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i"]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"Slurm's queue cannot be read: {words(error)}") from None


def _task(job: Job, call: tuple[list[str], int], retry: bool) -> None:
    """What a job does. The exit code is that of the run."""
    signal.signal(signal.SIGTERM, _interrupt)
    outcome = one_run.train(job, call[0], {}, call[1], retry)
    print(f"{job.folder}: {outcome.text}", flush=True)
    if outcome.kind == "stopped":
        _again()
        sys.exit(cli.TRY_AGAIN)
    sys.exit(outcome.kind == "failed")


def _interrupt(*_) -> None:
    """The signal comes again, when the job is queued anew; once is enough."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _again() -> None:
    """Queues this job again, unless it has been cancelled."""
    import submitit

    job = submitit.JobEnvironment().job_id
    state = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True).stdout.strip()
    if state == "RUNNING" and subprocess.run(["scontrol", "requeue", job]).returncode:
        print(f"job {job} cannot be queued again from here: call the sweep again", flush=True)
