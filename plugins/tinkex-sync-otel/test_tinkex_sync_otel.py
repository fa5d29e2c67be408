"""Tests of the installed distribution: ``pip install . ../.. pytest opentelemetry-sdk ... && pytest``."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from typing import Any, Dict, Iterator, List

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tinkex_sync_otel import OpenTelemetry

from tinkex_sync import ServiceClient, TinkexError, types
from tinkex_sync.local import Faults, LocalServer
from tinkex_sync.plugins import Observers
from tinkex_sync.testing import check_plugin

DATUM = types.Datum(model_input=types.ModelInput.from_ints([1, 2, 3]), loss_fn_inputs={"target_tokens": [2, 3, 4]})
PROMPT, PARAMS = types.ModelInput.from_ints([1, 2]), types.SamplingParams(max_tokens=2)


class Telemetry:
    """Providers that keep everything in memory, and the plugin that reports to them."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("test")
        self.reader = InMemoryMetricReader()
        self.plugin = OpenTelemetry(self.tracers, MeterProvider([self.reader]), **options)

    def spans(self, name: str) -> List[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def metrics(self) -> Dict[str, List[Any]]:
        data = self.reader.get_metrics_data()
        found = [metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]
        return {metric.name: list(metric.data.data_points) for metric in found}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running


def client(server: LocalServer, telemetry: Telemetry, **settings: Any) -> ServiceClient:
    return ServiceClient(
        base_url=server.base_url,
        api_key="local",
        plugins=[telemetry.plugin],
        load_plugins=False,
        strict_plugins=True,
        **settings,
    )


def attributes(span: ReadableSpan) -> Dict[str, Any]:
    return dict(span.attributes or {})


def test_it_is_loaded_by_its_entry_point() -> None:
    assert metadata.version("tinkex-sync-otel")
    [status] = [status for status in Observers(strict=True).report() if status.name == "otel"]
    assert (status.distribution, status.status) == ("tinkex-sync-otel", "active")


def test_a_call_is_a_span_below_that_of_the_caller_with_its_requests_below(server: LocalServer) -> None:
    telemetry = Telemetry(http_spans=True)
    mine = telemetry.tracer.start_span("my request")
    with client(server, telemetry, max_chunk_datums=2) as service, trace.use_span(mine, end_on_exit=True):
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        training.train_step([DATUM] * 5, "cross_entropy", types.AdamParams(learning_rate=0.5))
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        sampler.sample(PROMPT, 1, PARAMS)
        service.get_server_capabilities()
    for name in ("forward_backward", "optim_step", "sample", "get_server_capabilities"):
        [call] = telemetry.spans(f"tinkex {name}")
        assert call.parent is not None and call.parent.span_id == mine.get_span_context().span_id
    [backward] = telemetry.spans("tinkex forward_backward")
    found = attributes(backward)
    assert found["gen_ai.request.model"] == "tinkex/tiny"
    assert (found["tinkex.datums"], found["gen_ai.usage.input_tokens"], found["tinkex.outcome"]) == (5, 15, "ok")
    assert found["tinkex.loss"] == found["tinkex.metric.loss:sum"] > 0
    requests = [one for one in telemetry.spans("POST /api/v1/forward_backward") if one.parent]
    assert [one.parent.span_id for one in requests if one.parent] == [backward.context.span_id] * 3
    sent = attributes(requests[0])
    assert sent["http.request.method"] == "POST" and sent["http.response.status_code"] == 200
    assert sent["server.address"] == "127.0.0.1" and sent["server.port"] > 0
    assert sent["network.protocol.version"] in ("1.0", "1.1")
    assert [event.name for event in backward.events].count("tinkex chunk sent") == 3
    [step] = telemetry.spans("tinkex optim_step")
    [event] = [event for event in step.events if event.name == "tinkex optimizer parameters"]
    assert (event.attributes or {})["learning_rate"] == 0.5
    assert attributes(step)["tinkex.step"] == 1
    [sample] = telemetry.spans("tinkex sample")
    assert attributes(sample)["gen_ai.usage.input_tokens"] == 2
    assert set(attributes(sample)["gen_ai.response.finish_reasons"]) <= {"stop", "length"}


def test_every_span_ends_also_those_of_failed_calls(server: LocalServer) -> None:
    telemetry = Telemetry()
    with client(server, telemetry, retry_for=1.0) as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        server.set_faults(Faults(fail_first={"asample": [503, 400]}))
        with pytest.raises(TinkexError):
            sampler.sample(PROMPT, 1, PARAMS)
        server.set_faults(Faults(pause=30.0, pause_reason="maintenance", pause_hold=0.1))
        with pytest.raises(TinkexError):
            sampler.sample(PROMPT, 1, PARAMS, timeout=1.0)
        server.set_faults(Faults())
    refused, late = telemetry.spans("tinkex sample")
    assert not refused.status.is_ok and attributes(refused)["error.type"] == "BadRequestError"
    assert {event.name for event in refused.events} >= {"tinkex retry", "exception"}
    assert attributes(late)["tinkex.outcome"] == "timeout"
    states = [event.attributes or {} for event in late.events if event.name == "tinkex queue state"]
    assert states[0]["reason"] == "maintenance" and states[0]["state"] == "paused_capacity"
    assert telemetry.plugin._open == {}
    names = {
        dict(point.attributes).get("error.type") for point in telemetry.metrics()["gen_ai.client.operation.duration"]
    }
    assert {"BadRequestError", "DeadlineExceeded", None} <= names
    assert sum(point.value for point in telemetry.metrics()["tinkex.retries"]) >= 1


def test_tokens_and_times_are_metrics(server: LocalServer) -> None:
    telemetry = Telemetry()
    with client(server, telemetry) as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        for _ in range(3):
            sampler.sample(PROMPT, 1, PARAMS)
    usage = {
        dict(point.attributes)["gen_ai.token.type"]: point for point in telemetry.metrics()["gen_ai.client.token.usage"]
    }
    assert (usage["input"].sum, usage["input"].count) == (6, 3)
    assert usage["output"].count == 3


def test_requests_that_are_instrumented_have_one_span(server: LocalServer) -> None:
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.requests")
    telemetry = Telemetry(http_spans=None)
    assert telemetry.plugin._http_spans
    instrumentor = instrumentation.RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracers)
    try:
        telemetry = Telemetry()
        assert not telemetry.plugin._http_spans
        with client(server, telemetry) as service:
            service.get_server_capabilities()
    finally:
        instrumentor.uninstrument()
    [call] = telemetry.spans("tinkex get_server_capabilities")
    [event] = [event for event in call.events if event.name == "tinkex request"]
    assert (event.attributes or {})["status"] == 200
    assert not telemetry.spans("GET /api/v1/get_server_capabilities")


def test_spans_arrive_at_a_collector(server: LocalServer) -> None:
    exporter = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    service_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    names: List[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = service_pb2.ExportTraceServiceRequest.FromString(
                self.rfile.read(int(self.headers["Content-Length"]))
            )
            names.extend(
                span.name for one in message.resource_spans for scope in one.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        tracers = TracerProvider()
        endpoint = f"http://127.0.0.1:{receiver.server_port}/v1/traces"
        tracers.add_span_processor(SimpleSpanProcessor(exporter.OTLPSpanExporter(endpoint=endpoint)))
        plugin = OpenTelemetry(tracers, http_spans=True)
        with ServiceClient(base_url=server.base_url, api_key="local", plugins=[plugin], load_plugins=False) as service:
            service.get_server_capabilities()
        tracers.shutdown()
        receiver.shutdown()
        thread.join(30.0)
    assert {"tinkex get_server_capabilities", "GET /api/v1/get_server_capabilities"} <= set(names)


def test_a_wrong_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_SYNC_OTEL_HTTP", "yes")
    with pytest.raises(ValueError, match="TINKEX_SYNC_OTEL_HTTP"):
        OpenTelemetry()


def test_the_client_can_call_all_its_hooks() -> None:
    check_plugin(OpenTelemetry(trace.NoOpTracerProvider()))
