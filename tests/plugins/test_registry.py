"""The registry of plugins: calling, isolation, validation, strict mode and closing."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType, ModuleType
from typing import Any, Dict, List, Tuple

import pytest
from hook_examples import EVENTS, SOURCE, emit, facts, observers, row, warnings

from tinkex_sync.concurrency.clock import Clock, ScaledClock
from tinkex_sync.errors import PluginError
from tinkex_sync.plugins import Observers
from tinkex_sync.plugins.hookspecs import SPECS, hookimpl
from tinkex_sync.plugins.queued_observer import observe_all

# Unusable plugins are also reported by warnings; tests below read the log and the report.
pytestmark = pytest.mark.filterwarnings("ignore:plugin .*:RuntimeWarning")

SWITCHES = ["DISABLE_PLUGIN_AUTOLOAD", "DISABLED_PLUGINS", "PLUGINS", "PLUGINS_STRICT"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.delenv("TINKEX_SYNC_" + name, raising=False)


class Recorder:
    """Records every event."""

    def __init__(self) -> None:
        self.events: List[Tuple[str, Dict[str, Any]]] = []
        observe_all(self, lambda hook, facts: self.events.append((hook, facts)))

    @property
    def names(self) -> List[str]:
        return [hook for hook, _ in self.events]


class Failing:
    @hookimpl
    def tinkex_call_started(self, items: int) -> None:
        raise ValueError(f"cannot handle {items} items")


class WrongArgument:
    """Has a valid hook and a hook with an unknown argument."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def tinkex_call_started(self) -> None:
        self.calls += 1

    @hookimpl
    def tinkex_session_opened(self, scource: object) -> None:
        self.calls += 1


class Newer:
    """Implements a hook that this version lacks."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def tinkex_call_started(self) -> None:
        self.calls += 1

    @hookimpl
    def tinkex_planet_discovered(self, source: object, radius: float) -> None:
        raise AssertionError("must not be called")


class ManualClock(Clock):
    now = 0.0

    def time(self) -> float:
        return self.now


# Calling


@pytest.mark.parametrize("name", SPECS)
def test_hook_without_implementation_is_none(name: str) -> None:
    assert getattr(observers(), name[len("tinkex_") :]) is None


@pytest.mark.parametrize("hook", EVENTS)
def test_plugin_receives_every_event_with_all_arguments(hook: str) -> None:
    recorder = Recorder()
    emit(observers(recorder, strict=True), hook)
    assert recorder.events == [(hook, facts(hook))]


def test_plugin_receives_the_arguments_it_declares_and_known_arguments_with_defaults() -> None:
    received = []

    class Some:
        @hookimpl
        def tinkex_call_started(self, items: int, operation: str = "?", colour: str = "none") -> None:
            received.append((items, operation, colour))

    emit(observers(Some()), items=7)
    assert received == [(7, "forward_backward", "none")]


def test_plugin_registered_last_is_called_first_unless_marked_otherwise() -> None:
    order: List[str] = []

    def named(name: str, **options: Any) -> object:
        class Ordered:
            @hookimpl(**options)
            def tinkex_call_started(self) -> None:
                order.append(name)

        return Ordered()

    emit(observers(named("a", tryfirst=True), named("b"), named("c")))
    assert order == ["a", "c", "b"]


def test_two_instances_of_one_class_are_two_plugins() -> None:
    one, two = Recorder(), Recorder()
    registry = observers(one, two)
    emit(registry)
    assert len(one.events) == len(two.events) == 1
    assert [status.name for status in registry.report()] == [f"{__name__}.Recorder", f"{__name__}.Recorder#2"]


def test_mappings_are_read_only_at_every_depth() -> None:
    recorder = Recorder()
    payload = {"learning_rate": 1e-4, "nested": {"list": [1, 2]}}
    emit(observers(recorder), "adam_params_serialized", payload=payload)
    seen = recorder.events[0][1]["payload"]
    assert isinstance(seen, MappingProxyType)
    assert seen == {"learning_rate": 1e-4, "nested": {"list": (1, 2)}}
    with pytest.raises(TypeError):
        seen["learning_rate"] = 1.0
    with pytest.raises(TypeError):
        seen["nested"]["list"] = ()
    assert payload == {"learning_rate": 1e-4, "nested": {"list": [1, 2]}}


# Isolation


def test_errors_of_a_plugin_are_logged_once_counted_and_do_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    first, last = Recorder(), Recorder()
    registry = observers(first, Failing(), last)
    for _ in range(5):
        emit(registry, items=3)
    assert first.names == last.names == ["call_started"] * 5
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "tinkex_sync.plugins"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert f"{__name__}.Failing failed in call_started" in record.getMessage()
    assert row(registry, 1).errors == {"call_started": 5}
    assert row(registry, 1).error == "call_started: ValueError: cannot handle 3 items"


def test_keyboard_interrupt_in_a_hook_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    class Interrupted:
        @hookimpl
        def tinkex_call_started(self) -> None:
            raise KeyboardInterrupt

    recorder = Recorder()
    registry = observers(recorder, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        emit(registry)
    with pytest.raises(KeyboardInterrupt):  # The plugin is called again.
        emit(registry)
    assert not caplog.records


def test_blocking_plugin_delays_only_the_calling_thread(caplog: pytest.LogCaptureFixture) -> None:
    blocked, go = threading.Event(), threading.Event()

    class Blocking:
        @hookimpl
        def tinkex_session_opened(self) -> None:
            blocked.set()
            assert go.wait(30)

    recorder = Recorder()
    clock = ScaledClock(1000)
    registry = observers(recorder, Blocking(), clock=clock)
    stuck = threading.Thread(target=emit, args=(registry, "session_opened"))
    stuck.start()
    assert blocked.wait(30)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: emit(registry), range(100)))
    registry.register(Recorder())
    assert recorder.names.count("call_started") == 100
    assert "session_opened" not in recorder.names
    clock.wait(threading.Event(), 5.0)
    go.set()
    stuck.join(30)
    assert "session_opened" in recorder.names
    assert [text for text in warnings(caplog) if "Blocking took" in text and "session_opened" in text]


def test_slow_hook_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()

    class Slow:
        @hookimpl
        def tinkex_call_started(self) -> None:
            clock.now += 1.5

    registry = observers(Recorder(), Slow(), Recorder(), clock=clock)
    for _ in range(3):
        emit(registry)
    [text] = warnings(caplog)
    assert f"{__name__}." in text
    assert "Slow took 1.5 s in call_started" in text


def test_plugin_with_a_running_hook_is_skipped_in_that_thread() -> None:
    depth = []

    class Reentrant:
        @hookimpl
        def tinkex_call_started(self) -> None:
            depth.append("call_started")
            emit(registry)
            emit(registry, "session_opened")

        @hookimpl
        def tinkex_session_opened(self) -> None:
            depth.append("session_opened")

    recorder = Recorder()
    registry = observers(recorder, Reentrant())
    emit(registry)
    assert depth == ["call_started"]
    assert sorted(recorder.names) == ["call_started", "call_started", "session_opened"]
    emit(registry, "session_opened")
    assert depth == ["call_started", "session_opened"]


def test_instances_of_one_class_in_several_clients_count_as_the_same_plugin() -> None:
    made = []

    class Multiplying:
        @hookimpl
        def tinkex_call_started(self) -> None:
            made.append(self)
            assert len(made) < 5
            emit(observers(Multiplying))

    emit(observers(Multiplying))
    assert len(made) == 1


def test_running_hook_does_not_suppress_calls_in_other_threads() -> None:
    inside, go = threading.Event(), threading.Event()
    threads = []

    class Waiting:
        @hookimpl
        def tinkex_call_started(self) -> None:
            threads.append(threading.current_thread().name)
            if len(threads) == 1:
                inside.set()
                assert go.wait(30)

    registry = observers(Waiting())
    other = threading.Thread(target=emit, args=(registry,), name="other")
    other.start()
    assert inside.wait(30)
    emit(registry)
    go.set()
    other.join(30)
    assert threads == ["other", threading.current_thread().name]


# Validation


def test_plugin_with_an_unknown_argument_is_invalid_and_never_called(caplog: pytest.LogCaptureFixture) -> None:
    plugin, recorder = WrongArgument(), Recorder()
    registry = observers(plugin, recorder)
    assert registry.session_opened is not None
    emit(registry)
    emit(registry, "session_opened")
    assert plugin.calls == 0
    assert recorder.names == ["call_started", "session_opened"]
    status = row(registry, 0)
    assert (status.status, status.hooks) == ("invalid", ())
    assert "scource" in status.error
    assert any("scource" in text for text in warnings(caplog))


def test_invalid_plugin_leaves_no_hook_registered() -> None:
    registry = observers(WrongArgument())
    assert registry.call_started is None
    assert registry.session_opened is None


def test_unknown_hook_is_listed_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    plugin = Newer()
    registry = observers(plugin)
    emit(registry)
    assert plugin.calls == 1
    status = row(registry)
    assert status.status == "active"
    assert status.hooks == ("tinkex_call_started",)
    assert status.unknown_hooks == ("tinkex_planet_discovered",)
    assert any("unknown hook tinkex_planet_discovered" in text for text in warnings(caplog))


def test_optional_unknown_hook_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Both:
        @hookimpl
        def tinkex_call_started(self) -> None: ...

        @hookimpl(optionalhook=True)
        def tinkex_planet_discovered(self, radius: float) -> None: ...

    registry = observers(Both(), strict=True)
    assert row(registry).unknown_hooks == ()
    assert not caplog.records


def generator(source: object) -> Any:
    yield


async def coroutine(source: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        (generator, {"wrapper": True}, "is a wrapper"),
        (generator, {"hookwrapper": True}, "is a wrapper"),
        (generator, {}, "use a plain function"),
        (coroutine, {}, "use a plain function"),
    ],
)
def test_wrapper_generator_and_coroutine_are_rejected(function: Any, options: Dict[str, bool], expected: str) -> None:
    plugin = ModuleType("wrapping")
    plugin.tinkex_call_started = hookimpl(**options)(function)  # type: ignore[attr-defined]
    registry = observers(plugin)
    assert registry.call_started is None
    assert row(registry).status == "invalid"
    assert expected in row(registry).error


def test_properties_of_a_plugin_are_not_evaluated() -> None:
    class Costly:
        @property
        def value(self) -> int:
            raise AssertionError("evaluated")

        @hookimpl
        def tinkex_call_started(self) -> None: ...

    assert row(observers(Costly())).status == "active"


def test_plugin_without_marked_hooks_causes_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Unmarked:
        def tinkex_call_started(self) -> None: ...

    assert observers(Unmarked()).call_started is None
    assert "@hookimpl" in warnings(caplog)[0]


@pytest.mark.parametrize("plugins", [[None], ["a_name"], "a_name", 5, object()])
def test_object_that_cannot_be_a_plugin_raises_type_error(plugins: Any) -> None:
    with pytest.raises(TypeError, match="plugin"):
        Observers(plugins, autoload=False)


# Strict mode


def test_strict_mode_raises_the_error_of_a_hook() -> None:
    registry = observers(Failing(), strict=True)
    with pytest.raises(PluginError, match="Failing failed in call_started: cannot handle 3 items") as caught:
        emit(registry)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("plugin", [WrongArgument, Newer])
def test_strict_mode_raises_for_an_unusable_plugin(plugin: Any) -> None:
    with pytest.raises(PluginError):
        observers(plugin, strict=True)


def test_strict_mode_raises_for_a_missing_argument() -> None:
    registry = observers(Recorder(), strict=True)
    assert registry.call_started is not None
    with pytest.raises(TypeError, match="items"):
        registry.call_started(source=SOURCE, call_id="c")


# Registering while events are reported


def test_registering_while_sixteen_threads_run_loses_and_repeats_no_event(caplog: pytest.LogCaptureFixture) -> None:
    rounds, threads = 50, 16
    counted = threading.local()
    totals: List[int] = []

    class Counter:
        @hookimpl
        def tinkex_call_started(self) -> None:
            counted.value = getattr(counted, "value", 0) + 1

    class Temporary:
        @hookimpl
        def tinkex_call_started(self, source: object, items: int) -> None:
            assert source == SOURCE
            assert items == 3

        @hookimpl
        def tinkex_session_opened(self, source: object) -> None:
            assert source == SOURCE

    # The clock stands still, because hooks of a busy machine would count as slow.
    registry = observers(Counter(), clock=ManualClock())
    start, stop = threading.Barrier(threads + 1), threading.Event()

    def run() -> None:
        start.wait(30)
        sent = 0
        while not stop.is_set():
            emit(registry, "session_opened")
            emit(registry)
            sent += 1
        totals.append(sent - getattr(counted, "value", 0))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait(30)
    for _ in range(rounds):
        temporary = Temporary()
        registry.register(temporary)
        registry.unregister(temporary)
    stop.set()
    for worker in workers:
        worker.join(30)
    assert totals == [0] * threads
    assert not caplog.records
    assert registry.session_opened is None


def test_threads_may_register_concurrently() -> None:
    registry = observers()
    recorders = [Recorder() for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(registry.register, recorders))
    emit(registry)
    assert [recorder.names for recorder in recorders] == [["call_started"]] * 16
    assert len({status.name for status in statuses}) == 16


def test_unregistered_plugin_is_not_called() -> None:
    recorder = Recorder()
    registry = observers(recorder)
    registry.unregister(recorder)
    assert registry.call_started is None
    assert registry.report() == []
    with pytest.raises(ValueError, match="not registered"):
        registry.unregister(recorder)


def test_plugin_can_be_registered_and_removed_by_name() -> None:
    registry = observers()
    assert registry.register(Recorder(), name="mine").name == "mine"
    registry.unregister("mine")
    assert registry.call_started is None


def test_is_active_is_false_for_blocked_invalid_and_unregistered_plugins() -> None:
    recorder, blocked, invalid = Recorder(), Recorder(), WrongArgument()
    registry = observers(recorder, invalid)
    assert registry.is_active(recorder)
    assert not registry.is_active(invalid)
    registry.unregister(recorder)
    assert not registry.is_active(recorder)
    assert not observers(builtin=[blocked], disabled=["test_registry"]).is_active(blocked)


def test_class_docstring_describes_every_argument_of_the_constructor() -> None:
    text = inspect.getdoc(Observers) or ""
    section = text.split("\nArgs:\n")[1].split("\n\n")[0]
    documented = re.findall(r"^    (\w+): ", section, re.MULTILINE)
    assert documented == list(inspect.signature(Observers).parameters)


# Closing


def test_close_closes_every_plugin_even_if_one_raises(caplog: pytest.LogCaptureFixture) -> None:
    closed: List[Any] = []

    class Plain(Recorder):
        def close(self) -> None:
            closed.append("plain")

    class Timed(Recorder):
        def close(self, deadline: float) -> None:
            closed.append(deadline)

    class Bad(Recorder):
        def close(self) -> None:
            raise OSError("disk full")

    module = ModuleType("has_close")
    module.close = lambda: closed.append("module")  # type: ignore[attr-defined]
    module.tinkex_call_started = hookimpl(lambda: None)  # type: ignore[attr-defined]
    registry = observers(Plain(), Bad(), Timed(), module)
    before = Clock().time()
    assert registry.close(2.0)
    assert closed[0] == "plain"
    assert before < closed[1] <= Clock().time() + 2.0
    assert len(closed) == 2
    assert row(registry, 1).errors == {"close": 1}


def test_close_does_not_wait_for_a_blocking_plugin(caplog: pytest.LogCaptureFixture) -> None:
    go, ended = threading.Event(), threading.Event()

    class Stuck(Recorder):
        def close(self) -> None:
            go.wait(30)
            ended.set()

    registry = observers(Stuck())
    assert registry.close(0.01) is False
    assert not ended.is_set()
    assert "Stuck was still closing" in warnings(caplog)[0]
    go.set()
    assert ended.wait(30)


def test_strict_argument_overrides_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TINKEX_SYNC_PLUGINS_STRICT", "1")
    with pytest.raises(PluginError):
        observers(WrongArgument())
    assert row(observers(WrongArgument(), strict=False)).status == "invalid"


# What users see without configuring anything


@pytest.mark.parametrize("plugin", [5, 1.5, None, "name", b"name", ["list"], {"a": 1}])
def test_a_value_that_cannot_be_a_plugin_is_an_error(plugin: Any) -> None:
    with pytest.raises(TypeError, match="a plugin is a module, an instance or a class"):
        observers(plugin)


@pytest.mark.parametrize("plugin", [WrongArgument, Newer])
@pytest.mark.filterwarnings("default::RuntimeWarning")
def test_an_unusable_plugin_is_reported_by_a_warning(plugin: Any) -> None:
    with pytest.warns(RuntimeWarning, match=rf"plugin .*{plugin.__name__}") as caught:
        observers(plugin)
    assert len(caught) == 1


def test_a_plugin_found_twice_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(sys.modules[__name__], "Found", Recorder, raising=False)
    registry = observers(recorder, modules=[f"{__name__}:Found"])
    emit(registry)
    assert recorder.names == ["call_started"]
    assert [one.status for one in registry.report()] == ["blocked", "active"]
    assert "passed as an argument" in row(registry, 0).error
