"""What came after level 0.7.0 on the embedded server, by our own client and by bare requests."""

import base64
import contextlib
import json
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from server_calls import Wire, datum, until

from tinkex_sync import Config, ServiceClient, errors, types
from tinkex_sync.local import Faults, LocalServer

schema = pytest.importorskip("tinkex_sync.protocol.protobuf_schema")
pytest.importorskip("google.protobuf")

ADAM = types.AdamParams(learning_rate=1e-2)
PROMPT = types.ModelInput.from_ints(list(b"the quick "))
PARAMS = types.SamplingParams(max_tokens=4, seed=1)
KEY = "tml-k"
ROOT = str(Path(__file__).resolve().parents[2])
TOKENS = {"pjwt_auth_enabled": True}


@pytest.fixture(scope="module")
def server():
    client_config = {
        "parallel_fwdbwd_chunks": True,
        "sample_use_retrieve_futures": True,
        "sample_join_sampling_session": True,
        "fwdbwd_max_chunk_len": 2,
    }
    with LocalServer(protocol="both", client_config=client_config, hold=2.0) as running:
        yield running


@pytest.fixture
def wire(server):
    with Wire(server) as calls:
        yield calls


def client(server, **settings):
    return ServiceClient(
        config=Config(**{"api_key": KEY, "base_url": server.base_url, "protocol": "auto", **settings})
    )


def example(text="the quick brown fox"):
    tokens = list(text.encode())
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )


def result_of(server, call):
    """What ``call(service)`` gives, and by how much it moved the server's counters."""
    before = server.stats()
    with client(server) as service:
        value = call(service)
    after = server.stats()
    return value, {name: after[name] - before[name] for name in before if isinstance(before[name], int)}


# Tokens


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_requests_carry_a_token_got_for_the_key():
    with LocalServer(protocol="0.38", api_key=KEY, client_config=TOKENS, token_lifetime=500) as server:
        with client(server) as service:
            assert service.create_lora_training_client("tinkex/tiny", rank=2).model_id
        assert server.stats()["tokens_issued"] == 1
        with Wire(server) as wire:
            assert wire.post("client/config", {}).status_code == 401
            assert wire.post("auth/token", {}).status_code == 401
            wire.http.headers["X-API-Key"] = KEY
            refused = wire.post("create_session", {})
            assert refused.status_code == 401
            assert "auth/token" in refused.json()["detail"]
            assert "WWW-Authenticate" not in refused.headers
            token = wire.ok("auth/token", {})["jwt"]
            found = claims(token)
            assert found["exp"] - found["iat"] == 500
            head, body, signature = token.split(".")
            for forged in (
                f"{head}.{body}.{signature[:-2]}AA",
                "a.b.c",
                f"{head}.{body}é.{signature}".encode(),
            ):
                wire.http.headers["X-API-Key"] = forged
                answer = wire.post("create_session", {})
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
            wire.http.headers["X-API-Key"] = token
            assert wire.session()


def test_a_token_ends_and_the_refusal_says_that_it_is_about_the_token():
    with (
        LocalServer(protocol="0.38", client_config=TOKENS, token_lifetime=0.5) as server,
        Wire(server) as wire,
    ):
        wire.http.headers["X-API-Key"] = wire.ok("auth/token", {})["jwt"]
        answers = until(lambda: [a for a in [wire.post("create_session", {})] if a.status_code == 401])
        refused = answers[0]
        assert "expired" in refused.json()["detail"]
        assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]


def test_a_client_gets_over_a_rejected_token_with_one_exchange():
    with LocalServer(protocol="both", client_config=TOKENS) as server, client(server) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        server.set_faults(Faults(reject_tokens=1))
        training.forward_backward([example()], "cross_entropy")
        assert server.stats()["tokens_issued"] == 2
        assert server.stats()["datums_done"] == 1


# Training


def test_chunks_in_any_order_are_computed_in_the_order_of_their_numbers(server, wire):
    model = wire.model()
    late = wire.send("optim_step", model, {"adam_params": {"learning_rate": 0.01}}, seq=3)
    middle = wire.backward(model, seq=2)
    body = {"request_id": late["request_id"]}
    assert wire.post("retrieve_future", body, **{"x-stainless-read-timeout": "0.2"}).status_code == 408
    first = wire.backward(model, [datum("something else")], seq=1)
    assert wire.result(late)["metrics"]["step:max"] == 1
    losses = [wire.result(promise)["metrics"]["loss:sum"] for promise in (first, middle)]

    serial = wire.model(number=1)
    again = [wire.backward(serial, [datum("something else")], seq=1), wire.backward(serial, seq=2)]
    assert [wire.result(promise)["metrics"]["loss:sum"] for promise in again] == losses


def test_a_batch_in_parallel_chunks_trains_as_the_same_batch_in_one(server):
    texts = [f"the quick brown fox number {index}" for index in range(7)]

    def trained(service):
        training = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
        losses = []
        for _ in range(3):
            batch = [example(text) for text in texts]
            losses.append(training.forward_backward(batch, "cross_entropy").metrics["loss:sum"])
            training.optim_step(ADAM)
        return losses

    losses, counted = result_of(server, trained)
    assert losses == sorted(losses, reverse=True)
    assert counted["protobuf_requests"] == 12
    with LocalServer() as plain, client(plain, protocol="0.7") as service:
        assert trained(service) == pytest.approx(losses, rel=1e-5)


def test_a_refused_number_is_not_used_up(wire):
    model = wire.model()
    assert wire.post("forward_backward", {"model_id": model, "seq_id": 1}).status_code == 422
    assert wire.result(wire.backward(model, seq=1))["metrics"]


def test_a_model_is_made_of_a_checkpoint_in_one_call(wire):
    session = wire.session()
    model = wire.model(session)
    wire.learn(model)
    path, loss = wire.save(model, "a"), wire.loss(model)
    body = {
        "session_id": session,
        "model_seq_id": 7,
        "path": path,
        "optimizer": True,
        "user_metadata": {"k": "v"},
    }
    promise = wire.ok("load_weights", body)
    assert promise["model_id"] == f"{session}:train:7"
    assert wire.ok("load_weights", body)["request_id"] == promise["request_id"]
    assert wire.result(promise) == {"path": path, "model_id": promise["model_id"], "type": "load_weights"}
    wire.seq = 0
    assert wire.loss(promise["model_id"]) == loss
    info = wire.ok("get_info", {"model_id": promise["model_id"]})
    assert (info["lora_rank"], info["optimizer_config"]) == (4, {"type": "adamw"})
    assert wire.get(f"training_runs/{session}:train:7").json()["user_metadata"] == {"k": "v"}
    refused = wire.post("load_weights", {**body, "model_seq_id": 8, "base_model": "tinkex/small"})
    assert refused.status_code == 400
    missing = wire.post("load_weights", {**body, "model_seq_id": 8, "path": path + "x"})
    assert missing.status_code == 404


def test_another_optimizer_is_refused_by_name(wire):
    dimuon = {"type": "dimuon", "learning_rate": 0.1}
    model = wire.model()
    asked = [
        ("optim_step", {"model_id": model, "seq_id": 1, "optimizer_params": dimuon}),
        (
            "create_model",
            {"session_id": wire.session(), "base_model": "tinkex/tiny", "optimizer_config": dimuon},
        ),
    ]
    for path, body in asked:
        refused = wire.post(path, body)
        assert refused.status_code == 400
        assert "'dimuon'" in refused.json()["detail"]


# Sampling


def test_all_samples_of_a_client_are_heard_of_at_one_place(server):
    def sampled(service):
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        futures = [sampler.submit_sample(PROMPT, 1, PARAMS) for _ in range(20)]
        return [len(future.result(timeout=60).sequences[0].tokens) for future in futures]

    before = server.stats()["requests"]
    lengths, counted = result_of(server, sampled)
    after = server.stats()["requests"]
    assert lengths == [4] * 20
    assert counted["samples_acknowledged"] >= 1
    assert after["/api/v1/retrieve_futures"]["200"] > before.get("/api/v1/retrieve_futures", {}).get("200", 0)


def test_completions_have_places_and_are_told_again_until_they_are_asked_no_more(wire):
    sampler = wire.sampler(wire.session())
    target = {"type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": 0}
    first = wire.sample(sampler, 0).json()["request_id"]
    told = wire.ok("retrieve_futures", {"target": target, "prev_cursor": 0})
    assert [one["request_id"] for one in told["completions"]] == [first]
    assert (told["cursor"], told["completions"][0]["state"]) == (1, "finished")
    assert told["completions"][0]["response_payload_uncompressed_size"] > 0
    broken = wire.sample(sampler, 1, sampling_params={"max_tokens": 4, "top_p": 0.0}).json()["request_id"]
    ack = {"target": target, "prev_cursor": 1, "timeout": 0.0, "retrieved_request_ids": [first]}
    told = until(lambda: next((a for a in [wire.ok("retrieve_futures", ack)] if a["completions"]), None))
    assert told == {"completions": [{"state": "failed", "request_id": broken}], "cursor": 2}
    # A result not read yet is kept, whatever is said of it.
    assert wire.poll({"request_id": first}).status_code == 200
    assert wire.ok("retrieve_futures", {**ack, "prev_cursor": 2}) == {"completions": [], "cursor": 2}
    assert wire.poll({"request_id": first}).status_code == 410
    # The samples of a copy are told to the copy alone.
    wire.sample(sampler, 3_000_000_000)
    copy = {**target, "cloned_sampler_id": 3}
    assert wire.ok("retrieve_futures", {"target": copy, "prev_cursor": 0})["cursor"] == 1
    assert wire.ok("retrieve_futures", {**ack, "prev_cursor": 2})["cursor"] == 2


def test_a_sample_is_cancelled_before_it_is_done(server, wire):
    sampler = wire.sampler(wire.session())
    server.set_faults(Faults(pause=60, pause_kind="sampling"))
    try:
        promise = wire.sample(sampler, 0).json()
        assert wire.post("cancel_future", promise).status_code == 200
        assert "cancelled" in wire.result(promise)["error"]
    finally:
        server.set_faults(Faults())
    assert server.stats()["samples_cancelled"] == 1
    done = wire.sample(sampler, 1).json()
    wire.result(done)
    assert wire.post("cancel_future", done).status_code == 200
    assert server.stats()["samples_cancelled"] == 1
    assert server.stats()["samples_done"] == server.stats()["samples_accepted"] - 2
    assert wire.post("cancel_future", {"request_id": "none"}).status_code == 404
    assert wire.post("cancel_future", wire.backward(wire.model())).status_code == 400


def test_copies_of_a_sampler_get_numbers_of_their_own(server, wire):
    sampler = wire.sampler(wire.session())
    joined = [wire.ok("join_sampling_session", {"sampling_session_id": sampler}) for _ in range(3)]
    assert [one["client_counter"] for one in joined] == [1, 2, 3]
    assert wire.post("join_sampling_session", {"sampling_session_id": "none"}).status_code == 404

    def copied(service):
        original = service.create_sampling_client(base_model="tinkex/tiny")
        copy = pickle.loads(pickle.dumps(original))  # noqa: S301
        (ours,), (theirs,) = (one.sample(PROMPT, 1, PARAMS).sequences for one in (copy, original))
        return (ours.tokens, ours.logprobs) == (theirs.tokens, theirs.logprobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_API_KEY", KEY)
        same, counted = result_of(server, copied)
    assert same
    assert counted["dedupe_hits"] == 0
    assert server.stats()["requests"]["/api/v1/join_sampling_session"]["200"] == 4


# Sessions and payment


def test_a_finished_session_beats_no_more(server, wire):
    _, counted = result_of(server, lambda service: service.create_lora_training_client("tinkex/tiny", rank=2))
    assert counted["sessions_finished"] == 1
    session = wire.session()
    ending = {"reason": {"type": "errored"}, "detail": None}
    assert wire.post("session_heartbeat", {"session_id": session}).status_code == 200
    assert wire.post(f"sessions/{session}/finish", ending).status_code == 200
    assert wire.post(f"sessions/{session}/finish", {"reason": {"type": "success"}}).status_code == 200
    assert wire.post("session_heartbeat", {"session_id": session}).status_code == 410
    assert wire.post(f"sessions/{session}/finish", {"reason": {"type": "bored"}}).status_code == 422
    assert wire.post("sessions/none/finish", ending).status_code == 404


def test_an_unpaid_account_waits_until_it_is_paid(wire, server):
    sampler, model = wire.sampler(wire.session()), wire.model()
    server.set_faults(Faults(unpaid=60))
    assert wire.sample(sampler, 0).status_code == 402
    assert wire.post("optim_step", {"model_id": model, "seq_id": 1}).status_code == 402
    assert wire.get("sessions").status_code == 200
    server.set_faults(Faults(unpaid=0.3))
    until(lambda: wire.sample(sampler, 0).status_code == 200)
    server.set_faults(Faults(fail_first={"asample": [402, 402]}))
    assert [wire.sample(sampler, number).status_code for number in (1, 1, 1)] == [402, 402, 200]
    server.set_faults(Faults())


# Checkpoints


def test_a_save_keeps_its_labels_and_its_end(wire):
    model = wire.model()
    asked = {"path": "a", "ttl_seconds": 3600, "user_metadata": {"k": "v"}, "overwrite": False}
    path = wire.result(wire.send("save_weights", model, asked))["path"]
    (listed,) = wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
    assert listed["user_metadata"] == {"k": "v"}
    assert listed["expires_at"] > listed["time"]
    refused = wire.result(wire.send("save_weights", model, asked))
    assert "weights/a" in refused["error"]
    # A client of level 0.7.0 does not say, and its newest save has the name.
    assert wire.save(model, "a") == path
    ttl = f"{wire.root}/api/v1/training_runs/{model}/checkpoints/weights/a/ttl"
    assert requests.put(ttl, json={"ttl_seconds": 7200}, timeout=60).status_code == 200
    assert wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"][0]["expires_at"]
    assert requests.put(ttl, json={"ttl_seconds": None}, timeout=60).status_code == 200
    assert wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"][0]["expires_at"] is None
    short = requests.put(ttl, json={"ttl_seconds": 60}, timeout=60)
    assert short.status_code == 422
    assert "3600" in short.json()["detail"]


def test_a_save_is_gone_when_its_time_is_over(tmp_path):
    with LocalServer(protocol="both", data=str(tmp_path)) as server, Wire(server) as wire:
        model = wire.model()
        for name in ("short", "long"):
            wire.result(wire.send("save_weights", model, {"path": name, "ttl_seconds": 3600}))
    for file in tmp_path.glob("runs/*/weights/*.json"):
        record = json.loads(file.read_bytes())
        if record["name"] == "short":
            file.write_text(json.dumps({**record, "expires_at": "2020-01-01T00:00:00.000000Z"}))
    with LocalServer(protocol="both", data=str(tmp_path)) as server, Wire(server) as wire:
        (left,) = wire.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
        assert left["checkpoint_id"] == "weights/long"
        assert (
            wire.post("weights_info", {"tinker_path": f"tinker://{model}/weights/short"}).status_code == 404
        )


def test_external_weights_are_files_behind_links(wire):
    model = wire.model()
    saved = wire.result(wire.send("save_weights_external", model, {"path": "out"}))
    assert saved["path"] == f"tinker://{model}/external_weights/out"
    assert saved["size_bytes"] > 0
    links = wire.get(f"training_runs/{model}/checkpoints/external_weights/out/external_weights_urls").json()
    (url,) = links["urls"].values()
    assert requests.get(url, timeout=60).content[:2] == b"\x1f\x8b"
    refused = wire.post(
        "save_weights_external",
        {"model_id": model, "seq_id": 9, "path": "o", "age_encryption_recipients": ["age1"]},
    )
    assert refused.status_code == 422


def test_weights_are_copied_into_another_run(wire):
    session = wire.session()
    model = wire.model(session)
    wire.learn(model)
    path, loss = wire.save(model, "a"), wire.loss(model)
    copies = [
        wire.ok("copy_weights", {"source_path": path, **to})["tinker_path"]
        for to in ({"destination_project_id": "p"}, {"session_id": session, "model_seq_id": 5})
    ]
    assert copies[1] == f"tinker://{session}:train:5/weights/a"
    for number, copy in enumerate(copies, 20):
        body = {"session_id": session, "model_seq_id": number, "path": copy, "optimizer": False}
        made = wire.result(wire.ok("load_weights", body))["model_id"]
        wire.seq = 0
        assert wire.loss(made) == loss
    assert wire.post("copy_weights", {"source_path": path}).status_code == 422


def test_the_server_ends_while_a_poll_for_completions_is_held():
    with LocalServer(protocol="0.38") as server, Wire(server) as wire:
        sampler = wire.sampler(wire.session())
        target = {"type": "sampling_session", "sampling_session_id": sampler}

        def poll():
            # The process may be gone before the answer is.
            with contextlib.suppress(requests.ConnectionError):
                wire.post("retrieve_futures", {"target": target, "prev_cursor": 0})

        polling = threading.Thread(target=poll)
        polling.start()
        until(lambda: server.stats()["connections"] >= 2)
        started = time.monotonic()
        server.close()
        polling.join(10)
    assert not polling.is_alive()
    assert time.monotonic() - started < 4.5


def test_the_errors_of_the_client_are_those_of_the_protocol(server):
    with client(server) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        with pytest.raises(errors.RequestFailedError, match="logprobs"):
            training.forward_backward([example()], "ppo")
        assert training.forward_backward([example()], "cross_entropy").metrics


# Scores asked for beside samples


def scored(wire, **asked):
    sampler = wire.sampler(wire.session())
    return wire.result(wire.sample(sampler, 0, **asked).json())


def test_the_rivals_of_each_drawn_token_are_told(wire):
    (sequence,) = scored(wire, topk_sample_logprobs=3)["sequences"]
    assert [len(row) for row in sequence["topk_sampled_logprobs"]] == [3] * len(sequence["tokens"])
    for token, logprob, row in zip(
        sequence["tokens"], sequence["logprobs"], sequence["topk_sampled_logprobs"]
    ):
        assert row == sorted(row, key=lambda cell: -cell[1])
        assert [logprob] == [value for id, value in row if id == token] or logprob < row[-1][1]


def test_targets_and_alternatives_have_the_log_probabilities_of_their_places(wire):
    prompt = list(b"hello")
    targets = {"data": [7, -1, *prompt[2:3], 7, 7, -1, *prompt[4:5], 9], "dtype": "int64", "shape": [4, 2]}
    reply = scored(
        wire,
        prompt_logprobs=True,
        topk_prompt_logprobs=258,
        target_prompt_logprobs=targets,
        prompt_alt_tokens_k=3,
    )
    table = [dict(row) for row in reply["topk_prompt_logprobs"][1:]]
    found = reply["target_prompt_logprobs"]
    assert found["shape"] == [4, 2]
    expected = [
        0.0 if token == -1 else table[place // 2][token] for place, token in enumerate(targets["data"])
    ]
    assert found["data"] == pytest.approx(expected)
    assert found["data"][2] == pytest.approx(reply["prompt_logprobs"][2])
    drawn = reply["prompt_alt_tokens"]
    assert drawn["tokens"]["shape"] == drawn["logprobs"]["shape"] == [4, 3]
    told = [table[place // 3][token] for place, token in enumerate(drawn["tokens"]["data"])]
    assert drawn["logprobs"]["data"] == pytest.approx(told)

    sparse = {
        "data": [prompt[2], prompt[4]],
        "dtype": "int64",
        "shape": [4, 2],
        "sparse_crow_indices": [0, 0, 1, 1, 2],
        "sparse_col_indices": [1, 0],
    }
    listed = scored(wire, target_prompt_logprobs=sparse)["target_prompt_logprobs"]
    assert listed["data"] == pytest.approx([reply["prompt_logprobs"][2], reply["prompt_logprobs"][4]])
    assert listed["sparse_crow_indices"] == [0, 0, 1, 1, 2]


def test_only_the_last_of_the_prompt_is_scored(wire):
    reply = scored(wire, prompt_logprobs=True, topk_prompt_logprobs=2, prompt_logprobs_last_n=2)
    for name in ("prompt_logprobs", "topk_prompt_logprobs"):
        assert [value is None for value in reply[name]] == [True, True, True, False, False]


def test_no_stops_at_all_are_no_stop_at_the_end_of_text(wire):
    params = {"max_tokens": 40, "seed": 5, "temperature": 3.0, "stop": []}
    body = {"sampling_params": params, "num_samples": 64}
    assert {one["stop_reason"] for one in scored(wire, **body)["sequences"]} == {"length"}
    del params["stop"]
    assert "stop" in {one["stop_reason"] for one in scored(wire, **body)["sequences"]}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt_logprobs_last_n": 2}, "needs prompt_logprobs"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 5}, "from 1 to 4"),
        ({"topk_sample_logprobs": 1000}, "topk_sample_logprobs"),
        ({"prompt_alt_tokens_k": 1000}, "prompt_alt_tokens_k"),
        ({"target_prompt_logprobs": {"data": [1], "dtype": "int64", "shape": [1]}}, r"\[4, K\]"),
        ({"target_prompt_logprobs": {"data": [1], "dtype": "int64", "shape": [4, 1]}}, "1 numbers"),
        ({"target_prompt_logprobs": {"data": ["x"] * 4, "dtype": "int64", "shape": [4, 1]}}, "token ids"),
        ({"target_prompt_logprobs": {"data": [-2] * 4, "dtype": "int64", "shape": [4, 1]}}, "-2"),
    ],
)
def test_scores_that_make_no_sense_are_refused_by_name(wire, asked, words):
    assert re.search(words, scored(wire, **asked)["error"])


# Starting it


@pytest.mark.parametrize("command", [["tinkex_sync", "serve"], ["tinkex_sync.local"]])
def test_the_command_line_serves_what_it_is_told_to(command):
    flags = [
        "--protocol",
        "0.38",
        "--client-config",
        "fwdbwd_max_chunk_len=7",
        "--client-config",
        "pjwt_auth_enabled=true",
    ]
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", *command, *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        (url,) = re.findall(r"http://\S+", running.stdout.readline())
        config = requests.post(f"{url}/api/v1/client/config", json={}, timeout=30).json()
        assert (config["fwdbwd_max_chunk_len"], config["pjwt_auth_enabled"]) == (7, True)
        assert requests.post(f"{url}/api/v1/auth/token", json={}, timeout=30).json()["jwt"]
    finally:
        running.terminate()
        running.communicate(timeout=30)


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--protocol", "0.8"], "0.8"), (["--client-config", "fwdbwd=1"], "unknown key 'fwdbwd'")],
)
def test_a_wrong_flag_of_serve_is_a_usage_error(flags, words):
    done = subprocess.run(
        [sys.executable, "-m", "tinkex_sync", "serve", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_protobuf_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['google'] = None\n"
        "from tinkex_sync.local import LocalServer\n"
        "LocalServer(protocol='both').start()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "MissingExtraError: protocol both needs protobuf" in done.stderr
    assert "[local,proto]" in done.stderr
