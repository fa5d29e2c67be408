"""A tinkex_sync plugin that keeps Prometheus metrics of a process: requests, calls, throttling, queue states, training.

``TINKEX_SYNC_PROMETHEUS_PORT`` starts an HTTP server for them on the loopback interface. Without it, the metrics are in
the default registry of prometheus_client, which the program exposes in its own way. The README lists them.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Set, Tuple

import prometheus_client
from prometheus_client import REGISTRY, CollectorRegistry, multiprocess

from tinkex_sync import hookimpl

from .metrics import Metrics

__all__ = ["Prometheus", "dashboard"]

PORT, WITH_IDS = "TINKEX_SYNC_PROMETHEUS_PORT", "TINKEX_SYNC_PROMETHEUS_IDS"
_HEARTBEAT = "/api/v1/session_heartbeat"
#: Different values of a label with free text, above which further ones are counted as "other".
MOST_VALUES = 20

_lock = threading.Lock()
_metrics: weakref.WeakKeyDictionary[CollectorRegistry, Metrics] = weakref.WeakKeyDictionary()  # guarded by _lock
_ports: Set[int] = set()  # ports that are served; guarded by _lock


def dashboard() -> str:
    """Return the JSON of a Grafana dashboard for these metrics."""
    return Path(__file__).with_name("grafana.json").read_text("utf-8")


def _metrics_of(registry: CollectorRegistry) -> Metrics:
    """Return the metrics in a registry. They are made once, because all clients of a process share them."""
    with _lock:
        if registry not in _metrics:
            _metrics[registry] = Metrics(registry)
        return _metrics[registry]


def _serve(port: int) -> None:
    """Serve the metrics at http://127.0.0.1:PORT/metrics, once per process."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    with _lock:
        if port in _ports:
            return
        try:
            prometheus_client.start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            # Another process has it, such as another worker of the job. The metrics are kept, and this one serves none.
            warnings.warn(
                f"{PORT}={port}: metrics are not served by this process: {error}", RuntimeWarning, stacklevel=3
            )
        _ports.add(port)


class _Waiting:
    """What one client waits for: a queue state, its reason, and the seconds that were counted."""

    def __init__(self, state: str, reason: str, counted: float) -> None:
        self.state, self.reason, self.counted = state, reason, counted


class Prometheus:
    """Counts the events of a client. All methods are thread-safe.

    Args:
        registry: Where the metrics are. Default: prometheus_client's own.
        port: Serve the metrics there, on the loopback interface. Default: TINKEX_SYNC_PROMETHEUS_PORT, or no server.
        with_ids: Give metrics of training the id of the model as a label. Default: TINKEX_SYNC_PROMETHEUS_IDS.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, port: Optional[int] = None, with_ids: Optional[bool] = None
    ) -> None:
        self.metrics = _metrics_of(registry)
        self._with_ids = bool(os.environ.get(WITH_IDS)) if with_ids is None else with_ids
        self._lock = threading.Lock()
        self._reasons: Set[str] = set()  # guarded by _lock
        self._waiting: Dict[str, _Waiting] = {}  # guarded by _lock; by id of the client
        self._charged: Dict[str, int] = {}  # guarded by _lock; bytes of the samples that are being sent
        chosen = os.environ.get(PORT) if port is None else port
        if chosen:
            if not str(chosen).isdigit() or not 0 < int(chosen) < 65_536:
                raise ValueError(f"{PORT} must be a port from 1 to 65535, not {chosen!r}")
            _serve(int(chosen))

    # Calls and requests

    @hookimpl
    def tinkex_call_started(self, operation: str) -> None:
        self.metrics.calls_in_flight.labels(operation).inc()

    @hookimpl
    def tinkex_call_finished(
        self, source: Any, operation: str, outcome: str, elapsed: float, facts: Mapping[str, Any]
    ) -> None:
        metrics = self.metrics
        metrics.calls_in_flight.labels(operation).dec()
        metrics.calls.labels(operation, source.kind, outcome).inc()
        metrics.call_seconds.labels(operation).observe(elapsed)
        for name, kind in (("prompt_tokens", "prompt"), ("completion_tokens", "completion"), ("tokens", "training")):
            if name in facts:
                metrics.tokens.labels(kind).inc(facts[name])
        for reason in facts.get("stop_reasons", ()):
            metrics.completions.labels(self._bounded(str(reason))).inc()
        if "loss" in facts:
            metrics.loss.labels(facts["loss_fn"], self._model(source)).set(facts["loss"])
        if "datums" in facts:
            metrics.datums.inc(facts["datums"])
        if "step" in facts:
            metrics.optimizer_steps.inc()

    @hookimpl
    def tinkex_request_finished(
        self, method: str, route: str, status: Optional[int], elapsed: float, error: Optional[BaseException]
    ) -> None:
        shown = str(status) if status is not None else type(error).__name__
        self.metrics.requests.labels(method, route, shown).inc()
        self.metrics.request_seconds.labels(route).observe(elapsed)
        if route == _HEARTBEAT and error is None:
            self.metrics.last_heartbeat.set_to_current_time()

    @hookimpl
    def tinkex_retry_scheduled(self, policy: str, cause: BaseException) -> None:
        self.metrics.retries.labels(policy, type(cause).__name__).inc()

    @hookimpl
    def tinkex_future_resolved(self, operation: str, outcome: str) -> None:
        self.metrics.futures.labels(operation, outcome).inc()

    # Session

    @hookimpl
    def tinkex_heartbeat_missed(self, silent_for: float) -> None:
        self.metrics.heartbeats_missed.inc()
        self.metrics.heartbeat_silence.set(silent_for)

    # Training

    @hookimpl
    def tinkex_chunks_planned(self, boundaries: Sequence[Any]) -> None:
        for boundary in boundaries:
            self.metrics.chunk_datums.observe(boundary.stop - boundary.start)

    @hookimpl
    def tinkex_chunk_sent(self, boundary: Any, body_bytes: int) -> None:
        self.metrics.chunk_bytes.labels("estimated").observe(boundary.estimated_bytes)
        self.metrics.chunk_bytes.labels("actual").observe(body_bytes)

    @hookimpl
    def tinkex_adam_params_serialized(self, source: Any, params: Any) -> None:
        for name in ("learning_rate", "weight_decay", "grad_clip_norm"):
            self.metrics.adam_params.labels(name, self._model(source)).set(getattr(params, name))

    @hookimpl
    def tinkex_checkpoint_saved(self, kind: str) -> None:
        self.metrics.checkpoints.labels(kind).inc()

    # Sampling throttle

    @hookimpl
    def tinkex_dispatch_acquired(
        self,
        call_id: str,
        charged_bytes: int,
        waited: float,
        in_flight: int,
        bytes_left: int,
        waiting: int,
        pace: Optional[float],
    ) -> None:
        self.metrics.dispatch_wait_seconds.observe(waited)
        with self._lock:
            self._charged[call_id] = charged_bytes
        self.metrics.dispatch_bytes_in_use.inc(charged_bytes)
        self._set_usage(in_flight, bytes_left, waiting, pace)

    @hookimpl
    def tinkex_dispatch_released(
        self, call_id: str, in_flight: int, bytes_left: int, waiting: int, pace: Optional[float]
    ) -> None:
        with self._lock:
            charged = self._charged.pop(call_id, 0)
        self.metrics.dispatch_bytes_in_use.dec(charged)
        self._set_usage(in_flight, bytes_left, waiting, pace)

    def _set_usage(self, in_flight: int, bytes_left: int, waiting: int, pace: Optional[float]) -> None:
        self.metrics.pace.set(math.inf if pace is None else pace)
        self.metrics.dispatch_in_flight.set(in_flight)
        self.metrics.dispatch_bytes_left.set(bytes_left)
        self.metrics.dispatch_waiting.set(waiting)

    @hookimpl
    def tinkex_backoff_started(self, duration: float, everyone: bool) -> None:
        self.metrics.backoffs.labels("all samples" if everyone else "one sample").inc()
        self.metrics.backoff_seconds.inc(duration)

    # Queue states

    @hookimpl
    def tinkex_queue_state_changed(self, source: Any, state: str, reason: Optional[str], waited: float) -> None:
        with self._lock:
            before = self._waiting.pop(source.id, None)
            if state != "active":
                self._waiting[source.id] = _Waiting(state, reason or "", waited)
            paused = len(self._waiting)
        self.metrics.clients_paused.set(paused)
        if before is not None:
            self._count_wait(source.kind, before, waited)

    @hookimpl
    def tinkex_queue_state_repeated(self, source: Any, waited: float) -> None:
        with self._lock:
            before = self._waiting.get(source.id)
        if before is not None:
            self._count_wait(source.kind, before, waited)

    def _count_wait(self, kind: str, before: _Waiting, waited: float) -> None:
        with self._lock:
            seconds, before.counted = max(waited - before.counted, 0.0), waited
        labels: Tuple[str, str, str] = kind, before.state, self._bounded(before.reason)
        self.metrics.queue_state_seconds.labels(*labels).inc(seconds)

    def _bounded(self, text: str) -> str:
        """Return a text from a server, or "other" if there are many different ones."""
        with self._lock:
            if text not in self._reasons:
                if len(self._reasons) >= MOST_VALUES:
                    return "other"
                self._reasons.add(text)
        return text

    def _model(self, source: Any) -> str:
        return str(source.id) if self._with_ids else ""
