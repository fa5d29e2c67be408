"""A session: its creation, its heartbeat, its end."""

import gc
import logging
import threading
import weakref

import pytest
from imitations import NEITHER, PARAMS, STRICT, Imitation, client, prompt, training

from tinkex_sync import (
    APIConnectionError,
    APIResponseValidationError,
    AuthenticationError,
    ClosedError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
    hookimpl,
)
from tinkex_sync.concurrency.clock import ScaledClock


@pytest.fixture
def server():
    with Imitation(NEITHER) as running:
        yield running


class Watch:
    """Records the hooks of sessions and heartbeats."""

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

    @hookimpl
    def tinkex_heartbeat_missed(self, source, misses, silent_for, error):
        self._note(self.missed, (source.session_id, misses, silent_for, error))


def created(server):
    return [body for _, _, _, body in server.requests_to("create_session")]


def beats(server):
    return len(server.requests_to("session_heartbeat"))


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


# The heartbeat


def test_heartbeats_start_one_interval_after_the_session(server):
    watch = Watch()
    with client(server, heartbeat_interval=0.02, plugins=[watch]) as service:
        server.until(lambda: sum(row[0] == "session_heartbeat" for row in server.arrived) >= 3)
        assert server.requests_to("session_heartbeat")[0][3] == {"session_id": "session"}
        assert service.status()["heartbeat_age"] < 10
    assert watch.missed == []
    with client(server) as service:
        assert service.status()["heartbeat_age"] >= 0
        training(service)
        count = beats(server)
    assert beats(server) == count


def test_failed_heartbeats_are_counted_until_the_next_success(server):
    watch = Watch()
    server.script["session_heartbeat"] = [
        (503, "busy"),
        (429, {"detail": "slow down"}),
        (404, {"detail": "gone"}),
        None,
        (500, "oops"),
    ]
    with client(server, heartbeat_interval=0.02, plugins=[watch]):
        watch.until(lambda: len(watch.missed) >= 4)
    assert [row[1] for row in watch.missed[:4]] == [1, 2, 3, 1]
    assert {row[0] for row in watch.missed} == {"session"}
    silences = [row[2] for row in watch.missed[:4]]
    assert silences[0] < silences[1] < silences[2]
    # A beat is not retried: the next one comes soon enough.
    kinds = [type(row[3]) for row in watch.missed[:3]]
    assert kinds == [InternalServerError, RateLimitError, NotFoundError]


def test_two_minutes_without_heartbeat_are_logged_and_calls_still_succeed(server, caplog):
    server.script["session_heartbeat"] = [(404, {"detail": "session expired"})] * 10_000
    # A second of a busy machine is a quarter of an hour of this clock: nothing but the heartbeat may time out.
    names = ("connect_timeout", "read_timeout", "poll_timeout", "heartbeat_timeout", "progress_timeout")
    with (
        client(server, clock=ScaledClock(1000), **dict.fromkeys(names, 1e5)) as service,
        caplog.at_level(logging.WARNING),
    ):
        sampler = service.create_sampling_client(base_model="base")
        server.until(lambda: sum(row[0] == "session_heartbeat" for row in server.arrived) >= 20)
        assert sampler.sample(prompt(), 1, PARAMS)
    warnings = [one.message for one in caplog.records if "Session heartbeat failed" in one.message]
    assert warnings
    seconds = int(warnings[0].split("failed for ")[1].split()[0])
    assert seconds >= 120
    assert "for session session. Last exception: NotFoundError: " in warnings[0]
    assert "the session will be terminated" in warnings[0]


def test_a_missing_heartbeat_endpoint_is_not_logged(caplog):
    with Imitation(STRICT) as server, client(server, heartbeat_interval=0.02) as service:
        server.until(lambda: sum(row[0] == "session_heartbeat" for row in server.arrived) >= 3)
        assert service.get_server_capabilities()
    assert caplog.records == []


def test_a_heartbeat_that_hangs_ends_at_its_timeout(server):
    watch = Watch()
    server.script["session_heartbeat"] = ["silent"]
    with client(server, heartbeat_interval=0.02, heartbeat_timeout=0.1, plugins=[watch]):
        watch.until(lambda: watch.missed)
        server.until(lambda: sum(row[0] == "session_heartbeat" for row in server.arrived) >= 2)
    assert isinstance(watch.missed[0][3], TimeoutError)


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


def test_no_heartbeat_is_sent_after_close(server, no_threads_left):
    service = client(server, heartbeat_interval=0.01)
    server.until(lambda: any(row[0] == "session_heartbeat" for row in server.arrived))
    service.close()
    count = beats(server)
    assert not threading.Event().wait(0.05)
    assert beats(server) - count <= 1  # One may have been on its way.


def test_the_heartbeat_does_not_keep_a_dropped_client(server, no_threads_left):
    service = client(server, heartbeat_interval=0.01)
    server.until(lambda: any(row[0] == "session_heartbeat" for row in server.arrived))
    gone = weakref.ref(service.session)
    with pytest.warns(ResourceWarning, match="unclosed client of session 'session'"):
        del service
        for _ in range(100):
            gc.collect()
            if gone() is None:
                break
            # A beat on its way holds it until its answer is there.
            threading.Event().wait(0.01)
    assert gone() is None


def test_two_sessions_share_nothing(server):
    with client(server, heartbeat_interval=0.02) as one, client(server) as other:
        one.close()
        assert other.get_server_capabilities()
        assert other.create_sampling_client(base_model="base").sample(prompt(), 1, PARAMS)
