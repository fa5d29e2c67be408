"""Tools for tests of plugins and scripts."""

import contextlib
import threading

import pytest

from tinkex_sync import PluginError, ServiceClient, hookimpl
from tinkex_sync.plugins.hookspecs import SPECS, argument_names
from tinkex_sync.testing import HookRecorder, assert_thread_safe, check_plugin, example_facts


@pytest.fixture
def recorder(server):
    recorder = HookRecorder()
    with ServiceClient(base_url=server.base_url, api_key="local", load_plugins=False, plugins=[recorder]) as service:
        service.create_sampling_client(base_model="tinkex/tiny")
    return recorder


def test_recorder_records_events_in_order_with_their_threads(recorder):
    hooks = [call.hook for call in recorder.calls]
    assert hooks.index("session_opened") < hooks.index("session_closed")
    assert len(recorder.of("session_opened")) == 1
    assert {call.thread for call in recorder.calls} >= {threading.current_thread().name}


def test_wait_for_returns_the_arguments_of_the_first_matching_event(recorder):
    arguments = recorder.wait_for("session_opened")
    assert arguments in recorder.of("session_opened")
    with pytest.raises(TimeoutError, match=r"no session_opened matched within 0.01 s: 1 did not match"):
        recorder.wait_for("session_opened", lambda arguments: False, timeout=0.01)


def test_unknown_hook_is_an_error(recorder):
    with pytest.raises(ValueError, match="unknown hook 'nothing': use one of"):
        recorder.of("nothing")


def test_check_plugin_rejects_an_unknown_hook():
    class Plugin:
        @hookimpl
        def tinkex_no_such_hook(self):
            pass

    with pytest.raises(PluginError, match="tinkex_no_such_hook"):
        check_plugin(Plugin())
    check_plugin(HookRecorder())


class Counter:
    """A plugin that counts events, with or without a lock."""

    def __init__(self, is_safe):
        self._lock = threading.Lock() if is_safe else contextlib.nullcontext()
        self._inside = set()
        self.count = 0
        self.is_closed = False

    @hookimpl
    def tinkex_call_started(self, call_id):
        with self._lock:
            self._inside.add(call_id)
            if len(self._inside) > 1:
                raise RuntimeError(f"{len(self._inside)} threads at the same time")
            threading.Event().wait(0.0001)
            self.count += 1
            self._inside.remove(call_id)

    def close(self):
        self.is_closed = True


def test_assert_thread_safe_calls_every_hook_from_many_threads_and_closes():
    plugin = Counter(is_safe=True)
    assert_thread_safe(plugin, threads=4, rounds=25)
    assert (plugin.count, plugin.is_closed) == (100, True)
    recorder = HookRecorder()
    assert_thread_safe(recorder, threads=3, rounds=2)
    assert {call.hook for call in recorder.calls} == {name[7:] for name in SPECS} - {"register_commands"}


def test_assert_thread_safe_reports_a_race():
    with pytest.raises(AssertionError, match="call_started in thread"):
        assert_thread_safe(Counter(is_safe=False), threads=8, rounds=200)


def test_examples_are_valid_and_can_be_changed():
    assert example_facts("retry_scheduled", delay=7.0)["delay"] == 7.0
    for hook in (name[7:] for name in SPECS):
        assert set(example_facts(hook)) == set(argument_names(f"tinkex_{hook}"))
    with pytest.raises(ValueError, match="unknown hook 'nothing'"):
        example_facts("nothing")
    with pytest.raises(ValueError, match="session_closed has no argument 'delay'"):
        example_facts("session_closed", delay=1)
