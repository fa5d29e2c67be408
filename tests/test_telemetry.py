"""Telemetry: the events that are sent, and that it never delays or fails a run."""

import pickle
import threading
import time
import uuid

import pytest
from scripted_server import Answer, ScriptedServer

from tinkex_sync import APIResponseValidationError, Config, NotFoundError, RequestFailedError, ServiceClient, types
from tinkex_sync.concurrency.clock import ScaledClock

OK = Answer(body={"status": "accepted"})


@pytest.fixture
def server():
    with ScriptedServer() as running:
        running.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        running.defaults["telemetry"] = OK
        yield running


def client(server, **settings):
    config = Config(base_url=server.base_url, api_key="key", **{"telemetry": True, **settings})
    return ServiceClient(config=config, load_plugins=False)


def sent(server):
    return [event for request in server.sent("telemetry") for event in request.body["events"]]


def test_telemetry_is_off_by_default(server):
    with client(server, telemetry=False) as service:
        assert service.get_telemetry() is None
    assert server.sent("telemetry") == []


def test_environment_variable_turns_telemetry_on(server, monkeypatch):
    monkeypatch.setenv("TINKER_TELEMETRY", "1")
    with ServiceClient(base_url=server.base_url, api_key="key", load_plugins=False) as service:
        assert service.get_telemetry() is not None
    assert [event["event"] for event in sent(server)] == ["SESSION_START", "SESSION_END"]


def test_close_sends_one_batch_with_start_and_end(server):
    with client(server) as service:
        service.get_telemetry().log("mine", {"a": 1})
    (request,) = server.sent("telemetry")
    assert list(request.body) == ["events", "platform", "sdk_version", "session_id"]
    assert request.body["session_id"] == "sess-1"
    events = request.body["events"]
    assert [event["event"] for event in events] == ["SESSION_START", "GENERIC_EVENT", "SESSION_END"]
    assert [event["event_session_index"] for event in events] == [0, 1, 2]
    assert events[1]["event_data"] == {"a": 1}


def test_events_are_sent_every_ten_seconds(server):
    arrived = threading.Event()
    server.defaults["telemetry"] = Answer(body={"status": "accepted"}, hold=arrived.set)
    began = time.monotonic()
    with client(server, clock=ScaledClock(20.0)) as service:
        assert arrived.wait(10.0)
        assert time.monotonic() - began >= 0.45
        assert [event["event"] for event in sent(server)] == ["SESSION_START"]
        assert service.get_telemetry().failed == 0


def test_only_the_event_without_json_form_is_dropped(server):
    with client(server) as service:
        telemetry = service.get_telemetry()
        assert telemetry.log("good")
        assert not telemetry.log("bad", {"x": object()})
        assert not telemetry.log("nan", {"x": float("nan")})
        assert telemetry.log("good too")
        assert telemetry.unencodable == 2
    names = [event["event_name"] for event in sent(server) if "event_name" in event]
    assert names == ["good", "good too"]


def test_unavailable_endpoint_delays_neither_errors_nor_close(server, caplog):
    server.defaults["telemetry"] = Answer(503, {"detail": "down"}, hold=lambda: server.stopping.wait(5.0))
    server.defaults["training_runs/zzz"] = Answer(404, {"detail": "no such run"})
    service = client(server)
    began = time.monotonic()
    service.get_telemetry().log_exception(RuntimeError("boom"))
    with pytest.raises(NotFoundError):
        service.create_rest_client().get_training_run("zzz")
    assert time.monotonic() - began < 1.0
    began = time.monotonic()
    service.close()
    assert time.monotonic() - began < 1.0


def test_failed_telemetry_requests_cause_no_events_and_stop_being_retried(server):
    server.defaults["telemetry"] = Answer(500, {"detail": "no"})
    # Faster clocks would use up the 30 s of the retries on a busy machine.
    clock = ScaledClock(20.0)
    with client(server, clock=clock) as service:
        telemetry = service.get_telemetry()
        telemetry.log("x")
        assert telemetry.flush(clock.time() + 1000.0)
        assert len(server.sent("telemetry")) == 4
        assert telemetry.failed == 2
        bodies = [request.body for request in server.sent("telemetry")]
        assert all(body == bodies[0] for body in bodies)


def test_failed_operation_is_reported_and_the_session_continues(server):
    server.defaults["create_model"] = Answer(body={"request_id": "req-1"})
    server.script(
        "retrieve_future",
        Answer(body={"type": "create_model", "model_id": "m"}),
        Answer(body={"error": "bad input", "category": "user"}),
        Answer(body={"error": "broken", "category": "server"}),
    )
    server.defaults["optim_step"] = Answer(body={"request_id": "req-2"})
    with client(server) as service:
        training = service.create_lora_training_client("m")
        for _ in range(2):
            with pytest.raises(RequestFailedError):
                training.optim_step(types.AdamParams())
    events = sent(server)
    names = [event.get("event_name", event["event"]) for event in events]
    failed = "APIFuture.result_async.application_error"
    assert names == ["SESSION_START", failed, "user_error", failed, "UNHANDLED_EXCEPTION", "SESSION_END"]
    assert events[1]["event_data"]["error_category"] == "User"
    assert [event["severity"] for event in events[1:5]] == ["WARNING", "WARNING", "ERROR", "ERROR"]
    assert "RequestFailedError" in events[4]["traceback"]


def test_event_of_a_failed_poll_contains_the_request_id(server):
    server.defaults["create_model"] = Answer(body={"request_id": "req-1"})
    server.defaults["optim_step"] = Answer(body={"request_id": "req-2"})
    server.script(
        "retrieve_future",
        Answer(body={"type": "create_model", "model_id": "m"}),
        Answer(408, {"queue_state": "active"}),
        Answer(drop=True),
        Answer(drop=True),
        Answer(503, {"detail": "busy"}),
        Answer(body={"metrics": {}}),
    )
    clock = ScaledClock(50.0)
    with client(server, clock=clock) as service:
        training = service.create_lora_training_client("m")
        training.optim_step(types.AdamParams())
        assert service.get_telemetry().flush(clock.time() + 500.0)
    reported = [(event["event_name"], event["event_data"]) for event in sent(server) if "event_name" in event]
    about = [(data["request_id"], data["request_type"]) for _, data in reported]
    assert about == [("req-2", "OptimStep")] * len(reported)
    names = [name.rpartition(".")[2] for name, _ in reported]
    assert names[0] == "api_status_error"
    assert names[-1] == "api_status_error"
    assert set(names[1:-1]) == {"connection_error"}
    retries = [data["connection_error_retries"] for name, data in reported if name.endswith("connection_error")]
    assert retries == list(range(len(retries)))
    numbers = [data["iteration"] for _, data in reported]
    assert numbers == sorted(numbers)
    assert (reported[0][1]["status_code"], reported[-1][1]["status_code"]) == (408, 503)


def test_invalid_response_is_reported(server):
    server.defaults["create_model"] = Answer(body={"request_id": "req-1"})
    server.script("retrieve_future", Answer(body={"type": "create_model"}))
    with client(server) as service, pytest.raises(APIResponseValidationError) as raised:
        service.create_lora_training_client("m")
    assert raised.value.polled == ("req-1", "CreateModel", 0)
    events = sent(server)
    assert events[1]["event_name"] == "APIFuture.result_async.validation_error"
    assert events[1]["event_data"]["request_type"] == "CreateModel"
    assert events[2]["error_type"] == "APIResponseValidationError"


def test_every_client_returns_the_same_telemetry(server):
    server.defaults["create_model"] = Answer(body={"request_id": "req-1"})
    server.defaults["retrieve_future"] = Answer(body={"type": "create_model", "model_id": "m"})
    server.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "s-1"})
    with client(server) as service:
        telemetry = service.get_telemetry()
        assert telemetry is not None
        training = service.create_lora_training_client("m")
        sampler = service.create_sampling_client(base_model="m")
        for one in (training, sampler, service.create_rest_client()):
            assert one.get_telemetry() is telemetry
        assert pickle.loads(pickle.dumps(sampler)).get_telemetry() is None


def test_telemetry_can_be_disabled_by_name(server, monkeypatch):
    monkeypatch.setenv("TINKEX_SYNC_DISABLED_PLUGINS", "telemetry")
    with client(server) as service:
        assert service.get_telemetry() is None
    assert server.sent("telemetry") == []


def test_server_of_0_38_receives_process_id_and_token(server):
    server.defaults["client/config"] = Answer(
        body={"pjwt_auth_enabled": True, "proto_write_fwdbwd": True, "parallel_fwdbwd_chunks": True}
    )
    server.defaults["client/dynamic_config"] = Answer(body={})
    server.defaults["auth/token"] = Answer(body={"jwt": "token-1"})
    with client(server, protocol="auto") as service:
        assert service.status()["protocol"]["wire"] == "protobuf"
        version = service.status()["protocol"]["sdk_version"]
    (request,) = server.sent("telemetry")
    assert list(request.body) == ["events", "platform", "sdk_version", "session_id", "process_uuid"]
    assert uuid.UUID(request.body["process_uuid"])
    assert request.body["sdk_version"] == version != "0.7.0"
    assert request.headers["x-api-key"] == "token-1"
