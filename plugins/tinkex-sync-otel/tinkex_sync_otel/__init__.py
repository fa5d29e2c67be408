"""A tinkex_sync plugin that reports each call as an OpenTelemetry span, with its HTTP attempts below, and metrics.

It uses the API of OpenTelemetry only. Nothing is recorded without an SDK, which the program or
``opentelemetry-instrument`` sets up. The README lists spans, attributes and metrics.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Dict, Mapping, Optional, Tuple

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from tinkex_sync import hookimpl

__all__ = ["OpenTelemetry"]

HTTP_SPANS = "TINKEX_SYNC_OTEL_HTTP"
#: The operation's name in the conventions for generative AI.
_OPERATIONS = {"sample": "text_completion", "compute_logprobs": "text_completion"}
_SYSTEM = "tinker"


def _requests_are_instrumented() -> bool:
    """Return whether opentelemetry-instrumentation-requests makes a span of each HTTP request already."""
    try:
        import requests
    except ImportError:  # pragma: no cover
        return False
    return hasattr(requests.Session.send, "opentelemetry_instrumentation_requests_applied")


class OpenTelemetry:
    """Makes spans and metrics of the events of a client. All methods are thread-safe.

    Args:
        tracer_provider: Default: the global one.
        meter_provider: Default: the global one.
        http_spans: Whether each HTTP attempt is a span of its own. Default: TINKEX_SYNC_OTEL_HTTP (1 or 0); without
            it, unless the instrumentation of requests makes such spans already.
    """

    def __init__(
        self, tracer_provider: Any = None, meter_provider: Any = None, http_spans: Optional[bool] = None
    ) -> None:
        self._tracer = trace.get_tracer("tinkex_sync", tracer_provider=tracer_provider)
        meter = metrics.get_meter("tinkex_sync", meter_provider=meter_provider)
        self._call_seconds = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "Time of calls, from their start to their result"
        )
        self._tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}", "Tokens of calls")
        self._paused_seconds = meter.create_counter("tinkex.queue_state.time", "s", "Seconds in a queue of the server")
        self._retries = meter.create_counter("tinkex.retries", "{retry}", "Retries")
        self._http_spans = http_spans if http_spans is not None else self._read_choice()
        self._lock = threading.Lock()
        self._open: Dict[str, Span] = {}  # guarded by _lock; by call
        self._models: Dict[str, str] = {}  # guarded by _lock; base model or path by client
        self._counted: Dict[str, Tuple[str, str, float]] = {}  # guarded by _lock; state, reason, seconds by client

    @staticmethod
    def _read_choice() -> bool:
        chosen = os.environ.get(HTTP_SPANS, "")
        if chosen not in ("", "0", "1"):
            raise ValueError(f"{HTTP_SPANS} must be 1 or 0, not {chosen!r}")
        return chosen == "1" or (chosen == "" and not _requests_are_instrumented())

    def _span(self, call_id: str) -> Optional[Span]:
        with self._lock:
            return self._open.get(call_id)

    # Calls

    @hookimpl
    def tinkex_client_created(self, source: Any, base_model: Optional[str], model_path: Optional[str]) -> None:
        with self._lock:
            self._models[source.id] = base_model or model_path or ""

    @hookimpl
    def tinkex_call_started(self, source: Any, call_id: str, operation: str, items: int) -> None:
        attributes: Dict[str, Any] = {
            "gen_ai.provider.name": _SYSTEM,
            "gen_ai.operation.name": _OPERATIONS.get(operation, operation),
            "tinkex.client.kind": source.kind,
            "tinkex.client.id": source.id,
            "tinkex.session.id": source.session_id,
            "tinkex.items": items,
        }
        with self._lock:
            model = self._models.get(source.id)
        if model:
            attributes["gen_ai.request.model"] = model
        # In the caller's thread, so that its current span is the parent.
        span = self._tracer.start_span(f"tinkex {operation}", kind=SpanKind.CLIENT, attributes=attributes)
        with self._lock:
            self._open[call_id] = span

    @hookimpl
    def tinkex_call_finished(
        self,
        source: Any,
        call_id: str,
        operation: str,
        outcome: str,
        elapsed: float,
        facts: Mapping[str, Any],
        error: Optional[BaseException],
    ) -> None:
        with self._lock:
            span = self._open.pop(call_id, None)
            model = self._models.get(source.id, "")
        labels = {"gen_ai.operation.name": _OPERATIONS.get(operation, operation), "gen_ai.provider.name": _SYSTEM}
        if model:
            labels["gen_ai.request.model"] = model
        for name, kind in (("prompt_tokens", "input"), ("tokens", "input"), ("completion_tokens", "output")):
            if name in facts:
                self._tokens.record(facts[name], {**labels, "gen_ai.token.type": kind})
        if error is not None:
            labels["error.type"] = type(error).__name__
        self._call_seconds.record(elapsed, labels)
        if span is None:
            return  # The plugin was registered while the call was running.
        span.set_attribute("tinkex.outcome", outcome)
        for name, value in _result_attributes(facts).items():
            span.set_attribute(name, value)
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end()

    @hookimpl
    def tinkex_request_finished(
        self,
        call_id: str,
        method: str,
        route: str,
        path: str,
        host: str,
        attempt: int,
        status: Optional[int],
        elapsed: float,
        sent_bytes: int,
        received_bytes: int,
        http_version: Optional[str],
        server_request_id: Optional[str],
        error: Optional[BaseException],
    ) -> None:
        parent = self._span(call_id)
        if not self._http_spans:
            # The span of the instrumentation has the same id of the request, if the server sends one.
            shown = {"method": method, "route": route, "status": status, "request_id": server_request_id}
            self._add_event(call_id, "request", **{name: value for name, value in shown.items() if value is not None})
            return
        if call_id and parent is None:
            return
        address, _, port = host.partition(":")
        found: Dict[str, Any] = {
            "http.request.method": method,
            "url.path": path,
            "url.template": route,
            "server.address": address,
            "server.port": int(port) if port.isdigit() else None,
            "network.protocol.name": "http",
            "network.protocol.version": http_version,
            "http.request.resend_count": attempt - 1 or None,
            "http.request.body.size": sent_bytes,
            "http.response.body.size": received_bytes,
            "http.response.status_code": status,
            "http.response.header.x-request-id": server_request_id,
            "error.type": None if error is None else str(status or type(error).__name__),
        }
        attributes = {name: value for name, value in found.items() if value is not None}
        now = time.time_ns()
        where = context.Context() if parent is None else trace.set_span_in_context(parent)
        span = self._tracer.start_span(
            f"{method} {route}", where, SpanKind.CLIENT, attributes, start_time=now - int(elapsed * 1e9)
        )
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end(now)

    # Events of a call

    @hookimpl
    def tinkex_retry_scheduled(
        self, call_id: str, policy: str, attempt: int, delay: float, cause: BaseException
    ) -> None:
        self._retries.add(1, {"tinkex.policy": policy, "error.type": type(cause).__name__})
        self._add_event(
            call_id, "retry", policy=policy, attempt=attempt, delay=delay, cause=f"{type(cause).__name__}: {cause}"
        )

    @hookimpl
    def tinkex_queue_state_changed(
        self, source: Any, call_id: str, state: str, reason: Optional[str], reason_source: Optional[str], waited: float
    ) -> None:
        self._add_event(
            call_id, "queue state", state=state, reason=reason or "", reason_source=reason_source or "", waited=waited
        )
        self._count_wait(source, waited)
        with self._lock:
            if state != "active":
                self._counted[source.id] = state, reason or "", waited

    @hookimpl
    def tinkex_queue_state_repeated(self, source: Any, call_id: str, state: str, waited: float) -> None:
        self._add_event(call_id, "queue state", state=state, waited=waited)
        counted = self._count_wait(source, waited)
        if counted is not None:
            with self._lock:
                self._counted[source.id] = (*counted, waited)

    def _count_wait(self, source: Any, waited: float) -> Optional[Tuple[str, str]]:
        with self._lock:
            before = self._counted.pop(source.id, None)
        if before is None:
            return None
        state, reason, counted = before
        labels = {"tinkex.client.kind": source.kind, "tinkex.queue_state": state}
        self._paused_seconds.add(max(waited - counted, 0.0), labels)
        return state, reason

    @hookimpl
    def tinkex_chunk_sent(self, call_id: str, boundary: Any, body_bytes: int, request_id: str) -> None:
        self._add_event(
            call_id,
            "chunk sent",
            index=boundary.index,
            datums=boundary.stop - boundary.start,
            estimated_bytes=boundary.estimated_bytes,
            body_bytes=body_bytes,
            request_id=request_id,
        )

    @hookimpl
    def tinkex_adam_params_serialized(self, call_id: str, payload: Mapping[str, Any]) -> None:
        self._add_event(call_id, "optimizer parameters", **dict(payload))

    @hookimpl
    def tinkex_dispatch_acquired(self, call_id: str, waited: float, throttled: bool, in_flight: int) -> None:
        if waited > 0.001:
            self._add_event(call_id, "dispatched", waited=waited, throttled=throttled, in_flight=in_flight)

    @hookimpl
    def tinkex_backoff_started(self, call_id: str, duration: float, everyone: bool) -> None:
        self._add_event(call_id, "backoff", duration=duration, everyone=everyone)

    @hookimpl
    def tinkex_checkpoint_saved(self, call_id: str, path: str, kind: str) -> None:
        self._add_event(call_id, "checkpoint saved", path=path, kind=kind)

    def _add_event(self, call_id: str, name: str, **attributes: Any) -> None:
        span = self._span(call_id)
        if span is not None:
            span.add_event(f"tinkex {name}", attributes)


def _result_attributes(facts: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the attributes of a result."""
    names = {
        "prompt_tokens": "gen_ai.usage.input_tokens",
        "completion_tokens": "gen_ai.usage.output_tokens",
        "tokens": "gen_ai.usage.input_tokens",
        "loss_fn": "tinkex.loss_fn",
        "loss": "tinkex.loss",
        "datums": "tinkex.datums",
        "step": "tinkex.step",
    }
    found = {shown: facts[name] for name, shown in names.items() if name in facts}
    if "stop_reasons" in facts:
        found["gen_ai.response.finish_reasons"] = [str(reason) for reason in facts["stop_reasons"]]
    for name, value in facts.get("metrics", {}).items():
        found[f"tinkex.metric.{name}"] = value
    return found
