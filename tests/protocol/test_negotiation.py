"""Negotiation of the protocol version before a session is created: requested once, cached, configurable."""

import pickle
import threading
import time
from dataclasses import fields

import pytest
from scripted_server import Answer, SteppedClock, bare_session

from tinkex_sync import errors, hookimpl, types
from tinkex_sync import session as session_module
from tinkex_sync.config import PROTOCOLS, Config, Preset
from tinkex_sync.errors import ConfigError
from tinkex_sync.http.request import Request
from tinkex_sync.protocol import negotiation as protocol
from tinkex_sync.protocol.wire import Body

SESSION = Answer(body={"session_id": "sess-1", "type": "create_session"})
CHUNK_LIMITS = {"fwdbwd_max_chunk_len": 16, "fwdbwd_max_chunk_bytes_count": 4000, "parallel_fwdbwd_chunks": False}


def opened(server, session, config=None, **answers):
    server.defaults["create_session"] = SESSION
    for name, answer in answers.items():
        server.script(name.replace("__", "/"), answer)
    if config is not None:
        server.script("client/config", config)
    session.open()
    return [request.operation for request in server.requests]


@pytest.mark.parametrize(
    ("answer", "wire"),
    [
        (Answer(404, {"detail": "Not Found"}), "json"),
        (Answer(405, {"detail": "Method Not Allowed"}), "json"),
        (Answer(501, text=""), "json"),
        (Answer(422, {"detail": []}), "json"),
        (Answer(body={}), "json"),
        (Answer(body={"pjwt_auth_enabled": False}), "json"),
        (Answer(body={"sample_dispatch_bytes_semaphore_size": 134217728, "other": 1}), "json"),
        (Answer(body={"fwdbwd_max_chunk_len": None}), "json"),
        (Answer(body={"fwdbwd_max_chunk_len": 1024}), "protobuf"),
        (Answer(body={"proto_compress_fwdbwd": False}), "protobuf"),
        (Answer(body={"parallel_fwdbwd_chunks": False}), "protobuf"),
    ],
)
def test_the_response_of_client_config_selects_the_protocol(answer, wire):
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        sent = opened(server, session, answer)
        assert session.capabilities.wire.name == wire
        assert sent[0] == "client/config" and sent[-1] == "create_session"
        assert server.requests[0].body == {"sdk_version": "0.38.0"}
        version = {"json": "0.7.0", "protobuf": "0.38.0"}[wire]
        assert server.requests[-1].body["sdk_version"] == version
        # The dynamic configuration is requested in protocol 0.38 only.
        assert ("client/dynamic_config" in sent) == (wire == "protobuf")


def test_observers_get_no_error_if_client_config_is_missing():
    class Watching:
        def __init__(self):
            self.seen = []

        @hookimpl
        def tinkex_request_finished(self, path, status, error):
            self.seen.append((path, status, error))

    watching = Watching()
    with bare_session(SteppedClock(), plugins=[watching], protocol="auto") as (server, session):
        opened(server, session, Answer(404, {"detail": "Not Found"}))
    assert watching.seen == [("/api/v1/client/config", 404, None), ("/api/v1/create_session", 200, None)]


def test_a_configured_sdk_version_is_sent_in_every_protocol():
    with bare_session(SteppedClock(), protocol="auto", sdk_version="0.25.0") as (server, session):
        opened(server, session, Answer(body=CHUNK_LIMITS))
        assert server.requests[-1].body["sdk_version"] == "0.25.0"


def test_a_configured_protocol_is_used_and_0_7_sends_no_client_config():
    with bare_session(SteppedClock(), protocol="0.7") as (server, session):
        assert opened(server, session) == ["create_session"]
        assert session.capabilities.wire.name == "json"
    with bare_session(SteppedClock(), protocol="0.38") as (server, session):
        assert opened(server, session, Answer(404, {})) == ["client/config", "create_session"]
        assert session.capabilities.wire.name == "protobuf"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_fails_the_negotiation_without_a_retry(status):
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        with pytest.raises(errors.APIStatusError, match="TINKER_API_KEY") as refused:
            opened(server, session, Answer(status, {"detail": "bad key"}))
        assert refused.value.status_code == status
        assert [request.operation for request in server.requests] == ["client/config"]


def test_client_config_is_retried_after_503():
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        server.script("client/config", Answer(503), Answer(503))
        sent = opened(server, session, Answer(body=CHUNK_LIMITS))
        assert sent.count("client/config") == 3
        assert session.capabilities.wire.name == "protobuf"


def test_limits_may_be_sent_as_text_if_they_are_numbers():
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        opened(server, session, Answer(body={"fwdbwd_max_chunk_len": "16"}))
        assert session.capabilities.max_chunk_datums == 16
    protocol.forget()
    unreadable = pytest.raises(errors.APIResponseValidationError, match="fwdbwd_max_chunk_len")
    with bare_session(SteppedClock(), protocol="auto") as (server, session), unreadable:
        opened(server, session, Answer(body={"fwdbwd_max_chunk_len": "many"}))


def test_the_result_is_cached_for_its_base_url_for_five_minutes():
    clock = SteppedClock()
    with bare_session(clock, protocol="auto") as (server, session):
        opened(server, session, Answer(body=CHUNK_LIMITS))
        server.clear()
        again = type(session)(session.config, session.observers)
        try:
            again.open()
            assert [request.operation for request in server.requests] == ["client/dynamic_config", "create_session"]
            assert again.capabilities.wire.name == "protobuf" and again.capabilities.max_chunk_datums == 16
        finally:
            again.close(None)
        clock.advance(301.0)
        server.clear()
        late = type(session)(session.config, session.observers)
        try:
            late.open()
            # The endpoint is missing now, so the client uses protocol 0.7.
            assert server.requests[0].operation == "client/config"
            assert late.capabilities.wire.name == "json"
        finally:
            late.close(None)


def test_the_servers_limits_apply_unless_the_user_sets_them():
    announced = {
        **CHUNK_LIMITS,
        "sample_dispatch_bytes_semaphore_size": 10485760,
        "sample_max_concurrent_requests": 7,
        "inflight_response_bytes_semaphore_size": 300,
        "fwdbwd_dispatch_bytes_semaphore_size": 0,
    }
    servers = {"fetch_bytes": 300, "chunk_dispatch_bytes": 1, "max_samples": 7}
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        opened(server, session, Answer(body=announced))
        limits = session.negotiation.status()["limits"]
        assert limits == {
            "max_chunk_datums": 16,
            "max_chunk_bytes": 4000,
            "dispatch_bytes": 10485760,
            "fetch_bytes": 300,
            "chunk_dispatch_bytes": 1,
            "max_samples": 7,
        }
        assert (session.fetch_budget.balance, session.chunk_budget.balance) == (300, 1)
        assert session.throttle.status()["bytes_left"] == 10485760
    defaults = {"max_chunk_datums": 1024, "max_chunk_bytes": 5_000_000, "dispatch_bytes": 5 * 1024 * 1024}
    for own in ({"max_chunk_datums": 5, "max_chunk_bytes": 50, "dispatch_bytes": 500}, defaults):
        protocol.forget()
        with bare_session(SteppedClock(), protocol="auto", **own) as (server, session):
            opened(server, session, Answer(body=announced))
            assert session.negotiation.status()["limits"] == {**own, **servers}
            assert session.throttle.status()["bytes_left"] == own["dispatch_bytes"]


def test_a_default_limit_remains_one_after_replace_and_pickle():
    config = pickle.loads(pickle.dumps(Config().replace(drain=1.0)))
    assert isinstance(config.max_chunk_datums, Preset) and config.max_chunk_datums == 1024
    assert repr(config.max_chunk_datums) == "1024"
    assert not isinstance(config.replace(max_chunk_datums=1024).max_chunk_datums, Preset)
    assert not isinstance(Config.from_env(max_chunk_datums=1024).max_chunk_datums, Preset)


def _refusal(status, body):
    return errors.status_error(status, body=body)


FORWARD, BACKWARD = Body("forward", b"{}", wire="json"), Body("forward_backward", b"{}", wire="json")
PROTOBUF = Body("forward_backward", b"", wire="protobuf")


def negotiation(chosen="auto"):
    return protocol.Negotiation(Config(protocol=chosen), "http://host/", SteppedClock())


@pytest.mark.parametrize(
    ("status", "response", "body", "switches"),
    [
        (415, {"detail": "protobuf only"}, BACKWARD, True),
        (404, {"detail": "Not Found"}, FORWARD, True),
        (404, "", FORWARD, True),
        (404, "<html>", FORWARD, True),
        (404, {"detail": "Not Found"}, BACKWARD, False),
        (404, {"detail": "model m-1 is unknown"}, FORWARD, False),
        (400, {"detail": "bad"}, FORWARD, False),
        (500, "", BACKWARD, False),
        (415, {"detail": "protobuf only"}, Body("optim_step", b"{}"), False),
    ],
)
def test_a_refused_encoding_switches_the_protocol_and_other_errors_do_not(status, response, body, switches):
    negotiated = negotiation()
    assert negotiated.switch(_refusal(status, response), body) is switches
    assert negotiated.capabilities.protocol == ("0.38" if switches else "0.7")


def test_the_protocol_switches_once_and_for_all_threads():
    negotiated = negotiation()
    before, refusal = negotiated.capabilities, _refusal(415, {})
    assert negotiated.switch(refusal, BACKWARD)
    assert negotiated.switch(refusal, BACKWARD), "a request that was in flight during the switch is sent again"
    assert (before.protocol, negotiated.capabilities.protocol) == ("0.7", "0.38")
    assert not negotiated.switch(refusal, PROTOBUF), "a request refused in both encodings is not sent again"
    cached = negotiation()
    assert cached.load_cached() and cached.capabilities.protocol == "0.38"
    for chosen in ("0.7", "0.38"):
        fixed = negotiation(chosen)
        assert not fixed.switch(refusal, BACKWARD if chosen == "0.7" else PROTOBUF)


def test_every_protocol_version_can_be_chosen_and_has_its_losses():
    assert tuple(protocol.PROTOCOL_VERSIONS) == PROTOCOLS[1:]
    for name, version in protocol.PROTOCOL_VERSIONS.items():
        capabilities = negotiation(name).capabilities
        assert (capabilities.protocol, capabilities.sdk_version) == (name, version.sdk_version)
        assert capabilities.losses == version.losses


@pytest.mark.parametrize("name", protocol.PROTOCOL_VERSIONS)
def test_features_follow_from_the_protocol_version_and_the_servers_settings(name):
    features = [one for one in fields(protocol.Capabilities) if "since" in one.metadata]
    for answer in (None, False, True):
        negotiated = negotiation(name)
        settings = {one.metadata["setting"]: answer for one in features if one.metadata["setting"]}
        negotiated.apply_config(types.ServerConfigResponse(**settings))
        for one in features:
            is_known = one.metadata["since"] in ("0.7.0", protocol.PROTOCOL_VERSIONS[name].sdk_version)
            if one.metadata["setting"] is None:
                wanted = is_known
            else:
                wanted = is_known and (one.metadata["default"] if answer is None else answer)
            assert getattr(negotiated.capabilities, one.name) is wanted, one.name


def test_a_changed_dynamic_configuration_replaces_the_capabilities():
    negotiated = negotiation("0.38")
    before = negotiated.capabilities
    negotiated.apply_dynamic_config(
        types.DynamicConfigResponse(sample_cancel_enabled=True, sample_cancel_max_batch_size=0)
    )
    assert (before.cancels_samples, negotiated.capabilities.cancels_samples) == (False, True)
    assert negotiated.capabilities.max_cancellations == 1


def test_the_protocol_setting_is_validated_and_read_from_the_environment(monkeypatch):
    with pytest.raises(ConfigError, match=r"auto, 0.7, 0.38, got '0.8'"):
        Config(protocol="0.8")
    monkeypatch.setenv("TINKEX_SYNC_PROTOCOL", "0.38")
    assert Config.from_env().protocol == "0.38"


def test_the_end_of_a_session_is_reported_once_in_protocol_0_38():
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        opened(server, session, Answer(body=CHUNK_LIMITS))
        server.defaults["sessions/sess-1/finish"] = Answer(body={})
        session.close("errored", "ValueError: boom")
        session.close()
        (finish,) = server.sent("sessions/sess-1/finish")
        assert finish.body == {"reason": {"type": "errored"}, "detail": "ValueError: boom"}
    protocol.forget()
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        opened(server, session, Answer(404, {}))
        session.close()
        assert not server.sent("sessions/sess-1/finish")


def test_close_does_not_wait_for_a_finish_request_that_hangs():
    with bare_session(protocol="auto") as (server, session):
        opened(server, session, Answer(body=CHUNK_LIMITS))
        server.defaults["sessions/sess-1/finish"] = Answer(body={}, hold=lambda: server.stopping.wait(20))
        before = time.monotonic()
        session.close()
        assert session.closing.is_set() and time.monotonic() - before < 3.0


def test_the_dynamic_configuration_is_refreshed_and_a_failure_changes_nothing(monkeypatch):
    monkeypatch.setattr(session_module, "_LEAST_REFRESH", 0.0)
    changed = threading.Event()

    def last(_):
        changed.set()
        return Answer(body={"refresh_interval_sec": 300, "sample_cancel_enabled": True})

    with bare_session(protocol="auto") as (server, session):
        server.script("client/config", Answer(body=CHUNK_LIMITS))
        server.script(
            "client/dynamic_config",
            Answer(body={"refresh_interval_sec": 0, "sample_cancel_max_batch_size": 3}),
            Answer(500, {"detail": "busy"}),
            Answer(body={"refresh_interval_sec": 0, "sample_cancel_max_batch_size": 3}),
            last,
        )
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        session.open()
        assert changed.wait(20)
        tick = threading.Event()
        assert any(session.capabilities.cancels_samples or tick.wait(0.01) for _ in range(1000))
        assert len(server.sent("client/dynamic_config")) == 4


def test_a_missing_dynamic_config_endpoint_is_requested_once():
    with bare_session(protocol="auto") as (server, session):
        opened(server, session, Answer(body=CHUNK_LIMITS), client__dynamic_config=Answer(404, {"detail": "Not Found"}))
        assert len(server.sent("client/dynamic_config")) == 1
        assert not session.timer._heap


@pytest.mark.parametrize(("level", "wanted"), [("error", "ERROR"), ("warning", "WARNING"), (None, "WARNING")])
def test_a_deprecation_note_is_logged_once(caplog, level, wanted):
    headers = {"X-Deprecation-Note": "use the other one", **({"X-Deprecation-Level": level} if level else {})}
    with bare_session() as (server, session):
        server.defaults["get_info"] = Answer(404, {"detail": "no model"}, headers=headers)
        server.defaults["healthz"] = Answer(body={"status": "ok"}, headers=headers)
        for _ in range(3):
            session.call(Request("healthz"))
            with pytest.raises(errors.NotFoundError):
                session.call(Request("get_info", {"model_id": "m"}))
    logged = [record for record in caplog.records if "use the other one" in record.getMessage()]
    assert [record.levelname for record in logged] == [wanted]


@pytest.mark.parametrize("value", [-5, 1 << 60, "9" * 4000])
def test_a_limit_out_of_range_is_ignored_with_one_warning(value, caplog):
    config = {**CHUNK_LIMITS, "sample_max_concurrent_requests": value, "fwdbwd_max_chunk_len": value}
    refresh = Answer(body={"refresh_interval_sec": value, "sample_cancel_enabled": True})
    with bare_session(SteppedClock(), protocol="auto") as (server, session):
        server.defaults["client/dynamic_config"] = refresh
        opened(server, session, Answer(body=config))
        session._refresh()
        capabilities = session.capabilities
        assert (capabilities.max_samples, capabilities.max_chunk_datums) == (None, 1024)
        assert (capabilities.refresh_interval, capabilities.cancels_samples) == (300.0, True)
        assert capabilities.max_chunk_bytes == 4000
    warnings = [record for record in caplog.records if "out of range" in record.message]
    assert ["sample_max" in one.message for one in warnings] == [True, False]
    assert all("=" in one.message and len(one.message) < 300 for one in warnings)
