"""The metrics, one attribute each."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Metrics"]

#: Seconds, from a quick response to an hour in a queue.
SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
#: Bytes, up to the limit of a chunk.
BYTES = (1e3, 1e4, 1e5, 5e5, 1e6, 2.5e6, 5e6, 1e7, 1e8)
DATUMS = (1, 4, 16, 64, 128, 256, 512, 1024)


class Metrics:
    """All metrics in one registry; the README describes them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tinkex_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str, mode: str = "livesum") -> Gauge:
            return Gauge(f"tinkex_{name}", text, labels, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"tinkex_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter("requests", "HTTP attempts", "method", "route", "status")
        self.request_seconds = histogram("request_seconds", "Time of HTTP attempts", SECONDS, "route")
        self.retries = counter("retries", "Retries", "policy", "cause")
        self.calls = counter("calls", "Calls that ended", "operation", "client", "outcome")
        self.call_seconds = histogram("call_seconds", "Time of calls", SECONDS, "operation")
        self.calls_in_flight = gauge("calls_in_flight", "Calls that have not ended", "operation")
        self.futures = counter("futures", "Server futures that were resolved", "operation", "outcome")
        self.heartbeats_missed = counter("heartbeats_missed", "Heartbeats that failed")
        self.heartbeat_silence = gauge(
            "heartbeat_silence_seconds", "Seconds without a heartbeat at the last one that failed", mode="livemax"
        )
        self.last_heartbeat = gauge(
            "last_heartbeat_timestamp_seconds", "Unix time of the last heartbeat that succeeded", mode="livemin"
        )
        self.tokens = counter("tokens", "Tokens", "kind")
        self.completions = counter("completions", "Completions", "stop_reason")
        self.datums = counter("datums", "Datums of training passes")
        self.optimizer_steps = counter("optimizer_steps", "Optimizer steps")
        self.checkpoints = counter("checkpoints", "Checkpoints that were saved", "kind")
        self.loss = gauge("loss", "Loss of the last training pass", "loss_fn", "model", mode="livemostrecent")
        self.adam_params = gauge(
            "adam_params", "Parameters of the last optimizer step", "parameter", "model", mode="livemostrecent"
        )
        self.chunk_datums = histogram("chunk_datums", "Datums of a chunk", DATUMS)
        self.chunk_bytes = histogram("chunk_bytes", "Size of a chunk", BYTES, "size")
        self.dispatch_wait_seconds = histogram("dispatch_wait_seconds", "Wait of samples for admission", SECONDS)
        self.dispatch_in_flight = gauge("dispatch_in_flight", "Samples admitted and not yet accepted")
        self.dispatch_bytes_left = gauge("dispatch_bytes_left", "Byte budget that is left", mode="livemin")
        self.dispatch_bytes_in_use = gauge("dispatch_bytes_in_use", "Bytes charged for samples that are being sent")
        self.pace = gauge("pace", "Samples per second sent at most after a 429; +Inf without a limit", mode="livemin")
        self.dispatch_waiting = gauge("dispatch_waiting", "Samples that wait for admission")
        self.backoffs = counter("backoffs", "Backoffs after a 429", "scope")
        self.backoff_seconds = counter("backoff_seconds", "Seconds of backoffs")
        self.clients_paused = gauge("clients_paused", "Clients that wait in a queue of the server")
        self.queue_state_seconds = counter(
            "queue_state_seconds", "Seconds in a queue state", "client", "state", "reason"
        )
