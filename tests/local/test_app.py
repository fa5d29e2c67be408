"""Authentication, content types, unknown paths and polls."""

import base64
import json
import time

import pytest
import requests
from server_calls import Wire, connect, datum, example, post_protobuf

from tinkex_sync import errors, types
from tinkex_sync.local import Faults, LocalServer

KEY = "tml-k"
TOKENS = {"pjwt_auth_enabled": True}
ADAM = types.AdamParams(learning_rate=1e-2)
STALLED = Faults(pause=600, pause_hold=600)


def test_requests_need_the_configured_api_key():
    with LocalServer(api_key="tml-right") as server, Wire(server) as wire:
        for headers, word in (({}, "no API key"), ({"X-API-Key": "wrong"}, "not the one")):
            response = wire.post("create_session", {"tags": []}, **headers)
            assert response.status_code == 401
            assert word in response.json()["detail"]
        assert wire.post("create_session", {"tags": []}, **{"X-API-Key": "tml-right"}).status_code == 200
        assert wire.post("create_session", {"tags": []}, Authorization="Bearer tml-right").status_code == 200
        assert wire.get("healthz").status_code == 200
        for control in ("__stats", "__faults"):
            assert requests.get(f"{server.base_url}/{control}", timeout=10).status_code == 401
        assert server.stats()["requests"]["/api/v1/create_session"] == {"200": 2, "401": 2}


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_requests_need_a_token_that_was_issued_for_the_key():
    with LocalServer(protocol="0.38", api_key=KEY, client_config=TOKENS, token_lifetime=500) as server:
        with connect(server) as service:
            assert service.create_lora_training_client("tinkex/tiny", rank=2).model_id
        assert server.stats()["tokens_issued"] == 1
        with Wire(server) as wire:
            assert wire.post("client/config", {}).status_code == 401
            assert wire.post("auth/token", {}).status_code == 401
            wire.http.headers["X-API-Key"] = KEY
            rejected = wire.post("create_session", {})
            assert rejected.status_code == 401
            assert "auth/token" in rejected.json()["detail"]
            assert "WWW-Authenticate" not in rejected.headers
            token = wire.ok("auth/token", {})["jwt"]
            token_claims = claims(token)
            assert token_claims["exp"] - token_claims["iat"] == 500
            head, body, signature = token.split(".")
            for forged in (f"{head}.{body}.{signature[:-2]}AA", "a.b.c", f"{head}.{body}é.{signature}".encode()):
                wire.http.headers["X-API-Key"] = forged
                response = wire.post("create_session", {})
                assert response.status_code == 401
                assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
            wire.http.headers["X-API-Key"] = token
            assert wire.session()


def test_client_replaces_a_rejected_token_once():
    with LocalServer(protocol="both", client_config=TOKENS) as server, connect(server) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        server.set_faults(Faults(reject_tokens=1))
        training.forward_backward([example()], "cross_entropy")
        assert server.stats()["tokens_issued"] == 2
        assert server.stats()["datums_done"] == 1


def test_unknown_resources_and_paths_get_404_with_a_detail(server, wire):
    for response in (
        wire.get("nonsense"),
        wire.http.post(f"{server.base_url}/elsewhere", json={}, timeout=10),
        wire.get("sessions/none"),
        wire.get("samplers/none"),
        wire.get("training_runs/none"),
        wire.get("training_runs/none/checkpoints"),
        wire.post("retrieve_future", {"request_id": "none"}),
        wire.post("get_info", {"model_id": "none"}),
        wire.post("weights_info", {"tinker_path": "tinker://none/weights/x"}),
        wire.post("asample", wire.sample_body("none", 0)),
    ):
        assert response.status_code == 404, response.text
        assert "none" in response.json()["detail"] or "no such endpoint" in response.json()["detail"]


def test_wrong_method_gets_405_with_a_detail(wire):
    response = wire.get("asample")
    assert response.status_code == 405
    assert response.json()["detail"]


def test_client_switches_to_protobuf_after_a_415_with_the_same_number():
    no_limits = dict.fromkeys(("fwdbwd_max_chunk_len", "proto_compress_fwdbwd", "parallel_fwdbwd_chunks"))
    with LocalServer(protocol="0.38", client_config=no_limits) as server, connect(server) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
        training.forward_backward([example()], "cross_entropy")
        training.optim_step(ADAM)
        counted = server.stats()["requests"]["/api/v1/forward_backward"]
        assert counted == {"415": 1, "200": 1}
        assert service.status()["protocol"]["wire"] == "protobuf"


def test_client_switches_to_protobuf_after_a_404_of_forward():
    with LocalServer(protocol="0.38") as server:
        server.set_faults(Faults(fail_first={"client": [404]}))
        with connect(server) as service:
            training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
            training.forward([example()], "cross_entropy")
        assert server.stats()["requests"]["/api/v1/forward"] == {"404": 1}


def test_server_of_protocol_0_7_rejects_protobuf():
    with LocalServer() as server, Wire(server) as wire:
        assert post_protobuf(wire, b"").status_code == 415
        assert wire.post("client/config", {}).status_code == 404
        with connect(server, "0.38") as service, pytest.raises(errors.TinkexError):
            service.create_lora_training_client("tinkex/tiny", rank=2).forward_backward([example()], "cross_entropy")


def test_results_are_json_unless_the_client_accepts_protobuf(wire_0_38):
    sampler = wire_0_38.sampler(wire_0_38.session())
    future = wire_0_38.sample(sampler, 0, num_samples=2).json()
    assert len(set(future["sample_sequence_ids"])) == 2
    assert wire_0_38.result(future)["type"] == "sample"


def test_poll_returns_the_size_of_a_large_result_first():
    with LocalServer(protocol="both", metadata_threshold=100) as server:
        with connect(server) as service:
            training = service.create_lora_training_client("tinkex/tiny", rank=2, seed=1)
            assert len(training.forward_backward([example()] * 5, "cross_entropy").loss_fn_outputs) == 5
        assert server.stats()["metadata_answers"] == 1
        with Wire(server) as wire:
            future = wire.backward(wire.model(), [datum("x" * 50)])
            wire.result(future)
            body = {"request_id": future["request_id"], "allow_metadata_only": True}
            size = wire.ok("retrieve_future", body)
            assert size["status"] == "complete_metadata"
            assert size["response_payload_size"] == len(wire.poll(future).content)


def test_poll_is_held_for_less_than_the_read_timeout_of_the_client():
    with LocalServer(faults=STALLED) as server, Wire(server) as wire:
        future = wire.ok("create_model", {"session_id": wire.session(), "base_model": "tinkex/tiny"})
        started = time.monotonic()
        response = wire.post("retrieve_future", future, **{"x-stainless-read-timeout": "0.5"})
        assert time.monotonic() - started < 5
        assert response.status_code == 408
