"""The built-in queue log: one warning when a pause begins, and at most one a minute while it lasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest
from hook_examples import facts
from scripted_server import Answer, ScriptedServer, SteppedClock

from tinkex_sync import Config, ServiceClient
from tinkex_sync.plugins.events import Source
from tinkex_sync.plugins.hookspecs import SPECS
from tinkex_sync.plugins.queue_log import QueueLog, warning_text
from tinkex_sync.plugins.queue_reasons import default_reason
from tinkex_sync.plugins.registry import Observers

VECTORS = Path(__file__).parents[1] / "vectors"
TRAINING = Source("training", "model-1", "sess-1")
SAMPLING = Source("sampling", "sess-1:sample:0", "sess-1")


class Log:
    """A queue log that is called through its hooks."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = SteppedClock()
        self.caplog = caplog
        self.observers = Observers(builtin=[QueueLog(self.clock)], autoload=False, strict=True)

    def change(self, source: Source, state: str, reason: Any = None) -> None:
        assert self.observers.queue_state_changed is not None
        self.observers.queue_state_changed(
            **facts("queue_state_changed", source=source, state=state, reason=reason, reason_source=None)
        )

    def repeat(self, source: Source, state: str, reason: Any = None) -> None:
        assert self.observers.queue_state_repeated is not None
        self.observers.queue_state_repeated(
            **facts("queue_state_repeated", source=source, state=state, reason=reason, reason_source=None)
        )

    def lines(self) -> List[List[str]]:
        """Return level and text of the lines since the last call."""
        lines = [[record.levelname, record.getMessage()] for record in self.caplog.records]
        assert {record.name for record in self.caplog.records} <= {"tinkex_sync.plugins.queue_log"}
        self.caplog.clear()
        return lines


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def cases() -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = json.loads((VECTORS / "queue_state.json").read_text())["cases"]
    return found


def source_of(case: Dict[str, Any], kind: str) -> Source:
    key = "training_model_id" if kind == "training" else "sampling_session_id"
    return Source(kind, case["input"][key], "sess-1")


@pytest.mark.parametrize("kind", ["training", "sampling"])
@pytest.mark.parametrize("case", [c for c in cases() if "body" in c["input"]], ids=lambda c: str(c["name"]))
def test_lines_equal_the_recorded_lines(log: Log, case: Dict[str, Any], kind: str) -> None:
    for call in case["expected"]["observer_calls"]:
        log.change(source_of(case, kind), call["queue_state"], call["reason"])
    assert log.lines() == case["expected"][kind + "_log"]


@pytest.mark.parametrize("case", [c for c in cases() if "calls" in c["input"]], ids=lambda c: str(c["name"]))
def test_lines_are_at_the_recorded_times(log: Log, case: Dict[str, Any]) -> None:
    source = source_of(case, case["name"].partition("_")[2])
    logs = []
    for call in case["input"]["calls"]:
        log.clock.advance(call["t"] - log.clock.time())
        state = call["state"] if call["state"] != "something_new" else "unknown"
        log.change(source, state, call["reason"])
        logs.append(log.lines())
    assert logs == case["expected"]["logs"]


@pytest.mark.parametrize(
    ("kind", "state", "expected"),
    [
        ("training", "paused_rate_limit", "concurrent training clients rate limit hit"),
        ("service", "paused_rate_limit", "concurrent training clients rate limit hit"),
        ("sampling", "paused_rate_limit", "concurrent sampler weights limit hit"),
        ("training", "paused_capacity", "Tinker backend is running short on capacity, please wait"),
        ("sampling", "paused_capacity", "Tinker backend is running short on capacity, please wait"),
        ("training", "unknown", "unknown"),
        ("sampling", "paused_something", "unknown"),
    ],
)
def test_default_reason_replaces_a_missing_reason(kind: str, state: str, expected: str) -> None:
    assert default_reason(kind, state) == expected
    assert warning_text(Source(kind, "x", "s"), state, "").endswith(f". Reason: {expected}")
    assert warning_text(Source(kind, "x", "s"), state, "maintenance").endswith(". Reason: maintenance")


def test_warning_about_a_service_client_names_model_creation() -> None:
    text = warning_text(Source("service", "sess-1", "sess-1"), "paused_capacity", "maintenance")
    assert text == "Model creation is paused for session sess-1. Reason: maintenance"


def test_interval_between_warnings_is_kept_per_client(log: Log) -> None:
    log.change(TRAINING, "paused_capacity", "a")
    log.change(SAMPLING, "paused_capacity", "b")
    log.change(TRAINING, "paused_capacity", "c")
    assert [text for _, text in log.lines()] == [
        "Training is paused for model-1. Reason: a",
        "Sampling is paused for sampler sess-1:sample:0. Reason: b",
    ]


def test_repeated_reports_are_logged_at_most_every_minute(log: Log) -> None:
    log.change(TRAINING, "paused_capacity", "a")
    assert len(log.lines()) == 1
    logged_at = []
    for second in range(5, 185, 5):
        log.clock.advance(5.0)
        log.repeat(TRAINING, "paused_capacity", "a")
        logged_at += [second] * len(log.lines())
    assert logged_at == [60, 120, 180]


def test_active_state_is_not_logged(log: Log) -> None:
    log.change(TRAINING, "active")
    assert log.lines() == []


def test_entries_of_earlier_clients_are_removed(log: Log) -> None:
    plugin = QueueLog(log.clock)
    for number in range(100):
        source = Source("sampling", str(number), "s")
        log.clock.advance(61.0)
        plugin.tinkex_queue_state_changed(source, "paused_capacity", None)
        plugin.tinkex_queue_state_changed(source, "active", None)
    assert list(plugin._warned_at) == [Source("sampling", "99", "s")]


def test_default_client_has_no_built_in_plugin_on_any_other_hook() -> None:
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        config = Config(base_url=server.base_url, api_key="key")
        with ServiceClient(config=config, load_plugins=False) as service:
            assert service.plugins.request_finished is None
            hooks = {name[len("tinkex_") :] for name in SPECS}
            used = {hook for hook in hooks if getattr(service.plugins, hook) is not None}
    assert used == {"queue_state_changed", "queue_state_repeated"}


def test_warning_about_a_pause_is_repeated_in_a_real_run(caplog: pytest.LogCaptureFixture) -> None:
    paused = {"queue_state": "paused_capacity", "queue_state_reason": "maintenance"}
    with ScriptedServer() as server:
        clock = SteppedClock()

        def poll_after(seconds: float) -> Answer:
            return Answer(408, paused, hold=lambda: clock.advance(seconds))

        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.defaults["create_model"] = Answer(body={"request_id": "req-1"})
        server.script(
            "retrieve_future",
            *(poll_after(seconds) for seconds in (0.0, 25.0, 25.0, 25.0, 25.0, 25.0)),
            Answer(body={"type": "create_model", "model_id": "m"}),
        )
        config = Config(base_url=server.base_url, api_key="key", clock=clock)
        with ServiceClient(config=config, load_plugins=False) as service:
            service.create_lora_training_client("m")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("queue_log")]
    assert lines == ["Model creation is paused for session sess-1. Reason: maintenance"] * 2
