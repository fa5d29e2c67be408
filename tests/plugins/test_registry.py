from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Dict, List, Tuple

import pytest
from hook_examples import EVENTS, SOURCE, facts

from tinkex_sync.concurrency.clock import Clock, ScaledClock
from tinkex_sync.errors import ConfigError, PluginError
from tinkex_sync.plugins.hookspecs import SPECS, hookimpl
from tinkex_sync.plugins.queued_observer import observe_all
from tinkex_sync.plugins.registry import Observers, PluginStatus

SWITCHES = ["DISABLE_PLUGIN_AUTOLOAD", "DISABLED_PLUGINS", "PLUGINS", "PLUGINS_STRICT"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.delenv("TINKEX_SYNC_" + name, raising=False)


class Recorder:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: List[Tuple[str, Dict[str, Any]]] = []
        observe_all(self, lambda hook, told: self.events.append((hook, told)))

    @property
    def names(self) -> List[str]:
        return [hook for hook, _ in self.events]


class Failing:
    @hookimpl
    def tinkex_call_started(self, items: int) -> None:
        raise ValueError(f"cannot bear {items} items")


class Misspelt:
    """One good hook and one with an argument that does not exist."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def tinkex_call_started(self) -> None:
        self.calls += 1

    @hookimpl
    def tinkex_session_opened(self, sauce: object) -> None:
        self.calls += 1


class Newer:
    """Written for a version with more hooks."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def tinkex_call_started(self) -> None:
        self.calls += 1

    @hookimpl
    def tinkex_planet_discovered(self, source: object, radius: float) -> None:
        raise AssertionError("nobody can call this")


class HandClock(Clock):
    now = 0.0

    def time(self) -> float:
        return self.now


def observers(*plugins: object, **settings: Any) -> Observers:
    return Observers(plugins, **{"autoload": False, **settings})


def emit(told: Observers, hook: str = "call_started", **changed: Any) -> None:
    """What a site does."""
    call = getattr(told, hook)
    if call is not None:
        call(**facts(hook, **changed))


def row(told: Observers, index: int = -1) -> PluginStatus:
    return told.report()[index]


def warnings(caplog: pytest.LogCaptureFixture) -> List[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# Telling


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_nobody_implements_is_none(name: str) -> None:
    assert getattr(observers(), name[len("tinkex_") :]) is None


@pytest.mark.parametrize("hook", EVENTS)
def test_every_event_reaches_a_plugin_with_all_its_facts(hook: str) -> None:
    recorder = Recorder()
    emit(observers(recorder, strict=True), hook)
    assert recorder.events == [(hook, facts(hook))]


def test_a_plugin_takes_the_arguments_it_wants_and_defaults_are_filled_where_there_is_such_an_argument() -> (
    None
):
    heard = []

    class Some:
        @hookimpl
        def tinkex_call_started(self, items: int, operation: str = "?", colour: str = "none") -> None:
            heard.append((items, operation, colour))

    emit(observers(Some()), items=7)
    assert heard == [(7, "forward_backward", "none")]


def test_the_plugin_registered_last_is_called_first_unless_it_asks_otherwise() -> None:
    order: List[str] = []

    def named(name: str, **options: Any) -> object:
        class Ordered:
            @hookimpl(**options)
            def tinkex_call_started(self) -> None:
                order.append(name)

        return Ordered()

    emit(observers(named("a", tryfirst=True), named("b"), named("c")))
    assert order == ["a", "c", "b"]


def test_two_plugins_of_one_class_are_two_plugins() -> None:
    one, two = Recorder(), Recorder()
    told = observers(one, two)
    emit(told)
    assert len(one.events) == len(two.events) == 1
    assert [status.name for status in told.report()] == [f"{__name__}.Recorder", f"{__name__}.Recorder#2"]


def test_mappings_reach_plugins_read_only_at_every_depth() -> None:
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


def test_a_plugin_that_raises_is_logged_once_then_counted_and_the_others_hear_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, last = Recorder(), Recorder()
    told = observers(first, Failing(), last)
    for _ in range(5):
        emit(told, items=3)
    assert first.names == last.names == ["call_started"] * 5
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "tinkex_sync.plugins"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert f"{__name__}.Failing failed in call_started" in record.getMessage()
    assert row(told, 1).errors == {"call_started": 5}
    assert row(told, 1).error == "call_started: ValueError: cannot bear 3 items"


def test_an_interrupt_is_not_a_plugins_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Interrupted:
        @hookimpl
        def tinkex_call_started(self) -> None:
            raise KeyboardInterrupt

    recorder = Recorder()
    told = observers(recorder, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        emit(told)
    with pytest.raises(KeyboardInterrupt):  # and it is called again: the guard was taken off
        emit(told)
    assert not caplog.records


def test_a_plugin_that_blocks_holds_up_its_own_thread_only(caplog: pytest.LogCaptureFixture) -> None:
    blocked, go = threading.Event(), threading.Event()

    class Blocking:
        @hookimpl
        def tinkex_session_opened(self) -> None:
            blocked.set()
            assert go.wait(30)

    recorder = Recorder()
    # Five seconds of this clock are real ones divided by 1,000.
    clock = ScaledClock(1000)
    told = observers(recorder, Blocking(), clock=clock)
    stuck = threading.Thread(target=emit, args=(told, "session_opened"))
    stuck.start()
    assert blocked.wait(30)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: emit(told), range(100)))
    told.register(Recorder())
    assert recorder.names.count("call_started") == 100
    assert "session_opened" not in recorder.names
    clock.wait(threading.Event(), 5.0)
    go.set()
    stuck.join(30)
    assert "session_opened" in recorder.names
    assert [text for text in warnings(caplog) if "Blocking took" in text and "session_opened" in text]


def test_a_slow_hook_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()

    class Slow:
        @hookimpl
        def tinkex_call_started(self) -> None:
            clock.now += 1.5

    told = observers(Recorder(), Slow(), Recorder(), clock=clock)
    for _ in range(3):
        emit(told)
    [text] = warnings(caplog)
    assert f"{__name__}." in text
    assert "Slow took 1.5 s in call_started" in text


def test_a_plugin_inside_its_hook_is_not_called_again_on_that_thread_but_the_others_are() -> None:
    depth = []

    class Meddling:
        @hookimpl
        def tinkex_call_started(self) -> None:
            depth.append("call_started")
            emit(told)
            emit(told, "session_opened")

        @hookimpl
        def tinkex_session_opened(self) -> None:
            depth.append("session_opened")

    recorder = Recorder()
    told = observers(recorder, Meddling())
    emit(told)
    assert depth == ["call_started"]
    assert sorted(recorder.names) == ["call_started", "call_started", "session_opened"]
    emit(told, "session_opened")
    assert depth == ["call_started", "session_opened"]


def test_a_plugin_made_anew_for_each_client_cannot_call_itself_through_another_client() -> None:
    made = []

    class Multiplying:
        @hookimpl
        def tinkex_call_started(self) -> None:
            made.append(self)
            assert len(made) < 5
            emit(observers(Multiplying))

    emit(observers(Multiplying))
    assert len(made) == 1


def test_a_thread_that_is_inside_a_hook_does_not_silence_it_for_others() -> None:
    inside, go = threading.Event(), threading.Event()
    threads = []

    class Waiting:
        @hookimpl
        def tinkex_call_started(self) -> None:
            threads.append(threading.current_thread().name)
            if len(threads) == 1:
                inside.set()
                assert go.wait(30)

    told = observers(Waiting())
    other = threading.Thread(target=emit, args=(told,), name="other")
    other.start()
    assert inside.wait(30)
    emit(told)
    go.set()
    other.join(30)
    assert threads == ["other", threading.current_thread().name]


# Validation


def test_a_plugin_with_a_wrong_argument_is_listed_as_invalid_and_not_called_at_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugin, recorder = Misspelt(), Recorder()
    told = observers(plugin, recorder)
    assert told.session_opened is not None
    emit(told)
    emit(told, "session_opened")
    assert plugin.calls == 0
    assert recorder.names == ["call_started", "session_opened"]
    status = row(told, 0)
    assert (status.status, status.hooks) == ("invalid", ())
    assert "sauce" in status.error
    assert any("sauce" in text for text in warnings(caplog))


def test_an_invalid_plugin_leaves_no_hook_behind() -> None:
    told = observers(Misspelt())
    assert told.call_started is None
    assert told.session_opened is None


def test_a_hook_of_a_newer_version_is_listed_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    plugin = Newer()
    told = observers(plugin)
    emit(told)
    assert plugin.calls == 1
    status = row(told)
    assert status.status == "active"
    assert status.hooks == ("tinkex_call_started",)
    assert status.unknown_hooks == ("tinkex_planet_discovered",)
    assert any("unknown hook tinkex_planet_discovered" in text for text in warnings(caplog))


def test_a_hook_marked_optional_may_be_unknown(caplog: pytest.LogCaptureFixture) -> None:
    class Both:
        @hookimpl
        def tinkex_call_started(self) -> None: ...

        @hookimpl(optionalhook=True)
        def tinkex_planet_discovered(self, radius: float) -> None: ...

    told = observers(Both(), strict=True)
    assert row(told).unknown_hooks == ()
    assert not caplog.records


def generator(source: object) -> Any:
    yield


async def coroutine(source: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        (generator, {"wrapper": True}, "is a wrapper"),
        (generator, {"hookwrapper": True}, "is a wrapper"),
        (generator, {}, "write a plain function"),
        (coroutine, {}, "write a plain function"),
    ],
)
def test_what_cannot_observe_is_refused(function: Any, options: Dict[str, bool], expected: str) -> None:
    plugin = ModuleType("wrapping")
    plugin.tinkex_call_started = hookimpl(**options)(function)  # type: ignore[attr-defined]
    told = observers(plugin)
    assert told.call_started is None
    assert row(told).status == "invalid"
    assert expected in row(told).error


def test_properties_of_a_plugin_are_not_evaluated() -> None:
    class Costly:
        @property
        def value(self) -> int:
            raise AssertionError("evaluated")

        @hookimpl
        def tinkex_call_started(self) -> None: ...

    assert row(observers(Costly())).status == "active"


def test_a_plugin_without_a_marked_hook_gets_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    class Unmarked:
        def tinkex_call_started(self) -> None: ...

    assert observers(Unmarked()).call_started is None
    assert "@hookimpl" in warnings(caplog)[0]


@pytest.mark.parametrize("plugins", [[None], ["a_name"], "a_name", 5, object()])
def test_what_cannot_be_a_plugin_is_an_error_that_names_it(plugins: Any) -> None:
    with pytest.raises(TypeError, match="plugin"):
        Observers(plugins, autoload=False)


# Strict mode


def test_in_strict_mode_a_failing_hook_raises_where_it_was_called() -> None:
    told = observers(Failing(), strict=True)
    with pytest.raises(PluginError, match="Failing failed in call_started: cannot bear 3 items") as caught:
        emit(told)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("plugin", [Misspelt, Newer, 17])
def test_in_strict_mode_a_plugin_that_is_not_right_raises_at_once(plugin: Any) -> None:
    with pytest.raises(PluginError):
        observers(plugin, strict=True)


def test_in_strict_mode_a_site_that_forgets_a_fact_is_found() -> None:
    told = observers(Recorder(), strict=True)
    assert told.call_started is not None
    with pytest.raises(TypeError, match="items"):
        told.call_started(source=SOURCE, call_id="c")


# Registering while it runs


def test_registering_while_sixteen_threads_run_loses_and_doubles_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rounds, threads = 50, 16
    counted = threading.local()
    totals: List[int] = []

    class Counter:
        @hookimpl
        def tinkex_call_started(self) -> None:
            counted.value = getattr(counted, "value", 0) + 1

    class Passing:
        @hookimpl
        def tinkex_call_started(self, source: object, items: int) -> None:
            assert source == SOURCE
            assert items == 3

        @hookimpl
        def tinkex_session_opened(self, source: object) -> None:
            assert source == SOURCE

    # A clock that stands still: on a busy machine a hook may be slow only because it was not its turn.
    told = observers(Counter(), clock=HandClock())
    start, stop = threading.Barrier(threads + 1), threading.Event()

    def run() -> None:
        start.wait(30)
        sent = 0
        while not stop.is_set():
            emit(told, "session_opened")
            emit(told)
            sent += 1
        totals.append(sent - getattr(counted, "value", 0))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait(30)
    for _ in range(rounds):
        passing = Passing()
        told.register(passing)
        told.unregister(passing)
    stop.set()
    for worker in workers:
        worker.join(30)
    assert totals == [0] * threads
    assert not caplog.records
    assert told.session_opened is None


def test_many_threads_may_register_at_once() -> None:
    told = observers()
    recorders = [Recorder() for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(told.register, recorders))
    emit(told)
    assert [recorder.names for recorder in recorders] == [["call_started"]] * 16
    assert len({status.name for status in statuses}) == 16


def test_an_unregistered_plugin_hears_no_more() -> None:
    recorder = Recorder()
    told = observers(recorder)
    told.unregister(recorder)
    assert told.call_started is None
    assert told.report() == []
    with pytest.raises(ValueError, match="not registered"):
        told.unregister(recorder)


def test_a_plugin_can_be_given_a_name_and_removed_by_it() -> None:
    told = observers()
    assert told.register(Recorder(), name="mine").name == "mine"
    told.unregister("mine")
    assert told.call_started is None


# Closing


def test_closing_calls_close_of_every_plugin_whatever_the_others_do(caplog: pytest.LogCaptureFixture) -> None:
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
    told = observers(Plain(), Bad(), Timed(), module)
    before = Clock().time()
    assert told.close(2.0)
    assert closed[0] == "plain"
    assert before < closed[1] <= Clock().time() + 2.0
    assert len(closed) == 2
    assert row(told, 1).errors == {"close": 1}


def test_a_plugin_that_does_not_close_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    go, ended = threading.Event(), threading.Event()

    class Stuck(Recorder):
        def close(self) -> None:
            go.wait(30)
            ended.set()

    told = observers(Stuck())
    assert told.close(0.01) is False
    assert not ended.is_set()
    assert "Stuck was still closing" in warnings(caplog)[0]
    go.set()
    assert ended.wait(30)


# Finding


def install(folder: Path, distribution: str, entry_points: Dict[str, str], **modules: str) -> None:
    """What pip leaves behind: modules and a dist-info folder."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[other]\nx = no.such\n[tinkex_sync]\n{lines}")


MODULE = """
from tinkex_sync.plugins import hookimpl

CALLS = []

@hookimpl
def tinkex_call_started(operation):
    CALLS.append(operation)

class Maker:
    made = 0

    def __init__(self):
        type(self).made += 1

    @hookimpl
    def tinkex_session_opened(self):
        CALLS.append(self)

maker = Maker()
"""


def only_ours(told: Observers) -> Dict[str, PluginStatus]:
    """Rows of the plugins these tests install, by name; the environment may have others."""
    return {
        status.name: status for status in told.report() if (status.distribution or "").startswith("test-")
    }


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_an_entry_point_may_be_a_module_an_instance_or_a_class(site: Path) -> None:
    install(
        site,
        "test-kinds",
        {"module": "kinds_plugin", "instance": "kinds_plugin:maker", "class": "kinds_plugin:Maker"},
        kinds_plugin=MODULE,
    )
    one, two = Observers(), Observers()
    import kinds_plugin  # type: ignore[import-not-found]

    assert kinds_plugin.Maker.made == 3  # the module's own, and one for each Observers
    emit(one)
    emit(one, "session_opened")
    made = kinds_plugin.CALLS[1:]
    assert kinds_plugin.CALLS[0] == "forward_backward"
    assert len(set(map(id, made))) == 2
    rows = only_ours(two)
    assert list(rows) == ["module", "instance", "class"]
    status = rows["class"]
    assert (status.distribution, status.version, status.origin) == ("test-kinds", "1.2", "entry point")
    assert (status.status, status.hooks) == ("active", ("tinkex_session_opened",))


def test_one_entry_point_that_cannot_be_imported_does_not_keep_the_others_out(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "test-broken", {"broken": "broken_plugin"}, broken_plugin="raise OSError('no disk')")
    install(site, "test-exits", {"exits": "exits_plugin"}, exits_plugin="import sys; sys.exit(3)")
    install(site, "test-absent", {"absent": "no_such_module", "gone": "works_plugin:Gone", "odd": "a b"})
    install(site, "test-works", {"works": "works_plugin"}, works_plugin=MODULE)
    unreadable = site / "test_unreadable-1.0.dist-info"
    unreadable.mkdir()
    (unreadable / "entry_points.txt").write_text("[tinkex_sync]\nnot a line of an entry point\n")
    rows = only_ours(Observers())
    assert {name: status.status for name, status in rows.items()} == {
        "broken": "failed",
        "exits": "failed",
        "absent": "failed",
        "gone": "failed",
        "odd": "failed",
        "works": "active",
    }
    assert rows["broken"].error == "OSError: no disk"
    assert any("plugin broken is not used: OSError: no disk" in text for text in warnings(caplog))
    with pytest.raises(PluginError, match="not used"):
        Observers(strict=True)


def test_plugins_are_blocked_by_entry_point_or_distribution_name(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "test-one", {"first": "blocked_one"}, blocked_one="raise AssertionError('imported')")
    install(site, "test-two", {"second": "blocked_two"}, blocked_two="raise AssertionError('imported')")
    monkeypatch.setenv("TINKEX_SYNC_DISABLED_PLUGINS", "first, Test_Two,someone-else")
    rows = only_ours(Observers())
    assert [status.status for status in rows.values()] == ["blocked", "blocked"]
    assert not caplog.records
    assert [status.status for status in only_ours(Observers(disabled=["first"])).values()] == [
        "blocked",
        "failed",
    ]
    with pytest.raises(TypeError, match="disabled"):
        Observers(disabled="first")


def test_entry_points_can_be_left_alone_altogether(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "test-alone", {"alone": "alone_plugin"}, alone_plugin="raise AssertionError('imported')")
    monkeypatch.setenv("TINKEX_SYNC_DISABLE_PLUGIN_AUTOLOAD", "1")
    assert Observers().report() == []
    assert Observers(autoload=False).report() == []
    assert [status.name for status in only_ours(Observers(autoload=True)).values()] == ["alone"]


def test_modules_are_named_by_the_environment_or_by_argument(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (site / "named_plugin.py").write_text(MODULE)
    monkeypatch.setenv("TINKEX_SYNC_PLUGINS", "named_plugin, named_plugin:Maker,no_such_module")
    told = observers()
    assert [(status.name, status.origin, status.status) for status in told.report()] == [
        ("named_plugin", "module", "active"),
        ("named_plugin:Maker", "module", "active"),
        ("no_such_module", "module", "failed"),
    ]
    assert observers(modules=[]).report() == []


def test_a_builtin_is_named_after_its_module_and_can_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    assert row(observers(builtin=[recorder])).name == "test_registry"
    assert row(observers(builtin=[recorder])).origin == "builtin"
    monkeypatch.setenv("TINKEX_SYNC_DISABLED_PLUGINS", "test-registry")
    assert row(observers(builtin=[recorder])).status == "blocked"


def test_plugins_given_by_argument_are_never_blocked_and_are_called_before_the_others() -> None:
    order = []

    class One:
        @hookimpl
        def tinkex_call_started(self) -> None:
            order.append("builtin")

    class Two:
        @hookimpl
        def tinkex_call_started(self) -> None:
            order.append("argument")

    told = observers(Two, builtin=[One()], disabled=["test_registry", "Two"])
    emit(told)
    assert order == ["argument"]
    told = observers(Two, builtin=[One()])
    order.clear()
    emit(told)
    assert order == ["argument", "builtin"]


@pytest.mark.parametrize("name", ["DISABLE_PLUGIN_AUTOLOAD", "PLUGINS_STRICT"])
def test_a_switch_with_a_wrong_value_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_SYNC_" + name, "maybe")
    with pytest.raises(ConfigError, match=f"TINKEX_SYNC_{name} must be 1 or 0, not 'maybe'"):
        Observers()


def test_strict_mode_comes_from_the_environment_unless_an_argument_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TINKEX_SYNC_PLUGINS_STRICT", "1")
    with pytest.raises(PluginError):
        observers(Misspelt())
    assert row(observers(Misspelt(), strict=False)).status == "invalid"
