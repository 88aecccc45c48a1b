"""Runs that are the same but for their seed: the groups over which means are taken."""

from __future__ import annotations

from collections.abc import Iterable

from fastmix import config
from fastmix.runs import run_folder
from fastmix.runs.run_folder import Run

SAME_RUN = {*config.FREE_TO_CHANGE, "seed", "precision", "accum", "data.loader", "model.classes"}
SAME_RUN |= {"model.channels_last", "model.compile", "optim.fused"}
"""Keys in which the seeds of one group, and a run and its column's file, may differ."""


def settings(run: Run) -> dict:
    """What decides a run's result, but for its seed: values by dotted keys of its config, without other methods' rows.

    Under data.classes, data.train_images, data.val_images and data.names also what data it had, as it wrote it down.
    """
    return run_folder.trained(run.cfg, SAME_RUN) | {f"data.{key}": value for key, value in (run.data or {}).items()}


def groups(found: Iterable[Run]) -> list[list[Run]]:
    """The runs in groups of equal settings, in the order in which each is met; within one by seed, then by folder."""
    by: dict[tuple, list[Run]] = {}
    for run in found:
        by.setdefault(tuple(sorted((key, repr(value)) for key, value in settings(run).items())), []).append(run)
    return [sorted(group, key=lambda run: (run.cfg.seed, str(run.folder))) for group in by.values()]


def one_a_seed(group: Iterable[Run]) -> list[Run]:
    """Of the runs of a group, which are sorted, one a seed: the later folder."""
    return list({run.cfg.seed: run for run in group}.values())
