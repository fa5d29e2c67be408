"""A session: its creation and its end."""

import logging
import threading

import pytest
from imitations import NEITHER, PARAMS, Imitation, client, prompt

from tinkex_sync import (
    APIConnectionError,
    APIResponseValidationError,
    AuthenticationError,
    ClosedError,
    RateLimitError,
    hookimpl,
)
from tinkex_sync.concurrency.clock import ScaledClock


@pytest.fixture
def server():
    with Imitation(NEITHER) as running:
        yield running


class Watch:
    """Records the hooks of sessions."""

    def __init__(self):
        self.changed = threading.Condition()
        self.opened, self.closed, self.missed = [], [], []

    def _note(self, events, event):
        with self.changed:
            events.append(event)
            self.changed.notify_all()

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, 20)

    @hookimpl
    def tinkex_session_opened(self, source):
        self._note(self.opened, source)

    @hookimpl
    def tinkex_session_closed(self, source):
        self._note(self.closed, source)


def created(server):
    return [body for _, _, _, body in server.requests_to("create_session")]


# The start


def test_create_session_sends_tags_metadata_and_version(server, monkeypatch):
    with client(server, user_metadata={"run": 7}, tags=["b", "a", "b"]) as service:
        assert service.session_id == "session"
    monkeypatch.setenv("TINKER_TAGS", "z, y,,")
    with client(server, sdk_version="0.9.1"):
        pass
    monkeypatch.setenv("TINKER_TAGS", "")
    with client(server):
        pass
    first, second, third = created(server)
    assert list(first) == ["tags", "user_metadata", "sdk_version"]
    assert first == {"tags": ["a", "b"], "user_metadata": {"run": 7}, "sdk_version": "0.7.0"}
    assert (second["tags"], second["user_metadata"], second["sdk_version"]) == (["y", "z"], {}, "0.9.1")
    assert third["tags"] == []


def test_messages_of_the_server_are_logged(server, caplog):
    answer = {"session_id": "s-1", "info_message": "hello", "warning_message": "old", "error_message": "bad"}
    server.script["create_session"] = [(200, answer), (200, {"session_id": "s-2", "info_message": ""})]
    with caplog.at_level(logging.INFO, logger="tinkex_sync"):
        with client(server) as service:
            assert service.session_id == "s-1"
        with client(server) as service:
            assert service.session_id == "s-2"
    logged = [(record.levelname, record.message) for record in caplog.records]
    assert logged == [("INFO", "hello"), ("WARNING", "old"), ("ERROR", "bad")]


def test_a_response_without_a_session_id_is_an_error(server, no_threads_left):
    server.script["create_session"] = [(200, {"type": "create_session"}), (200, "<html>welcome</html>")]
    with pytest.raises(APIResponseValidationError, match="session_id"):
        client(server)
    with pytest.raises(APIResponseValidationError, match="check base_url= or TINKER_BASE_URL"):
        client(server)


def test_session_creation_is_retried(server):
    server.script["create_session"] = [(503, "busy"), "before", (429, {"detail": "wait"}), "after"]
    with client(server, clock=ScaledClock(50)):
        assert len(created(server)) == 5
    keys = {key for _, _, key, _ in server.requests_to("create_session")}
    assert len(keys) == 1


def test_session_creation_gives_up_after_max_retries(server, no_threads_left):
    server.script["create_session"] = [(429, {"detail": "too many sessions"})] * 9
    with pytest.raises(RateLimitError, match="too many sessions.*after 3 attempts") as caught:
        client(server, clock=ScaledClock(50), max_retries=2)
    assert caught.value.attempts == 3
    assert len(created(server)) == 3


def test_a_refused_version_names_the_setting(server):
    server.script["create_session"] = [(400, {"detail": "SDK version 0.7.0 is no longer supported"})]
    with pytest.raises(Exception, match=r"set sdk_version= \(now '0.7.0'\)"):
        client(server)


def test_a_failed_start_leaves_no_threads(server, no_threads_left):
    server.script["create_session"] = [(401, {"detail": "no API key"})]
    with pytest.raises(AuthenticationError, match="the API key was refused"):
        client(server)
    with Imitation(NEITHER) as gone:
        pass
    with pytest.raises(APIConnectionError, match="cannot be reached"):
        client(gone, clock=ScaledClock(50))


# The end


def test_a_session_opens_and_closes_once(server, no_threads_left):
    watch = Watch()
    service = client(server, plugins=[watch])
    assert [(one.kind, one.id) for one in watch.opened] == [("service", "session")]
    assert service.close() == []
    assert service.close() == []
    assert len(watch.closed) == 1
    with pytest.raises(ClosedError):
        service.get_server_capabilities()
    with pytest.raises(ClosedError):
        service.create_sampling_client(base_model="base")


def test_two_sessions_share_nothing(server):
    with client(server, heartbeat_interval=0.02) as one, client(server) as other:
        one.close()
        assert other.get_server_capabilities()
        assert other.create_sampling_client(base_model="base").sample(prompt(), 1, PARAMS)
