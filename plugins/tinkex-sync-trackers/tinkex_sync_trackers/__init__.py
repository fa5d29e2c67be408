"""A tinkex_sync plugin that logs training steps to TensorBoard, MLflow and Weights & Biases. The README describes it.

It logs to the trackers that variables name: ``TINKEX_SYNC_TENSORBOARD`` (a folder), ``TINKEX_SYNC_MLFLOW`` (an
experiment) and ``TINKEX_SYNC_WANDB`` (a project). Without any of them it does nothing.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from tinkex_sync.plugins import QueuedObserver, Source, hookimpl

from .backends import MLflow, Run, TensorBoard, Tracker, WandB
from .steps import Steps, Values

__all__ = ["MLflow", "Run", "TensorBoard", "Tracker", "Trackers", "WandB"]

_VARIABLES: Dict[str, Callable[[str], Tracker]] = {
    "TINKEX_SYNC_TENSORBOARD": TensorBoard,
    "TINKEX_SYNC_MLFLOW": MLflow,
    "TINKEX_SYNC_WANDB": WandB,
}
#: Seconds for which closing a client waits for the trackers.
CLOSE_TIMEOUT = 30.0
_log = logging.getLogger("tinkex_sync_trackers")


class Trackers(QueuedObserver):
    """Logs the steps of each training client to a run of its own, in every tracker. All methods are thread-safe.

    Args:
        trackers: Default: those that the variables name.

    Raises:
        ImportError: The package of a tracker is not installed.
    """

    def __init__(self, *trackers: Tracker) -> None:
        super().__init__()
        named = [make(os.environ[name]) for name, make in _VARIABLES.items() if os.environ.get(name)]
        self._trackers: List[Tracker] = list(trackers) or named
        # Only the thread of the observer uses these.
        self._steps = Steps()
        self._settings: Dict[Source, Mapping[str, Any]] = {}
        self._runs: Dict[Tuple[Source, Tracker], Optional[Run]] = {}

    def _note(self, method: Callable[..., None], *arguments: Any) -> None:
        if self._trackers:
            self.put((method, time.monotonic(), arguments))

    @hookimpl
    def tinkex_client_created(
        self, source: Source, base_model: Optional[str], rank: Optional[int], model_path: Optional[str]
    ) -> None:
        facts = {"base_model": base_model, "rank": rank, "model_path": model_path, "model_id": source.id}
        self._note(self._created, source, {name: value for name, value in facts.items() if value is not None})

    @hookimpl
    def tinkex_call_started(self, source: Source, call_id: str, operation: str) -> None:
        self._note(self._started, source, call_id, operation)

    @hookimpl
    def tinkex_adam_params_serialized(self, call_id: str, payload: Mapping[str, float]) -> None:
        self._note(self._serialized, call_id, dict(payload))

    @hookimpl
    def tinkex_queue_state_changed(self, source: Source, call_id: str, state: str, waited: float) -> None:
        if state == "active":
            self._note(self._waited, source, call_id, waited)

    @hookimpl
    def tinkex_call_finished(
        self, source: Source, call_id: str, operation: str, outcome: str, facts: Mapping[str, Any]
    ) -> None:
        self._note(self._ended, source, call_id, operation, outcome, dict(facts))

    @hookimpl
    def tinkex_session_closed(self, source: Source) -> None:
        self._note(self._closed, source.session_id)

    def close(self, deadline: Optional[float] = None) -> bool:
        """Log what is queued and end the runs, which takes Weights & Biases some seconds.

        It waits up to 30 s also if ``deadline`` is earlier, because the client gives a plugin only 5 s.
        """
        return super().close(max(time.monotonic() + CLOSE_TIMEOUT, deadline or 0.0))

    # In the thread of the observer

    def handle(self, events: Sequence[Any]) -> None:
        """Handle events in their order."""
        for method, at, arguments in events:
            method(at, *arguments)

    def _created(self, at: float, source: Source, settings: Mapping[str, Any]) -> None:
        self._settings[source] = settings

    def _started(self, at: float, source: Source, call_id: str, operation: str) -> None:
        self._steps.started(at, source, call_id, operation)

    def _serialized(self, at: float, call_id: str, payload: Mapping[str, float]) -> None:
        self._steps.serialized(call_id, payload)

    def _waited(self, at: float, source: Source, call_id: str, seconds: float) -> None:
        self._steps.waited(source, call_id, seconds)

    def _ended(self, at: float, source: Source, *call: Any) -> None:
        for values in self._steps.ended(at, source, *call):
            for tracker in self._trackers:
                try:
                    self._log(tracker, values)
                except Exception:
                    _log.exception("A step was not logged: tracker=%s step=%d", type(tracker).__name__, values.step)

    def _log(self, tracker: Tracker, values: Values) -> None:
        key = values.source, tracker
        if key not in self._runs:
            self._runs[key] = None  # if it cannot be opened, that is logged once
            self._runs[key] = self._open(tracker, values.source)
        run = self._runs[key]
        if run is not None:
            run.log(values.step, values.values)

    def _open(self, tracker: Tracker, source: Source) -> Run:
        settings = self._settings.get(source, {"model_id": source.id})
        model = str(settings.get("base_model", "model")).rpartition("/")[2]
        return tracker.open(f"{model}-{source.id}", source.session_id, settings)

    def _closed(self, at: float, session_id: str) -> None:
        self._steps.forget(session_id)
        self._settings = {one: facts for one, facts in self._settings.items() if one.session_id != session_id}
        for key in [key for key in self._runs if key[0].session_id == session_id]:
            run = self._runs.pop(key)
            if run is not None:
                run.end()
