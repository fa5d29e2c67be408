"""The operations of the protocol, over real HTTP."""

import socket
import threading

import pytest
import requests
from server_calls import Wire, datum

from tinkex_sync.local import LocalServer


@pytest.fixture(scope="module")
def server():
    with LocalServer(models=["Qwen/Qwen3-8B"]) as running:
        yield running


@pytest.fixture
def wire(server):
    with Wire(server) as client:
        yield client


def test_a_model_learns_and_the_loss_falls(wire):
    model = wire.model()
    first = wire.loss(model)
    for _ in range(5):
        wire.learn(model)
    assert wire.loss(model) < first


def test_forward_backward_gives_a_tensor_per_datum_and_metrics(wire):
    output = wire.result(wire.backward(wire.model(), [datum("abc"), datum("abcdef")]))
    assert [len(one["logprobs"]["data"]) for one in output["loss_fn_outputs"]] == [2, 5]
    assert isinstance(output["loss_fn_output_type"], str)
    assert output["metrics"]["loss:sum"] > 0


def test_the_same_inputs_give_the_same_bytes(wire):
    answers = []
    for _ in range(2):
        model = wire.model()
        for _ in range(3):
            wire.learn(model)
        answers.append(wire.poll(wire.backward(model)).content)
    assert answers[0] == answers[1]


def test_operations_of_a_model_run_in_order_of_arrival(wire):
    model = wire.model()
    promises = [
        step for _ in range(10) for step in (wire.backward(model), wire.step(model, learning_rate=3e-3))
    ]
    losses = [wire.result(promise)["metrics"]["loss:sum"] for promise in promises[::2]]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 10


def test_get_info_names_model_rank_and_tokenizer(wire):
    info = wire.ok("get_info", {"model_id": wire.model(rank=3)})
    assert info["model_data"] == {
        "arch": "tinkex",
        "model_name": "tinkex/tiny",
        "tokenizer_id": "tinkex/tiny",
    }
    assert (info["is_lora"], info["lora_rank"]) == (True, 3)


def test_an_extra_name_is_served_by_the_tiny_model(wire):
    names = [one["model_name"] for one in wire.get("get_server_capabilities").json()["supported_models"]]
    assert "tinkex/tiny" in names
    assert "Qwen/Qwen3-8B" in names
    model = wire.model(base_model="Qwen/Qwen3-8B")
    assert wire.ok("get_info", {"model_id": model})["model_name"] == "Qwen/Qwen3-8B"
    assert wire.loss(model) == wire.loss(wire.model())


def test_health_and_telemetry(wire):
    assert wire.get("healthz").json() == {"status": "ok"}
    event = {"session_id": wire.session(), "events": [{}, {}], "platform": "x", "sdk_version": "0.7.0"}
    assert wire.ok("telemetry", event) == {"status": "accepted"}


def test_heartbeats_are_counted_by_session(server, wire):
    session = wire.session()
    for _ in range(3):
        assert wire.ok("session_heartbeat", {"session_id": session})["type"] == "session_heartbeat"
    assert server.stats()["heartbeats"][session] == 3
    assert wire.post("session_heartbeat", {"session_id": "gone"}).status_code == 404


def test_a_sample_has_tokens_logprobs_and_prompt_logprobs(wire):
    sampler = wire.sampler(wire.session())
    body = wire.sample_body(sampler, 0, num_samples=2, prompt_logprobs=True, topk_prompt_logprobs=2)
    reply = wire.result(wire.ok("asample", body))
    assert len(reply["sequences"]) == 2
    for sequence in reply["sequences"]:
        assert sequence["stop_reason"] in ("length", "stop")
        assert len(sequence["tokens"]) == len(sequence["logprobs"]) > 0
    assert len(reply["prompt_logprobs"]) == len(reply["topk_prompt_logprobs"]) == 5
    assert reply["prompt_logprobs"][0] is None


def test_an_unloaded_model_is_gone(wire):
    model = wire.model()
    assert wire.result(wire.ok("unload_model", {"model_id": model})) == {
        "model_id": model,
        "type": "unload_model",
    }
    answer = wire.post("optim_step", {"model_id": model, "adam_params": {}, "seq_id": 9})
    assert answer.status_code == 404
    assert model in answer.json()["detail"]


# The same request twice.


def test_a_repeated_number_gives_the_same_promise_and_runs_once(server, wire):
    model = wire.model()
    before = server.stats()
    first = wire.backward(model, seq=5)
    assert wire.backward(model, seq=5) == first
    wire.result(first)
    after = server.stats()
    assert after["datums_done"] - before["datums_done"] == 1
    assert after["dedupe_hits"] - before["dedupe_hits"] == 1
    assert after["chunks"][model] == [1]


def test_a_repeated_number_with_another_body_is_a_conflict(wire):
    model = wire.model()
    wire.backward(model, seq=5)
    body = {"adam_params": {}, "model_id": model, "seq_id": 5}
    answer = wire.post("optim_step", body)
    assert answer.status_code == 409
    assert "seq_id 5" in answer.json()["detail"]


def test_numbers_may_have_gaps(wire):
    model = wire.model()
    assert wire.result(wire.backward(model, seq=5))["metrics"]
    assert wire.result(wire.backward(model, seq=90))["metrics"]


def test_two_models_and_two_samplers_number_on_their_own(wire):
    models = [wire.model(), wire.model()]
    assert len({wire.backward(model, seq=1)["request_id"] for model in models}) == 2
    session = wire.session()
    samplers = [wire.sampler(session, 0), wire.sampler(session, 1)]
    assert len({wire.sample(sampler, 1).json()["request_id"] for sampler in samplers}) == 2


def test_copies_of_one_sample_at_the_same_time_are_one_sample(server, wire):
    body = wire.sample_body(wire.sampler(wire.session()), 3)
    before = server.stats()["samples_accepted"]
    ids, start = [], threading.Barrier(12)

    def send():
        with Wire(server) as mine:
            start.wait()
            ids.append(mine.ok("asample", body)["request_id"])

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 12
    assert len(set(ids)) == 1
    assert server.stats()["samples_accepted"] - before == 1


@pytest.mark.parametrize("path", ["create_session", "create_model", "create_sampling_session", "asample"])
def test_a_repeated_idempotency_key_gives_the_same_answer(server, wire, path):
    session = wire.session()
    bodies = {
        "create_session": {"tags": []},
        "create_model": {"session_id": session, "base_model": "tinkex/tiny"},
        "create_sampling_session": {
            "session_id": session,
            "sampling_session_seq_id": 4,
            "base_model": "tinkex/tiny",
            "model_path": None,
        },
        "asample": wire.sample_body(wire.sampler(session), None),
    }
    before = server.stats()["idempotency_hits"]
    key = {"X-Idempotency-Key": f"key-of-{path}"}
    first = wire.ok(path, bodies[path], **key)
    assert wire.ok(path, bodies[path], **key) == first
    assert server.stats()["idempotency_hits"] - before == 1
    other = wire.post(path, {**bodies[path], "x": 1}, **key)
    assert other.status_code == 409
    assert key["X-Idempotency-Key"] in other.json()["detail"]


def test_copies_of_one_request_at_the_same_time_get_one_answer(server):
    answers, start = [], threading.Barrier(12)

    def send():
        with Wire(server) as mine:
            start.wait()
            answers.append(
                mine.ok("create_session", {"tags": []}, **{"X-Idempotency-Key": "twelve"})["session_id"]
            )

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    assert len(set(answers)) == 1


def test_a_key_whose_request_was_refused_can_be_used_again(wire):
    key = {"X-Idempotency-Key": "second-chance"}
    assert wire.post("create_session", {"tags": 1}, **key).status_code == 422
    assert wire.post("create_session", {"tags": []}, **key).status_code == 200


def test_without_a_key_each_session_is_a_new_one(wire):
    assert wire.session() != wire.session()


def test_a_model_number_of_a_session_makes_one_model(wire):
    session = wire.session()
    assert wire.model(session, 0) == wire.model(session, 0)
    assert wire.model(session, 1) != wire.model(session, 0)
    body = {"session_id": session, "model_seq_id": 0, "base_model": "tinkex/tiny", "lora_config": {"rank": 9}}
    assert wire.post("create_model", body).status_code == 409


def test_a_sampling_session_number_makes_one_sampler(wire):
    session = wire.session()
    assert wire.sampler(session, 0) == wire.sampler(session, 0)
    body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": "Qwen/Qwen3-8B"}
    assert wire.post("create_sampling_session", body).status_code == 409


# Keys and connections.


def test_a_key_is_asked_for_when_one_is_configured():
    with LocalServer(api_key="tml-right") as server, Wire(server) as wire:
        for headers, word in (({}, "no API key"), ({"X-API-Key": "wrong"}, "not the one")):
            answer = wire.post("create_session", {"tags": []}, **headers)
            assert answer.status_code == 401
            assert word in answer.json()["detail"]
        assert wire.post("create_session", {"tags": []}, **{"X-API-Key": "tml-right"}).status_code == 200
        assert wire.post("create_session", {"tags": []}, Authorization="Bearer tml-right").status_code == 200
        assert wire.get("healthz").status_code == 200
        for control in ("__stats", "__faults"):
            assert requests.get(f"{server.base_url}/{control}", timeout=10).status_code == 401
        assert server.stats()["requests"]["/api/v1/create_session"] == {"200": 2, "401": 2}


def test_a_connection_is_kept_through_answers_and_errors(server):
    with Wire(server) as wire:
        wire.get("healthz")
        before = server.stats()["connections"]
        wire.model()
        wire.get("nonsense")
        wire.post("create_session", [1])
        wire.http.post(f"{server.base_url}/nowhere", data=b"x" * 100_000, timeout=10)
        wire.http.post(
            f"{server.base_url}/api/v1/create_session", data=iter([b'{"tags"', b": []}"]), timeout=10
        )
        wire.get("healthz")
        # The reader of the statistics makes a connection of its own each time.
        assert server.stats()["connections"] - before == 1


@pytest.mark.parametrize(("length", "status"), [("x", 400), ("99999999999", 413)])
def test_a_body_that_cannot_be_read_is_refused(server, length, status):
    host, port = server.base_url[len("http://") :].split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        connection.makefile("rb") as reader,
    ):
        connection.sendall(
            f"POST /api/v1/asample HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        answer = reader.read().decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert '"detail"' in answer


def test_a_body_of_five_megabytes_is_taken(wire):
    model = wire.model()
    many = datum("ab")
    many["padding"] = "x" * 5_000_000
    assert wire.result(wire.backward(model, [many]))["metrics"]
