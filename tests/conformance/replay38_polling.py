"""Replays of polling in protocol 0.38.0: single server futures, all futures of a sampler, and large results."""

import base64
import re
import threading
import time
from typing import Any, Dict, List, Optional

import pytest
from scripted_server import Answer, Request, ScriptedServer, SteppedClock, bare_session

from tinkex_sync import errors, hookimpl, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.plugins.events import Source
from tinkex_sync.polling.poller import ServerFuture, poll

from .registry import error_class, no_excuse, not_understood, only, replay38

KINDS = {
    "CreateModel": "create_model",
    "ForwardBackward": "forward_backward",
    "Forward": "forward",
    "OptimStep": "optim_step",
    "Sample": "asample",
    "SaveWeights": "save_weights",
    "LoadWeights": "load_weights",
    "SaveWeightsForSampler": "save_weights_for_sampler",
    "UnloadModel": "unload_model",
}
CONFIG = {"fwdbwd_max_chunk_len": 1024}


class ChangeRecorder:
    """A plugin that records the changes of the queue state."""

    def __init__(self) -> None:
        self.changes: List[List[Any]] = []

    @hookimpl
    def tinkex_queue_state_changed(self, state: str, reason: Any, reason_source: Optional[str]) -> None:
        self.changes.append([state, reason if reason_source == "server" else None])


def answer_of(spec: Dict[str, Any]) -> Answer:
    only(spec, "status", "headers", "body", "drop_connection")
    headers, body = spec.get("headers", {}), spec.get("body")
    if isinstance(body, dict) and "$protobuf_b64" in body:
        return Answer(spec["status"], packed=base64.b64decode(body["$protobuf_b64"]), headers=headers)
    if isinstance(body, str):
        return Answer(spec["status"], text=body, headers=headers)
    return Answer(spec["status"], body, headers=headers, drop=spec.get("drop_connection", False))


def summary(result: Any) -> Dict[str, Any]:
    if isinstance(result, types.ForwardBackwardOutput):
        return {"metrics": result.metrics, "n": len(result.loss_fn_outputs)}
    if isinstance(result, types.SampleResponse):
        return {"tokens": [one.tokens for one in result.sequences]}
    return {"metrics": result.metrics}


@replay38("futures")
def futures(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "expected_type", "request_type", "observer", "server")
    expected = only(case["expected"], "returned", "exception", "mro", "cause", "observer_calls", "sleeps_s", "polls")
    # Row 1: JSON is accepted instead of protobuf. Row 2: a 425 means that a checkpoint is still being written.
    no_excuse(row, 1, 2)
    kind = KINDS.get(given["request_type"]) or not_understood(given["request_type"])
    if given["expected_type"] in ("ForwardBackwardOutput", "SampleResponse"):
        pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")
    answers = [answer_of(spec) for spec in given["server"]]
    states, outcome = ChangeRecorder(), None
    with bare_session(SteppedClock(), (states,), protocol="0.38") as (server, session):
        server.script("retrieve_future", *answers)
        # The last response repeats, except in row 2, where a result follows.
        server.defaults["retrieve_future"] = Answer(body={"metrics": {"a": 1.0}}) if row == 2 else answers[-1]
        call = session.begin(Source("training", "model-1", "sess-1"), kind)
        from tinkex_sync.polling.queue_states import QueueStates

        queue_states = QueueStates(session.observers, session.clock) if given["observer"] else None
        try:
            outcome = poll(session, ServerFuture("rf-1", kind, 0.1), call, states=queue_states)
        except errors.TinkexError as error:
            outcome = error
        session.end(call)
        polls = server.sent("retrieve_future")
    check_polls(polls, expected["polls"])
    if row == 1:
        assert isinstance(outcome, (types.ForwardBackwardOutput, types.SampleResponse))
        return
    if row == 2:
        assert isinstance(outcome, types.OptimStepResponse) and len(polls) > len(answers)
        return
    assert_each_change_once(states.changes, expected["observer_calls"], failed=isinstance(outcome, Exception))
    if "returned" in expected:
        assert summary(outcome) == expected["returned"]
        return
    name = expected["cause"] if expected["exception"] == "ValueError" else expected["exception"]
    # The official client wraps most errors in its ValueError. A built-in cause means that the body is unreadable.
    kind = error_class(name or "ValueError")
    if not issubclass(kind, errors.TinkexError):
        kind = errors.APIResponseValidationError
    assert isinstance(outcome, kind), repr(outcome)


def check_polls(polls: List[Request], recorded: List[Dict[str, Any]]) -> None:
    for ours, theirs in zip(polls, recorded):
        assert ours.body == theirs["body"]
        assert ours.headers["x-tinker-request-type"] == theirs["request_type"]
        assert ("x-tinker-create-promise-roundtrip-time" in ours.headers) == theirs["has_roundtrip_time"]
        accepts = ours.headers["accept"]
        assert accepts in (theirs["accept"], f"{theirs['accept']}, application/json")
    assert polls[0].headers["x-tinker-request-iteration"] == "0"


def assert_each_change_once(ours: List[List[Any]], recorded: List[List[Any]], failed: bool) -> None:
    """Assert that plugins received each recorded change once. A client is active before its first report."""
    changes = [state for place, state in enumerate(recorded) if place == 0 or state != recorded[place - 1]]
    for events in (ours, changes):
        if events and events[0] == ["active", None]:
            events.pop(0)
    if failed and changes and changes[-1] == ["active", None]:
        changes.pop()
    assert ours == changes


# Several samples of one session


class Samples:
    """A server that returns numbered futures, and a script of the responses to polls for all of them."""

    def __init__(self, server: ScriptedServer, script: str, count: int) -> None:
        self._lock = threading.Condition()
        self._submitted = 0
        self._count = count
        self.failed = "failed completion" in script
        sizes = {"completion without size": None, "size 0": 0, "completions as": 10}
        self._size = next((size for words, size in sizes.items() if words in script), 100)
        server.defaults["asample"] = self.submit
        server.defaults["retrieve_future"] = self.result
        server.script("retrieve_futures", *self.first(script))
        server.defaults["retrieve_futures"] = self.poll

    @staticmethod
    def first(script: str) -> List[Answer]:
        empty = Answer(body={"completions": [], "cursor": 0})
        if script.startswith("two empty polls"):
            return [empty, empty]
        refused = re.match(r"(three |four )?(\d{3})\b", script)
        if refused:
            status = int(refused[2])
            times = {"three ": 3, "four ": 4, None: 1}[refused[1]]
            return [Answer(status, {"detail": "x"})] * times
        if "unknown state" in script:
            return [Answer(body={"completions": [{"state": "odd", "request_id": "req-1"}], "cursor": 5})]
        if not any(words in script for words in ("completion", "size 0")):
            return not_understood(f"script {script!r}")
        return []

    def submit(self, request: Request) -> Answer:
        with self._lock:
            self._submitted += 1
            self._lock.notify_all()
            return Answer(body={"request_id": f"req-{self._submitted}"})

    def poll(self, request: Request) -> Answer:
        with self._lock:
            if "timeout" not in request.body:
                self._lock.wait_for(lambda: self._submitted == self._count, 5.0)
            new = [f"req-{one}" for one in range(request.body["prev_cursor"] + 1, self._submitted + 1)]
            cursor = self._submitted
        done: List[Dict[str, Any]] = []
        for name in new:
            one: Dict[str, Any] = {"state": "failed" if self.failed else "finished", "request_id": name}
            if self._size is not None and not self.failed:
                one["response_payload_uncompressed_size"] = self._size
            done.append(one)
        return Answer(body={"completions": done, "cursor": cursor})

    def result(self, request: Request) -> Answer:
        if self.failed:
            return Answer(body={"error": "bad", "category": "user"})
        sequence = {"tokens": [7, 8], "stop_reason": "stop"}
        return Answer(body={"type": "sample", "sequences": [sequence]})


@replay38("bulk_futures")
def bulk_futures(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "samples", "script")
    expected = only(case["expected"], "results", "requests", "sleeps_s")
    no_excuse(row)
    with bare_session(PauseRecorder(), protocol="auto") as (server, session):
        session.clock.closing = session.closing  # type: ignore[attr-defined]
        server.script("client/config", Answer(body={**CONFIG, "sample_use_retrieve_futures": True}))
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        session.open()
        samples = Samples(server, given["script"], given["samples"])
        sampler = SamplingClient(session, "sess-1:sample:0")
        prompt, one = types.ModelInput.from_ints([1, 2]), types.SamplingParams(max_tokens=2)
        waiting = [sampler.submit_sample(prompt, 1, one) for _ in range(given["samples"])]
        outcomes = [future.exception(30) or future.result() for future in waiting]
        bulk = sampler._context.bulk
        assert bulk is not None
        ends = time.monotonic() + 10.0
        while bulk._running and time.monotonic() < ends:
            threading.Event().wait(0.01)
        polls, fetches = server.sent("retrieve_futures"), server.sent("retrieve_future")
        pauses = [seconds for seconds in session.clock.pauses_taken if seconds >= 0.9]  # type: ignore[attr-defined]
    for outcome, theirs in zip(outcomes, expected["results"]):
        if isinstance(theirs, dict):
            assert isinstance(outcome, error_class(theirs["exception"])), repr(outcome)
        else:
            assert [sequence.tokens for sequence in outcome.sequences] == theirs
    assert pauses == expected["sleeps_s"]
    recorded = expected["requests"]
    reference = [one["body"]["allow_metadata_only"] for one in recorded if one["path"].endswith("retrieve_future")]
    assert [one.body["allow_metadata_only"] for one in fetches] == reference
    for request in polls:
        assert request.body["target"] == recorded[0]["body"]["target"]
        assert set(request.body) <= {"target", "prev_cursor", "timeout", "retrieved_request_ids"}
        assert request.body.get("timeout", 0.0) == 0.0
        assert request.body["retrieved_request_ids"] == sorted(request.body["retrieved_request_ids"])
    acknowledged = {name for request in polls for name in request.body["retrieved_request_ids"]}
    assert acknowledged == ({f"req-{one + 1}" for one in range(given["samples"])} if fetches else set())
    assert samples is not None


class PauseRecorder(Clock):
    """The system's clock, except for the pauses of the bulk poller, which are recorded and end immediately."""

    def __init__(self) -> None:
        self.pauses_taken: List[float] = []
        #: The event on which pauses wait. Idle threads wait on other events.
        self.closing: Optional[threading.Event] = None

    def wait(self, event: threading.Event, timeout: Optional[float] = None) -> bool:
        if event is self.closing and timeout in (1.0, 5.0):
            self.pauses_taken.append(timeout)
            return event.is_set()
        return super().wait(event, timeout)


@replay38("budgeted_fetch")
def budgeted_fetch(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "inflight_response_bytes_semaphore_size", "payload_sizes", "fetch_seconds")
    starts = only(case["expected"], "fetch_start_times_s")["fetch_start_times_s"]
    no_excuse(row)
    sizes, lasts = given["payload_sizes"], given["fetch_seconds"]
    limit = given["inflight_response_bytes_semaphore_size"]
    with bare_session(protocol="auto") as (server, session):
        config = {**CONFIG, "inflight_response_bytes_semaphore_size": limit}
        server.script("client/config", Answer(body=config))
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        session.open()
        peeked, held, began = threading.Barrier(len(sizes)), threading.Lock(), []

        def result(request: Request) -> Answer:
            number = int(request.body["request_id"].partition("-")[2])
            if request.body["allow_metadata_only"]:
                size = sizes[number]
                body = {"status": "complete_metadata", "response_payload_size": size}
                # All sizes are announced before the first result is fetched. The fetches then start in order.
                return Answer(body=body, hold=lambda: (peeked.wait(20), threading.Event().wait(0.02 * number)))
            with held:
                began.append(time.monotonic())
            return Answer(body={"metrics": {}}, hold=lambda: threading.Event().wait(lasts))

        server.defaults["retrieve_future"] = result

        def fetch(number: int) -> None:
            call = session.begin(Source("training", "model-1", "sess-1"), "optim_step")
            poll(session, ServerFuture(f"rf-{number}", "optim_step"), call)
            session.end(call)

        threads = [threading.Thread(target=fetch, args=(number,)) for number in range(len(sizes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    # The number of concurrent fetches shows what the budget admitted, at any speed of the machine.
    ours = sorted(began)
    assert len(ours) == len(starts)
    for place, theirs in enumerate(starts):
        waves = round(theirs / lasts)
        assert ours[place] - ours[0] >= waves * lasts - 0.1
        assert ours[place] - ours[0] <= waves * lasts + 2.0
