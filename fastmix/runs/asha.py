"""A search over settings by Ray Tune's asynchronous successive halving: runs that are behind at an epoch are given up.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020 (arXiv:1810.05934). Of E epochs, a run is
compared after E / 27, E / 9 and E / 3, by validation top-1, with those that came so far before it, and goes on if it
is in their best third. A run that is given up saves and ends, and its folder says so (run_folder.EARLY): no table
counts it. A search that is called again compares with what the logs tell. Imports Ray: by who has asked for the
package.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from fastmix import files
from fastmix.runs import on_ray, one_run, run_folder
from fastmix.runs.clusters import Ray, call, gpus
from fastmix.runs.queue import EARLY, Job
from fastmix.runs.scheduler import Screen, ended, handled_by, restore

FACTOR, RUNGS = 3, 3
LOST = 20
"""Times that a run's machine may be lost, or does not see the sweep's folder."""
LOOK = 0.5
"""Seconds between looks at a run's log."""


def require(jobs: list[Job]) -> None:
    """Raises ValueError where the runs are not settings of one method: methods and seeds are compared by whole runs."""
    what = "the benchmark's rows and their seeds are compared by whole runs"
    for key, values in (("mix", {job.cfg.mix for job in jobs}), ("seed", {job.cfg.seed for job in jobs})):
        if len(values) > 1:
            raise ValueError(f"--stop asha compares settings of one method, so give one {key}: {what}")
    if len(jobs) < 2:
        raise ValueError(f"--stop asha needs settings to compare, optim.lr=loguniform(.01,1) --samples 20: {what}")


def search(jobs: list[Job], place: Ray, retry: bool = False) -> int:
    """Trains the jobs, and gives those up that are behind; 0: all are finished or given up, 1: not all, 128 + signal.

    Raises ValueError as OnRay does.
    """
    engine = on_ray.OnRay(place, jobs[0])
    silent = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    os.environ |= {"TUNE_DISABLE_SIGINT_HANDLER": "1", **silent}
    screen, signals = Screen(jobs), []

    def asked(kind: int, _) -> None:
        signals.append(kind)
        if len(signals) > 1:
            raise KeyboardInterrupt

    handlers = handled_by(asked)
    jobs[0].folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=jobs[0].folder.parent, prefix=".tune") as storage:
            tune.Tuner(
                _trainable(jobs, place, retry),
                param_space={"number": tune.grid_search(range(len(jobs)))},
                tune_config=tune.TuneConfig(scheduler=Asha(jobs)),
                run_config=tune.RunConfig(
                    storage_path=str(Path(storage).absolute()),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs have their own
                    failure_config=tune.FailureConfig(max_failures=LOST),  # a run's own failure is none
                    callbacks=[Told(jobs, screen)],
                    stop=Asked(signals),
                    verbose=0,
                ),
            ).fit()
    finally:
        engine.close()
        restore(handlers)
    return ended(jobs, screen, signals, ("finished", EARLY))


def _trainable(jobs: list[Job], place: Ray, retry: bool):
    """Trials with what they need: one place for all that a run takes, on one machine."""
    more = place.extra.get("resources", {})
    bundle = {"CPU": place.cpus_per_run, "GPU": gpus(place, jobs[0]), **more}
    known = {"jobs": jobs, "calls": [call(place, job) for job in jobs], "retry": retry}
    known |= {"folder": os.getcwd(), "env": on_ray.environment()}
    return tune.with_resources(tune.with_parameters(Trial, **known), tune.PlacementGroupFactory([bundle]))


class Trial(tune.Trainable):
    """A run as Tune sees it: `epoch` and `top1` of one line of its log after the other, also of one that had ended."""

    def setup(self, config: dict, jobs: list[Job], calls: list, retry: bool, folder: str, env: dict[str, str]) -> None:
        on_ray.enter(folder)
        self.job, self.child, self.told = jobs[config["number"]], None, 0
        self.reached = {"epoch": 0, "top1": 0.0}
        if self.job.state != EARLY and (lock := one_run.take(self.job, retry, one_run.PATIENCE)):
            words, count = calls[config["number"]]
            self.child = one_run.start(self.job, words, lock, env, count)

    def step(self) -> dict:
        ended = self.child is None or self.child.ended()  # asked first: all that it wrote is then there
        found = self._next()
        if not found and not ended:
            time.sleep(LOOK)
        if not found and ended:
            self.cleanup()
        return {**self.reached, "done": ended and not found}

    def _next(self) -> bool:
        """Reads the next line of kind val, if there is one."""
        if not run_folder.last(self.job.folder).get("val", {}).get("epoch", 0) > self.told:
            return False
        val = run_folder.read(self.job.folder).val
        self.told = min(epoch for epoch in val if epoch > self.told)
        row = val[self.told]
        self.reached = {"epoch": self.told, "top1": row.get("ema_top1", row["top1"])}
        return True

    def cleanup(self) -> None:
        """Ends the run, where it is not over."""
        if self.child is None:
            return
        if not self.child.ended():
            self.child.stop()
        while not self.child.ended():
            time.sleep(LOOK)
        one_run.end(self.child)
        self.child = None


class Asha(ASHAScheduler):
    """Tune's scheduler, which notes in the folder of a run that it gives it up."""

    def __init__(self, jobs: list[Job]):
        epochs = jobs[0].cfg.epochs
        super().__init__(
            time_attr="epoch",
            metric="top1",
            mode="max",
            max_t=epochs,
            grace_period=max(1, epochs // FACTOR**RUNGS),
            reduction_factor=FACTOR,
            stop_last_trials=False,  # after the last epoch the weights are written
        )
        self.jobs = jobs

    def on_trial_result(self, tune_controller, trial, result: dict) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        job = self.jobs[trial.config["number"]]
        if decision == TrialScheduler.STOP and job.state not in ("finished", "failed", EARLY):
            after = f"by asha after epoch {result['epoch']} of {job.cfg.epochs}"
            files.write_text(job.folder / run_folder.EARLY, after + "\n")
        return decision


class Asked(tune.Stopper):
    """Stops all once a signal has come."""

    def __init__(self, signals: list[int]):
        self.signals = signals

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self.signals)


class Told(tune.Callback):
    """What happens, in the words of a sweep."""

    def __init__(self, jobs: list[Job], screen: Screen):
        self.jobs, self.screen = jobs, screen

    def on_step_end(self, iteration: int, trials: list, **info) -> None:
        self.screen.show()

    def on_trial_start(self, iteration: int, trials: list, trial, **info) -> None:
        self.screen.say(f"{self.jobs[trial.config['number']].folder}: started")

    def on_trial_error(self, iteration: int, trials: list, trial, **info) -> None:
        self.screen.say(f"{self.jobs[trial.config['number']].folder}: not trained, see Ray's error above")

    def on_trial_complete(self, iteration: int, trials: list, trial, **info) -> None:
        job = self.jobs[trial.config["number"]]
        early = run_folder.early(job.folder)
        how = f"stopped early {early}" if early else "stopped" if job.state == "running" else job.state
        self.screen.say(f"{job.folder}: {how}, top-1 {run_folder.top1(job.folder)} %")
