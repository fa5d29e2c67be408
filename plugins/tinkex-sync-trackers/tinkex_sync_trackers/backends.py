"""The trackers: each opens a run and logs values to it. One thread calls them."""

from __future__ import annotations

import abc
import importlib
import re
import time
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

__all__ = ["MLflow", "Run", "TensorBoard", "Tracker", "WandB"]


class Run(abc.ABC):
    """An open run of a tracker."""

    @abc.abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step."""

    @abc.abstractmethod
    def end(self) -> None:
        """Write what is buffered, and close the run."""


class Tracker(abc.ABC):
    """A tracker that can open runs."""

    @abc.abstractmethod
    def open(self, name: str, group: str, settings: Mapping[str, Any]) -> Run:
        """Open a run for one training client.

        Args:
            name: Name of the run.
            group: Id of the session, which the runs of one service client share.
            settings: Facts about the client: base_model, rank, model_path, model_id.
        """


def _load(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module.partition(".")[0]} is not installed: pip install "tinkex-sync-trackers[{extra}]"'
        ) from error


class TensorBoard(Tracker):
    """Writes event files for TensorBoard.

    Args:
        folder: Each run gets a folder of its own in it.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).absolute()
        self._writers = _load("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._events = _load("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summaries = _load("tensorboard.compat.proto.summary_pb2", "tensorboard")

    def open(self, name: str, group: str, settings: Mapping[str, Any]) -> Run:
        return _TensorBoardRun(self._writers.EventFileWriter(str(self._folder / name)), self._events, self._summaries)


class _TensorBoardRun(Run):
    def __init__(self, writer: Any, events: Any, summaries: Any) -> None:
        self._writer, self._events, self._summaries = writer, events, summaries

    def log(self, step: int, values: Mapping[str, float]) -> None:
        value = self._summaries.Summary.Value
        summary = self._summaries.Summary(
            value=[value(tag=name, simple_value=number) for name, number in values.items()]
        )
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class MLflow(Tracker):
    """Logs to an MLflow experiment, which is made if it does not exist. The active run of the script is not used.

    Args:
        experiment: Name of the experiment.
        tracking_uri: Default: MLflow's own (MLFLOW_TRACKING_URI).

    Raises:
        ImportError: mlflow is not installed.
    """

    def __init__(self, experiment: str, tracking_uri: Optional[str] = None) -> None:
        self._entities = _load("mlflow.entities", "mlflow")
        self._client = _load("mlflow.tracking", "mlflow").MlflowClient(tracking_uri=tracking_uri)
        self._experiment = experiment

    def open(self, name: str, group: str, settings: Mapping[str, Any]) -> Run:
        found = self._client.get_experiment_by_name(self._experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(self._experiment)
        run = self._client.create_run(experiment_id, run_name=name, tags={"tinkex_session": group})
        for key, value in settings.items():
            self._client.log_param(run.info.run_id, key, value)
        return _MLflowRun(self._client, run.info.run_id, self._entities.Metric)


class _MLflowRun(Run):
    def __init__(self, client: Any, run_id: str, metric: Any) -> None:
        self._client, self._run_id, self._metric = client, run_id, metric

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        # Names with other characters are refused.
        metrics = [self._metric(re.sub(r"[^\w\-. /]", "_", name), number, now, step) for name, number in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self) -> None:
        self._client.set_terminated(self._run_id)


class WandB(Tracker):
    """Logs to a project of Weights & Biases. A run that the script has opened is not used.

    Args:
        project: Name of the project.
        settings: Further arguments of ``wandb.init``, such as ``mode="offline"``, ``entity`` or ``dir``.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self, project: str, **settings: Any) -> None:
        self._wandb = _load("wandb", "wandb")
        self._settings: Dict[str, Any] = {"project": project, "reinit": "create_new", **settings}

    def open(self, name: str, group: str, settings: Mapping[str, Any]) -> Run:
        return _WandBRun(self._wandb.init(name=name, group=group, config=dict(settings), **self._settings))


class _WandBRun(Run):
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self) -> None:
        self._run.finish()
