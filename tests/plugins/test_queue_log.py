from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from hook_examples import facts

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.plugins.hookspecs import Source
from tinkex_sync.plugins.queue_log import QueueLog, default_reason, message
from tinkex_sync.plugins.registry import Observers

VECTORS = Path(__file__).parents[1] / "vectors"
TRAINING = Source("training", "model-1", "sess-1")
SAMPLING = Source("sampling", "sess-1:sample:0", "sess-1")


class HandClock(Clock):
    now = 1000.0

    def time(self) -> float:
        return self.now


class Log:
    """A queue log behind real hooks."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = HandClock()
        self.caplog = caplog
        self.told = Observers(builtin=[QueueLog(self.clock)], autoload=False, strict=True)

    def changed(self, source: Source, state: str, reason: Any = None) -> None:
        assert self.told.queue_state_changed is not None
        self.told.queue_state_changed(
            **facts("queue_state_changed", source=source, state=state, reason=reason, reason_source=None)
        )

    def answered(self, source: Source, status: Optional[int]) -> None:
        assert self.told.request_finished is not None
        self.told.request_finished(**facts("request_finished", source=source, status=status))

    def lines(self) -> List[List[str]]:
        """What was logged since the last time."""
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
def test_lines_are_as_recorded(log: Log, case: Dict[str, Any], kind: str) -> None:
    for call in case["expected"]["observer_calls"]:
        log.changed(source_of(case, kind), call["queue_state"], call["reason"])
    assert log.lines() == case["expected"][kind + "_log"]


@pytest.mark.parametrize("case", [c for c in cases() if "calls" in c["input"]], ids=lambda c: str(c["name"]))
def test_lines_are_as_far_apart_as_recorded(log: Log, case: Dict[str, Any]) -> None:
    source = source_of(case, case["name"].partition("_")[2])
    logs = []
    for call in case["input"]["calls"]:
        log.clock.now = call["t"]
        state = call["state"] if call["state"] != "something_new" else "unknown"
        log.changed(source, state, call["reason"])
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
def test_a_reason_stands_in_where_the_server_gives_none(kind: str, state: str, expected: str) -> None:
    assert default_reason(kind, state) == expected
    assert message(Source(kind, "x", "s"), state, "").endswith(f". Reason: {expected}")
    assert message(Source(kind, "x", "s"), state, "we say so").endswith(". Reason: we say so")


def test_model_creation_has_a_text_of_its_own() -> None:
    text = message(Source("service", "sess-1", "sess-1"), "paused_capacity", "maintenance")
    assert text == "Model creation is paused for session sess-1. Reason: maintenance"


def test_clients_do_not_silence_each_other(log: Log) -> None:
    log.changed(TRAINING, "paused_capacity", "a")
    log.changed(SAMPLING, "paused_capacity", "b")
    log.changed(TRAINING, "paused_capacity", "c")
    assert [text for _, text in log.lines()] == [
        "Training is paused for model-1. Reason: a",
        "Sampling is paused for sampler sess-1:sample:0. Reason: b",
    ]


def test_while_a_pause_lasts_it_is_said_again_after_each_minute(log: Log) -> None:
    log.changed(TRAINING, "paused_capacity", "a")
    assert len(log.lines()) == 1
    spoken = []
    for second in range(5, 185, 5):
        log.clock.now = 1000.0 + second
        log.answered(TRAINING, 408)
        spoken += [second] * len(log.lines())
    assert spoken == [60, 120, 180]


def test_nothing_is_said_after_the_pause_nor_about_answers_that_are_no_refusal(log: Log) -> None:
    log.changed(TRAINING, "paused_capacity", "a")
    log.lines()
    log.clock.now += 100
    for status in (200, 500, None):
        log.answered(TRAINING, status)
    log.answered(SAMPLING, 429)
    assert log.lines() == []
    log.changed(TRAINING, "active")
    log.answered(TRAINING, 408)
    assert log.lines() == []


def test_clients_long_gone_are_forgotten(log: Log) -> None:
    plugin = QueueLog(log.clock)
    for number in range(100):
        source = Source("sampling", str(number), "s")
        log.clock.now += 61
        plugin.tinkex_queue_state_changed(source, "paused_capacity", None)
        plugin.tinkex_queue_state_changed(source, "active", None)
    assert len(plugin._logged) == 1
    assert plugin._paused == {}
