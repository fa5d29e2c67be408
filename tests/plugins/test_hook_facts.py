"""The specifications state the thread, the policies, the outcomes and the states that occur in real runs."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, Set

import pytest
from hook_examples import EVENTS
from scripted_server import Answer, ScriptedServer

from tinkex_sync import BadRequestError, Config, DeadlineExceeded, RequestFailedError, ServiceClient, types
from tinkex_sync.concurrency.clock import ScaledClock
from tinkex_sync.plugins.hookspecs import SPECS
from tinkex_sync.testing import HookRecorder

SPEED = 200.0
MODEL = Answer(body={"type": "create_model", "model_id": "m"})
PAUSED = Answer(408, {"queue_state": "paused_capacity"})
FULL = {"queue_state": "paused_rate_limit", "queue_state_reason": "full"}
UNAVAILABLE = Answer(503, {"detail": "unavailable"})
DATUM = types.Datum(model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})
LOSS = Answer(body={"loss_fn_output_type": "x", "loss_fn_outputs": [{}], "metrics": {}, "type": "forward_backward"})


def documented(hook: str, argument: str) -> Set[str]:
    """Return the quoted values in the description of an argument."""
    text = inspect.getdoc(SPECS["tinkex_" + hook]) or ""
    match = re.search(rf"^    {argument}: (.*(?:\n        .+)*)", text, re.MULTILINE)
    assert match, f"{hook} does not describe {argument}"
    return set(re.findall(r'"(\w+)"', match[1]))


def documented_roles(hook: str) -> Set[str]:
    """Return the roles in the first sentence of the paragraph about threads."""
    thread = (inspect.getdoc(SPECS["tinkex_" + hook]) or "").split("\n\n")[1]
    sentence = thread.split(".")[0]
    return {role for role in ("caller", "lane", "worker", "heartbeat") if role in sentence}


def role(thread: str) -> str:
    """Return the documented role of a thread of this name."""
    for prefix, name in (("tinkex-lane", "lane"), ("tinkex-heartbeat", "heartbeat"), ("tinkex-", "worker")):
        if thread.startswith(prefix):
            return name
    return "caller"


class Run:
    """A client of a scripted server, on a fast clock, whose events are recorded."""

    def __init__(self, server: ScriptedServer, recorder: HookRecorder) -> None:
        self.server = server
        self.clock = ScaledClock(SPEED)
        config = Config(base_url=server.base_url, api_key="key", clock=self.clock, max_chunk_datums=1)
        self.service = ServiceClient(config=config, plugins=[recorder], load_plugins=False, strict_plugins=True)

    def poll_responses(self, *answers: Answer) -> None:
        self.server.script("retrieve_future", *answers)


def hold_response(run: Run, seconds: float) -> Callable[[], object]:
    """Return a function that holds a response for seconds of the fast clock, or until the server stops."""
    return lambda: run.server.stopping.wait(seconds / SPEED)


def train(run: Run) -> None:
    run.poll_responses(MODEL)
    training = run.service.create_lora_training_client("m")
    run.server.script("forward_backward", UNAVAILABLE, Answer(402, {"detail": "top up"}))
    run.poll_responses(LOSS, LOSS)
    training.forward_backward([DATUM] * 2, "cross_entropy")
    still_paused = Answer(408, PAUSED.body, hold=hold_response(run, 70.0))
    run.poll_responses(PAUSED, still_paused, UNAVAILABLE, Answer(body={"metrics": {}}))
    training.optim_step(types.AdamParams())
    run.poll_responses(Answer(body={"error": "bad input", "category": "user"}))
    with pytest.raises(RequestFailedError):
        training.optim_step(types.AdamParams())
    run.poll_responses(Answer(body={"path": "tinker://m/weights/a"}))
    training.save_state("a", ttl_seconds=60)
    run.poll_responses(Answer(body={"path": "tinker://m/sampler_weights/b"}), Answer(body={"path": "s3://m/c"}))
    training.save_weights_for_sampler("b")
    training.save_weights_external("c")
    run.server.script("forward_backward", Answer(400, {"detail": "bad"}))
    with pytest.raises(BadRequestError):
        training.train_step([DATUM], "cross_entropy", types.AdamParams())


def sample(run: Run) -> None:
    run.server.defaults["retrieve_future"] = Answer(body={"type": "sample", "sequences": []})
    sampler = run.service.create_sampling_client(base_model="m")
    prompt, params = types.ModelInput.from_ints([1]), types.SamplingParams(max_tokens=1)
    refusals = (
        Answer(429, FULL),
        # Each within the time limit of a submission; together longer than the time until a state is repeated.
        Answer(429, FULL, hold=hold_response(run, 40.0)),
        Answer(429, FULL, hold=hold_response(run, 40.0)),
        Answer(429, {"queue_state": "new"}),
        UNAVAILABLE,
        Answer(402, {"detail": "top up"}),
    )
    for submitted in (False, True):
        run.server.script("asample", *refusals)
        run.poll_responses(PAUSED, UNAVAILABLE)
        if submitted:
            sampler.submit_sample(prompt, 1, params).result(30.0)
        else:
            sampler.sample(prompt, 1, params)
    run.poll_responses(Answer(408, {}, hold=hold_response(run, 80.0)))
    with pytest.raises(DeadlineExceeded):
        sampler.sample(prompt, 1, params, timeout=40.0)
    run.service.create_rest_client()
    unfinished = run.service.submit_create_sampling_client(base_model="m").result(30.0)
    run.server.defaults["retrieve_future"] = PAUSED
    unfinished.submit_sample(prompt, 1, params)


@pytest.fixture(scope="module")
def recorder() -> Iterator[HookRecorder]:
    recorder = HookRecorder()
    with ScriptedServer() as server:
        server.script("client/config", UNAVAILABLE)
        server.defaults["client/config"] = Answer(body={})
        server.script("create_session", UNAVAILABLE)
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.defaults["create_model"] = Answer(body={"request_id": "r-model"})
        server.defaults["create_sampling_session"] = Answer(body={"sampling_session_id": "s-1"})
        for endpoint in (
            *("forward_backward", "optim_step", "asample"),
            *("save_weights", "save_weights_for_sampler", "save_weights_external"),
        ):
            server.defaults[endpoint] = Answer(body={"request_id": f"r-{endpoint}"})
        server.defaults["session_heartbeat"] = UNAVAILABLE
        run = Run(server, recorder)
        with run.service:
            train(run)
            sample(run)
            recorder.wait_for("heartbeat_missed")
    yield recorder


@pytest.mark.parametrize("hook", EVENTS)
def test_hook_is_called_in_the_documented_threads(recorder: HookRecorder, hook: str) -> None:
    observed = {role(call.thread) for call in recorder.calls if call.hook == hook}
    assert observed == documented_roles(hook)


@pytest.mark.parametrize(
    ("hook", "argument"),
    [
        ("call_finished", "outcome"),
        ("checkpoint_saved", "kind"),
        ("future_resolved", "outcome"),
        ("retry_scheduled", "policy"),
        ("queue_state_changed", "state"),
        ("queue_state_changed", "reason_source"),
        ("queue_state_repeated", "reason_source"),
    ],
)
def test_documented_values_are_those_that_occur(recorder: HookRecorder, hook: str, argument: str) -> None:
    observed = {event[argument] for event in recorder.of(hook)}
    assert observed - {None} == documented(hook, argument)


def test_commands_are_registered_in_the_main_thread(tmp_path: Path) -> None:
    (tmp_path / "command_plugin.py").write_text(
        "import threading\n"
        "from tinkex_sync import hookimpl\n\n"
        "@hookimpl\n"
        "def tinkex_register_commands(cli):\n"
        "    print('registered in', threading.current_thread() is threading.main_thread())\n"
    )
    environment = {**os.environ, "TINKEX_SYNC_PLUGINS": "command_plugin"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "tinkex_sync", "--help"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert "registered in True" in done.stdout


def test_every_call_that_started_has_ended_once(recorder: HookRecorder) -> None:
    started = [event["call_id"] for event in recorder.of("call_started")]
    assert sorted(started) == sorted(event["call_id"] for event in recorder.of("call_finished"))


def test_facts_of_results_have_no_payload(recorder: HookRecorder) -> None:
    facts = {event["operation"]: event["facts"] for event in recorder.of("call_finished") if event["outcome"] == "ok"}
    assert facts["forward_backward"] == {"loss_fn": "cross_entropy", "datums": 2, "tokens": 4, "metrics": {}}
    assert facts["optim_step"] == {"metrics": {}, "step": 1}
    assert facts["sample"] == {"prompt_tokens": 1, "completion_tokens": 0, "stop_reasons": ()}
    assert facts["save_state"] == {}


def test_requests_have_routes_without_ids(recorder: HookRecorder) -> None:
    requests = recorder.of("request_finished")
    assert {event["route"] for event in requests} >= {"/api/v1/asample", "/api/v1/retrieve_future"}
    assert all(event["host"].startswith("127.0.0.1:") for event in requests)
    assert {event["http_version"] for event in requests if event["status"]} <= {"1.1", "1.0"}


def test_clients_name_the_call_that_made_them(recorder: HookRecorder) -> None:
    created = recorder.of("client_created")
    assert {event["source"].kind for event in created} == {"training", "sampling", "rest"}
    calls = {event["call_id"]: event["operation"] for event in recorder.of("call_started")}
    assert all(calls[event["call_id"]] == event["operation"] for event in created if event["call_id"])
    [training] = [event for event in created if event["source"].kind == "training"]
    assert (training["base_model"], training["rank"], training["model_path"]) == ("m", 32, None)
