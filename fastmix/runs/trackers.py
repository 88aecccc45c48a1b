"""Trackers: what hands the log of a run folder on to tensorboard, wandb, trackio, mlflow or a CSV file.

Each is made of (folder, identity, first): the run folder; what names the run to the tracker, the same in all parts of a
run; whether nothing has been handed on yet. It opens the run or continues it, `log` takes a line of log.jsonl, `flush`
comes after the lines of a moment, `close` at the end, with whether the run is finished. A package is imported by its
tracker alone. fastmix/runs/follower.py runs each in a process of its own.
"""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path

from fastmix import config, files

PACKAGES = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "trackio": ("trackio",), "mlflow": ("mlflow",)}
"""What a tracker needs, by its name."""
PROJECT = "fastmix"
PICTURE = "first_batch.png"
TEXTS = ("config.yaml", "versions.json", "model.json")
NO_METRIC = ("kind", "step")


def numbers(row: dict) -> dict[str, float]:
    """A log line's values as a tracker names them: train/loss, val/top1."""
    return {f"{row['kind']}/{key}": value for key, value in row.items() if key not in NO_METRIC}


def settings(folder: Path) -> dict:
    """The resolved config by dotted keys, and the versions, commit among them, likewise."""
    versions = json.loads((folder / "versions.json").read_text(encoding="utf-8"))
    return config.flat(config.load(folder / "config.yaml")) | {f"versions.{key}": v for key, v in versions.items()}


class Csv:
    """track/log.csv: a row a line of the log, a column a value; it is written anew when a value comes that has none."""

    def __init__(self, folder: Path, identity: str, first: bool):
        self.path = folder / "track" / "log.csv"
        self.columns: list[str] = []
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                self.columns = next(csv.reader(file), [])

    def log(self, row: dict) -> None:
        if new := [key for key in row if key not in self.columns]:
            self._widen(new)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _widen(self, new: list[str]) -> None:
        rows = []
        if self.columns:
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        self.columns += new
        with files.whole(self.path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def flush(self) -> None:
        pass

    def close(self, finished: bool) -> None:
        pass


class TensorBoard:
    """Event files in track/tensorboard, one for each part of a run; written without torch, which loads for seconds."""

    def __init__(self, folder: Path, identity: str, first: bool):
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.summary, self.writer = Summary, EventFileWriter(str(folder / "track" / "tensorboard"))
        if first:
            for name in filter(lambda name: (folder / name).exists(), TEXTS):
                self._add(0, [self._text(name, (folder / name).read_text(encoding="utf-8"))])
            if (folder / PICTURE).exists():
                self._add(0, [self._picture(folder / PICTURE)])

    def log(self, row: dict) -> None:
        values = numbers(row).items()
        self._add(row["step"], [self.summary.Value(tag=tag, simple_value=value) for tag, value in values])

    def flush(self) -> None:
        self.writer.flush()

    def close(self, finished: bool) -> None:
        self.writer.close()

    def _add(self, step: int, values: list) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=self.summary(value=values)))

    def _text(self, name: str, text: str):
        """As tensorboard's page of texts reads it: indented, so that its Markdown shows the lines as they are."""
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        shown = "".join(f"    {line}\n" for line in text.splitlines())
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        return self.summary.Value(
            tag=name, metadata=plugin, tensor=TensorProto(dtype=DT_STRING, string_val=[shown.encode()])
        )

    def _picture(self, path: Path):
        from PIL import Image

        with Image.open(path) as image:
            width, height = image.size
        png = self.summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        return self.summary.Value(tag=path.stem, image=png)


class Wandb:
    """A run of Weights & Biases, whose own variables count: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY.

    Values are drawn over the run's step and not over wandb's own, which takes no step twice: after a kill steps are.
    """

    def __init__(self, folder: Path, identity: str, first: bool):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            dir=str(folder / "track"),
            id=identity,
            resume="allow",
            config=settings(folder),
            settings=wandb.Settings(console="off"),
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")
        if first and (folder / PICTURE).exists():
            self.run.log({"first_batch": wandb.Image(str(folder / PICTURE)), "step": 0})

    def log(self, row: dict) -> None:
        self.run.log({**numbers(row), "step": row["step"]})

    def flush(self) -> None:
        pass

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


class Trackio:
    """A run in trackio's own database (in TRACKIO_DIR, else in its cache), or where TRACKIO_SPACE_ID says."""

    def __init__(self, folder: Path, identity: str, first: bool):
        import trackio

        self.run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{folder.name}-{identity}",
            config=settings(folder),
            resume="never" if first else "allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        if first and (folder / PICTURE).exists():
            self.run.log({"first_batch": trackio.Image(str(folder / PICTURE))}, step=0)

    def log(self, row: dict) -> None:
        self.run.log(numbers(row), step=row["step"])

    def flush(self) -> None:
        pass

    def close(self, finished: bool) -> None:
        self.run.finish()


class Mlflow:
    """A run of MLflow where MLFLOW_TRACKING_URI says, else in files in track/mlflow; of MLFLOW_EXPERIMENT_NAME."""

    METRICS, PARAMS = 1000, 100  # of one call, at most

    def __init__(self, folder: Path, identity: str, first: bool):
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ["MLFLOW_TRACKING_URI"] = (folder / "track" / "mlflow").resolve().as_uri()
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # else MLflow 3 asks for a database
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client, self.metrics = MlflowClient(), []
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        tag = "fastmix.identity"  # MLflow names its runs itself
        runs = self.client.search_runs([experiment], f"tags.`{tag}` = '{identity}'")
        if runs:
            self.id = runs[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(experiment, tags={tag: identity}, run_name=folder.name).info.run_id
        if first:
            params = [Param(key, str(value)[:500]) for key, value in settings(folder).items()]
            for k in range(0, len(params), self.PARAMS):
                self.client.log_batch(self.id, params=params[k : k + self.PARAMS])
            for name in filter(lambda name: (folder / name).exists(), (*TEXTS, PICTURE)):
                self.client.log_artifact(self.id, str(folder / name))

    def log(self, row: dict) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self.metrics += [Metric(key, float(value), now, row["step"]) for key, value in numbers(row).items()]

    def flush(self) -> None:
        while self.metrics:
            self.client.log_batch(self.id, metrics=self.metrics[: self.METRICS])
            del self.metrics[: self.METRICS]

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


TRACKERS = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio, "mlflow": Mlflow, "csv": Csv}
