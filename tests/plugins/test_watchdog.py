"""Hooks that do not return."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from typing import Iterator, List

import pytest
from hook_examples import emit, observers, row

from tinkex_sync import ServiceClient, hookimpl, types
from tinkex_sync.errors import PluginError
from tinkex_sync.plugins import watchdog

TEXT = types.ModelInput.from_ints([1])


class Blocking:
    """A plugin whose hook for samples blocks until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.calls = 0

    @hookimpl
    def tinkex_call_started(self, operation: str) -> None:
        self.calls += 1
        if operation in ("sample", "forward_backward"):
            self.release.wait(60.0)


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    plugin = Blocking()
    yield plugin
    plugin.release.set()


def test_a_hook_that_blocks_is_logged_with_its_stack(
    blocking: Blocking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "WARN_AFTER", 0.05)
    monkeypatch.setattr(watchdog, "_CHECK_EVERY", 0.01)
    logged = threading.Event()
    caplog.handler.addFilter(
        lambda record: bool("blocks the calling thread" in record.getMessage() and logged.set()) or True
    )
    registry = observers(blocking)
    thread = threading.Thread(target=emit, args=(registry,), daemon=True)
    thread.start()
    assert logged.wait(30.0)
    blocking.release.set()
    thread.join(30.0)
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    [text] = [one for one in texts if "blocks the calling thread" in one]
    assert "Blocking has been in call_started for" in text
    assert "self.release.wait(60.0)" in text


def test_the_watchdog_ends_when_no_hook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_CHECK_EVERY", 0.01)
    for _ in range(3):
        watchdog.end(watchdog.begin("p", "h"))
        deadline = time.monotonic() + 30.0
        while any(thread.name == "tinkex-hook-watch" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_with_a_limit_the_plugin_is_left_behind(blocking: Blocking, caplog: pytest.LogCaptureFixture) -> None:
    registry = observers(blocking, hook_timeout=0.05)
    emit(registry)
    emit(registry)
    status = row(registry)
    assert blocking.calls == 1
    assert (status.status, dict(status.errors)) == ("stuck", {"call_started": 1})
    assert "has not returned within 0.05 s" in status.error
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_with_a_limit_a_call_keeps_its_timeout(blocking: Blocking) -> None:
    with ServiceClient(base_url="local", plugins=[blocking], load_plugins=False, hook_timeout=0.2) as service:
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        started = time.monotonic()
        sampler.sample(TEXT, 1, types.SamplingParams(max_tokens=2), timeout=30.0)
        assert time.monotonic() - started < 25.0
        assert {one.status for one in service.plugins.report() if one.origin == "argument"} == {"stuck"}


def test_a_limit_in_strict_mode_raises(blocking: Blocking) -> None:
    registry = observers(blocking, hook_timeout=0.05, strict=True)
    with pytest.raises(PluginError, match="has not returned within"):
        emit(registry)


def test_with_a_limit_hooks_keep_the_callers_context_and_their_errors() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: List[str] = []

    class Plugin:
        @hookimpl
        def tinkex_call_started(self, items: int) -> None:
            seen.append(variable.get())
            if items > 3:
                raise ValueError("too many")

    registry = observers(Plugin(), hook_timeout=30.0)
    variable.set("caller")
    emit(registry)
    emit(registry, items=4)
    assert seen == ["caller", "caller"]
    assert dict(row(registry).errors) == {"call_started": 1}
    assert row(registry).status == "active"
