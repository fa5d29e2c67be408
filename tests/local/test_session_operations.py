"""Sessions, heartbeats and telemetry."""

from server_calls import counted_result


def test_health_check_and_telemetry_respond(wire):
    assert wire.get("healthz").json() == {"status": "ok"}
    event = {"session_id": wire.session(), "events": [{}, {}], "platform": "x", "sdk_version": "0.7.0"}
    assert wire.ok("telemetry", event) == {"status": "accepted"}


def test_heartbeats_are_counted_per_session(server, wire):
    session = wire.session()
    for _ in range(3):
        assert wire.ok("session_heartbeat", {"session_id": session})["type"] == "session_heartbeat"
    assert server.stats()["heartbeats"][session] == 3
    assert wire.post("session_heartbeat", {"session_id": "gone"}).status_code == 404


KEY = "tml-k"


def test_heartbeat_of_a_finished_session_gets_410(server_0_38, wire_0_38):
    _, counted = counted_result(server_0_38, lambda service: service.create_lora_training_client("tinkex/tiny", rank=2))
    assert counted["sessions_finished"] == 1
    session = wire_0_38.session()
    ending = {"reason": {"type": "errored"}, "detail": None}
    assert wire_0_38.post("session_heartbeat", {"session_id": session}).status_code == 200
    assert wire_0_38.post(f"sessions/{session}/finish", ending).status_code == 200
    assert wire_0_38.post(f"sessions/{session}/finish", {"reason": {"type": "success"}}).status_code == 200
    assert wire_0_38.post("session_heartbeat", {"session_id": session}).status_code == 410
    assert wire_0_38.post(f"sessions/{session}/finish", {"reason": {"type": "bored"}}).status_code == 422
    assert wire_0_38.post("sessions/none/finish", ending).status_code == 404
