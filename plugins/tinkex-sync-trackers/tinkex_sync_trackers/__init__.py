"""A tinkex_sync plugin that logs training steps to TensorBoard, MLflow and Weights & Biases. The README describes it.

It logs to the trackers that variables name: ``TINKEX_SYNC_TENSORBOARD`` (a folder), ``TINKEX_SYNC_MLFLOW`` (an
experiment) and ``TINKEX_SYNC_WANDB`` (a project). Without any of them it does nothing.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from tinkex_sync.plugins import QueuedObserver, Source, hookimpl

from .backends import MLflow, Run, TensorBoard, Tracker, WandB
from .steps import Steps, Values

__all__ = ["MLflow", "Run", "TensorBoard", "Tracker", "Trackers", "WandB"]

_VARIABLES: Dict[str, Callable[[str], Tracker]] = {
    "TINKEX_SYNC_TENSORBOARD": TensorBoard,
    "TINKEX_SYNC_MLFLOW": MLflow,
    "TINKEX_SYNC_WANDB": WandB,
}
#: Seconds for which ``close()`` waits for the trackers.
CLOSE_TIMEOUT = 30.0
_log = logging.getLogger("tinkex_sync_trackers")
# All existing plugins. A forked child renews their locks.
_live: weakref.WeakSet[Trackers] = weakref.WeakSet()


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
        self._steps = Steps()  # guarded by _steps_lock
        self._steps_lock = threading.Lock()
        # Only the thread of the observer uses these.
        self._settings: Dict[Source, Mapping[str, Any]] = {}
        self._runs: Dict[Tuple[Source, Tracker], Optional[Run]] = {}
        self._failing: Set[Tuple[Source, Tracker]] = set()
        _live.add(self)

    @hookimpl
    def tinkex_client_created(
        self, source: Source, base_model: Optional[str], rank: Optional[int], model_path: Optional[str]
    ) -> None:
        if self._trackers and source.kind == "training":
            facts = {"base_model": base_model, "rank": rank, "model_path": model_path, "model_id": source.id}
            self.put((self._created, source, {name: value for name, value in facts.items() if value is not None}))

    @hookimpl
    def tinkex_call_started(self, source: Source, call_id: str, operation: str) -> None:
        if self._trackers and source.kind == "training":
            with self._steps_lock:
                self._steps.started(time.monotonic(), source, call_id, operation)

    @hookimpl
    def tinkex_adam_params_serialized(self, call_id: str, payload: Mapping[str, float]) -> None:
        if self._trackers:
            with self._steps_lock:
                self._steps.serialized(call_id, payload)

    @hookimpl
    def tinkex_queue_state_changed(self, source: Source, call_id: str, state: str, waited: float) -> None:
        if self._trackers and state == "active":
            with self._steps_lock:
                self._steps.waited(source, call_id, waited)

    @hookimpl
    def tinkex_call_finished(
        self, source: Source, call_id: str, operation: str, outcome: str, facts: Mapping[str, Any]
    ) -> None:
        if self._trackers:
            with self._steps_lock:
                # Under the lock, so that steps are queued in their order. put() does not block.
                for values in self._steps.ended(time.monotonic(), source, call_id, operation, outcome, facts):
                    self.put((self._logged, values))

    @hookimpl
    def tinkex_session_closed(self, source: Source) -> None:
        if self._trackers:
            with self._steps_lock:
                self._steps.forget(source.session_id)
            self.put((self._closed, source.session_id))

    def close(self, deadline: Optional[float] = None) -> bool:
        """Log what is queued and end the runs. Wait for 30 s, also if ``deadline`` is earlier.

        A client that is closed calls this in a thread and waits for 5 s. The rest is written meanwhile, or at the
        end of the process.
        """
        return super().close(max(time.monotonic() + CLOSE_TIMEOUT, deadline or 0.0))

    # In the thread of the observer

    def handle(self, events: Sequence[Any]) -> None:
        """Handle events in their order."""
        for method, *arguments in events:
            method(*arguments)

    def _created(self, source: Source, settings: Mapping[str, Any]) -> None:
        self._settings[source] = settings

    def _logged(self, values: Values) -> None:
        for tracker in self._trackers:
            key = values.source, tracker
            try:
                self._log(tracker, values)
                self._failing.discard(key)
            except Exception:
                if key not in self._failing:
                    text = "a step was not logged; further failures in a row are not reported: tracker=%s step=%d"
                    _log.exception(text, type(tracker).__name__, values.step)
                self._failing.add(key)

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
        run = tracker.open(f"{model}-{source.id}", source.session_id, settings)
        # Once in use, trackers end their runs at exit too. The last function that is registered is called first.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
        return run

    def _closed(self, session_id: str) -> None:
        self._settings = {one: facts for one, facts in self._settings.items() if one.session_id != session_id}
        for key in [key for key in self._runs if key[0].session_id == session_id]:
            run = self._runs.pop(key)
            self._failing.discard(key)
            try:
                if run is not None:
                    run.end()
            except Exception:
                _log.exception("a run was not ended: tracker=%s model_id=%s", type(key[1]).__name__, key[0].id)


def _close_all() -> None:
    """Wait until everything is written. Runs at the end of the process."""
    for one in list(_live):
        one.close()


def _renew_locks() -> None:
    """Replace the locks that a thread of the parent may have held. Runs in a forked child."""
    for one in list(_live):
        one._steps_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
