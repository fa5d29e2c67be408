"""A connection: waits between attempts, repeated requests, deadlines and reports to observers."""

import math
import os

import pytest
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import hookimpl, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.errors import (
    APIResponseValidationError,
    ClosedError,
    DeadlineExceeded,
    ForkedClientError,
    InternalServerError,
)
from tinkex_sync.http.request import Request
from tinkex_sync.plugins.events import Source

GET_INFO = Answer(body={"model_data": {}, "model_id": "m"})


@pytest.fixture
def clock():
    return SteppedClock()


def test_a_sleep_ends_at_the_deadline_and_at_close(clock):
    with bare_session(clock) as (server, session):
        server.defaults["healthz"] = Answer(503, text="")
        with pytest.raises(DeadlineExceeded) as caught:
            session.call(Request("healthz", deadline=clock.time() + 5.0))
        assert (caught.value.phase, clock.time()) == ("retrying", 1005.0)
        session.closing.set()
        with pytest.raises(ClosedError):
            session.sleep(1.0)


def test_a_request_on_a_dropped_kept_alive_connection_is_sent_again_immediately(clock):
    with bare_session(clock) as (server, session):
        server.script("unload_model", Answer(body={"request_id": "a"}), Answer(drop=True))
        server.defaults["unload_model"] = Answer(body={"request_id": "b"})
        session.call(Request("unload_model", {"model_id": "m"}))
        attempts = session.attempts("submit")
        response = session.call(Request("unload_model", {"model_id": "m"}), attempts)
        sent = server.sent("unload_model")
    assert (response.request_id, clock.waits, attempts.number, attempts.in_doubt) == ("b", [], 1, True)
    assert [request.connection for request in sent] == [0, 0, 1]
    keys = [request.headers["x-idempotency-key"] for request in sent]
    assert keys[0] != keys[1] == keys[2]


class AttemptRecorder:
    """Records attempt and status of every request."""

    def __init__(self):
        self.attempts = []

    @hookimpl
    def tinkex_request_finished(self, path, attempt, status):
        self.attempts.append((path.rpartition("/")[2], attempt, status))


def test_observers_get_the_number_of_each_attempt(clock):
    recorder = AttemptRecorder()
    with bare_session(clock, (recorder,)) as (server, session):
        server.script("healthz", Answer(500), Answer(503), Answer(500), Answer(body={"status": "ok"}))
        session.call(Request("healthz"))
    assert recorder.attempts == [("healthz", 1, 500), ("healthz", 2, 503), ("healthz", 3, 500), ("healthz", 4, 200)]


def test_observers_get_the_number_of_each_attempt_of_samples_and_polls(clock):
    recorder = AttemptRecorder()
    with bare_session(clock, (recorder,)) as (server, session):
        server.script("asample", Answer(429, {}), Answer(503), Answer(body={"request_id": "rf-1"}))
        server.script("retrieve_future", Answer(503), Answer(503), Answer(408, {}), Answer(503))
        server.defaults["retrieve_future"] = Answer(
            body={"type": "sample", "sequences": [{"tokens": [1], "stop_reason": "stop"}]}
        )
        sampler = SamplingClient(session, "sampler-1")
        sampler.sample(types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=1))
    assert recorder.attempts == [
        ("asample", 1, 429),
        ("asample", 2, 503),
        ("asample", 3, 200),
        ("retrieve_future", 1, 503),
        ("retrieve_future", 2, 503),
        ("retrieve_future", 3, 408),
        # The server has answered that the operation is in progress: the next poll is a new request.
        ("retrieve_future", 1, 503),
        ("retrieve_future", 2, 200),
    ]


def test_a_response_is_decoded_as_the_type_of_its_endpoint(clock):
    with bare_session(clock) as (server, session):
        server.script("get_info", GET_INFO, Answer(body={"model_id": "m"}), Answer(text="[1"))
        assert session.call(Request("get_info", types.GetInfoRequest("m"))) == types.GetInfoResponse(
            model_data=types.ModelData(), model_id="m"
        )
        for _ in range(2):
            with pytest.raises(APIResponseValidationError):
                session.call(Request("get_info", types.GetInfoRequest("m")))
        assert len(server.sent("get_info")) == 3  # a response that cannot be decoded is final


def test_send_once_makes_one_attempt_and_returns_the_undecoded_response(clock):
    with bare_session(clock) as (server, session):
        server.script("get_info", Answer(503, {"detail": "busy"}), GET_INFO)
        with pytest.raises(InternalServerError):
            session.send_once(Request("get_info", {"model_id": "m"}))
        response = session.send_once(Request("get_info", {"model_id": "m"}))
        assert (response.status, response.json()["model_id"]) == (200, "m")
        assert clock.waits == []


def test_an_optional_endpoint_that_is_missing_returns_none(clock):
    with bare_session(clock) as (server, session):
        assert session.call(Request("client_config", {"sdk_version": "0.38.0"})) is None
        assert len(server.sent("client/config")) == 1


def test_all_attempts_of_a_request_have_one_idempotency_key_and_one_body(clock):
    with bare_session(clock) as (server, session):
        server.script("get_info", Answer(503), Answer(500), GET_INFO)
        session.call(Request("get_info", {"model_id": "m"}))
        sent = server.sent("get_info")
    assert len(sent) == 3
    assert len({one.headers["x-idempotency-key"] for one in sent}) == 1
    assert {str(one.body) for one in sent} == {"{'model_id': 'm'}"}


def test_a_call_is_accepted_once_a_request_of_it_succeeds(clock):
    with bare_session(clock) as (server, session):
        server.script("optim_step", Answer(429, {}), Answer(503), Answer(body={"request_id": "r"}))
        call = session.begin(Source("training", "m", "s"), "optim_step")
        request = Request("optim_step", {"model_id": "m"}, call=call)
        sent = []
        for _ in range(2):
            with pytest.raises(Exception, match="429|503|Scripted|Error"):
                session.send_once(request)
            sent.append(call.sent)
        session.send_once(request)
        session.end(call)
    # A 429 was not accepted. After a 503 the server may have received the request.
    assert [*sent, call.sent] == ["no", "unknown", "yes"]


def test_observers_get_the_client_and_the_call_of_a_request(clock):
    class Recorder:
        requests = []

        @hookimpl
        def tinkex_request_finished(self, source, call_id, method, status, error):
            self.requests.append((source, call_id, method, status, error))

    recorder = Recorder()
    with bare_session(clock, (recorder,)) as (server, session):
        server.script("get_info", GET_INFO)
        source = Source("training", "m", "s")
        call = session.begin(source, "get_info")
        session.call(Request("get_info", {"model_id": "m"}, call=call))
        session.end(call)
    assert recorder.requests == [(source, call.call_id, "POST", 200, None)]


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan, "10"])
def test_an_invalid_timeout_is_refused(clock, timeout):
    with bare_session(clock) as (_, session), pytest.raises(ValueError, match="timeout must be a positive"):
        session.deadline(timeout)


def test_a_deadline_is_computed_from_the_timeout_or_the_setting(clock):
    with bare_session(clock, timeout=7.0) as (_, session):
        assert session.deadline(5) == clock.time() + 5
        assert session.deadline(None) == clock.time() + 7
        assert session.deadline(math.inf) is None
    with bare_session(clock) as (_, session):
        assert session.deadline(None) is None


def test_after_close_no_request_is_sent(clock):
    with bare_session(clock) as (server, session):
        session.close()
        with pytest.raises(ClosedError):
            session.call(Request("healthz"))
        assert server.requests == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_cannot_use_the_connection(clock):
    with bare_session(clock) as (server, session):
        child = os.fork()
        if child == 0:
            try:
                session.call(Request("healthz"))
            except ForkedClientError:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert server.requests == []
