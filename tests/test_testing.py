"""Tools for tests of plugins and scripts."""

import threading

import pytest

from tinkex_sync import PluginError, ServiceClient, hookimpl
from tinkex_sync.testing import HookRecorder, check_plugin


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
