"""Replay of sampling dispatch: times, sequence numbers and concurrency of the requests."""

import re
import threading
import time
from typing import Any, Dict, List, Optional

from polling_rules import expected_polls
from scripted_server import Answer, HoldUntilQuiet, Request, ScriptedServer, SteppedClock, bare_session

from tinkex_sync import SamplingClient, types
from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.errors import TinkexError
from tinkex_sync.protocol.byte_estimates import model_input_bytes
from tinkex_sync.session import Session

from .registry import no_excuse, not_understood, only, replay

PROMPT = ("prompt_tokens", "asset_location_chars")
LOAD = ("backoff_seen_recently", "asample_takes_s", "estimated_bytes_each", "limit")
SENDS = ("asample_times_s", "seq_id_offsets", "idempotency_keys_distinct", "polls", "result", "note")
GOOD = Answer(body={"type": "sample", "sequences": []})
#: Tolerance of the recorded times in seconds.
SLACK = 0.3


@replay("sampling_dispatch")
def sampling_dispatch(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "server", "retrieve_future", "parallel", *PROMPT, *LOAD)
    expected = only(case["expected"], *SENDS, "max_concurrent_asample", "approx_seconds")
    no_excuse(row, 3, 4, 6, 22, 23, 26)
    if "max_concurrent_asample" in expected:
        concurrency(given, expected, row)
        return
    parallel = given.get("parallel", 1)
    clock = Clock() if parallel > 1 else SteppedClock()
    answers = answers_of(given.get("server", []))
    polls = [poll_answer(spec) for spec in given.get("retrieve_future", [])]
    with bare_session(clock) as (server, session):
        quiet = HoldUntilQuiet(server, 0.15, parallel)
        for number, answer in enumerate(answers + [Answer()] * max(0, parallel - len(answers))):
            if parallel > 1 and number < parallel:
                answer.hold = quiet
        server.script("asample", *(promising(answer) for answer in answers))
        server.defaults["asample"] = promising(Answer(hold=quiet if parallel > len(answers) else None))
        server.script("retrieve_future", *polls)
        server.defaults["retrieve_future"] = GOOD
        started = clock.time()
        outcomes = sample(session, prompt_of(given), parallel)
        sent, polled = server.sent("asample"), server.sent("retrieve_future")
        arrived = list(server.requests)
    times = sorted(request.time - started for request in sent)
    if row not in (4, 22, 23):
        assert len(times) == len(expected["asample_times_s"])
        # With the system's clock, requests may be late on a busy machine. They are never early.
        later = 10.0 if row == 26 else SLACK if parallel == 1 else 2.0
        for ours, theirs in zip(times, expected["asample_times_s"]):
            assert theirs - SLACK <= ours <= theirs + later
        assert len(polled) == expected["polls"]
    check_numbers(sent, arrived, parallel, expected if row is None else None)
    for outcome in outcomes:
        if row is None or row in (3, 26):
            check_result(outcome, expected["result"])
    if row in (4, 6, 22):
        check_polls(outcomes[0], polls, polled)
    if row == 23:
        check_row_23(outcomes[0], answers, sent)


def answers_of(spec: Any) -> List[Answer]:
    if isinstance(spec, str):
        found = re.fullmatch(r"first (?:(\d+) )?(\d{3})(?:s)?, rest 200", spec)
        if not found:
            return not_understood(f"the server {spec!r}")
        return [answer_of(int(found[2])) for _ in range(int(found[1] or 1))]
    return [answer_of(status) for status in spec]


def answer_of(spec: Any) -> Answer:
    if isinstance(spec, dict):
        only(spec, "status", "headers", "body")
        return Answer(spec["status"], spec.get("body"), headers=spec.get("headers", {}))
    assert isinstance(spec, int)
    return Answer(spec, {"detail": "x"} if spec >= 300 else None)


def poll_answer(spec: Any) -> Answer:
    if isinstance(spec, int):
        return GOOD if 200 <= spec < 300 else Answer(spec, {})
    return Answer(body=spec)


def promising(answer: Answer) -> Any:
    """Return the response, with a new request id if it has status 200."""

    def give(request: Request) -> Answer:
        if answer.status >= 300 or answer.body is not None:
            return answer
        return Answer(answer.status, {"request_id": f"req-{request.body['seq_id']}"}, hold=answer.hold)

    return give


def prompt_of(given: Dict[str, Any]) -> types.ModelInput:
    if "asset_location_chars" in given:
        pointer = types.ImageAssetPointerChunk(location="x" * given["asset_location_chars"], format="png")
        prompt = types.ModelInput(chunks=[pointer])
    else:
        prompt = types.ModelInput.from_ints([1] * given.get("prompt_tokens", 3))
    assert model_input_bytes(prompt) == given.get("estimated_bytes_each", model_input_bytes(prompt))
    return prompt


def sample(session: Session, prompt: types.ModelInput, parallel: int) -> List[Any]:
    """Return the results of concurrent samples, each from its own thread. A single sample uses this thread."""
    client = SamplingClient(session, "sess-1:sample:0")
    outcomes: List[Any] = []

    def one() -> None:
        try:
            outcomes.append(client.sample(prompt, 1, types.SamplingParams(max_tokens=1)))
        except Exception as error:
            outcomes.append(error)

    if parallel == 1:
        one()
        return outcomes
    threads = [threading.Thread(target=one, daemon=True) for _ in range(parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert len(outcomes) == parallel
    return outcomes


def check_numbers(
    sent: List[Request], arrived: List[Request], parallel: int, expected: Optional[Dict[str, Any]]
) -> None:
    """Assert that a sample keeps its number and its key over all retries. After a lost result it has new ones."""
    offsets = [request.body["seq_id"] - sent[0].body["seq_id"] for request in sent]
    keys = [str(request.headers["x-idempotency-key"]) for request in sent]
    if parallel == 1:
        foreseen, number = [], 0
        for request in arrived:
            if request.operation == "asample":
                foreseen.append(number)
            elif request.answer is not None and request.answer.status == 410:
                number += 1
        assert offsets == foreseen
    else:
        assert sorted({request.body["seq_id"] for request in sent}) == list(range(parallel))
    assert len(set(keys)) == len(set(offsets)) == len(set(zip(keys, offsets)))
    if expected is not None:
        assert sorted(offsets) == expected["seq_id_offsets"]
        assert len(set(keys)) == expected["idempotency_keys_distinct"]


def check_result(outcome: Any, expected: Any) -> None:
    if expected == "ok":
        assert isinstance(outcome, types.SampleResponse), repr(outcome)
    else:
        only(expected, "exception", "message")
        assert type(outcome).__name__ == expected["exception"]
        assert str(outcome) == expected["message"]


def check_polls(outcome: Any, answers: List[Answer], polled: List[Request]) -> None:
    """Rows 4, 6 and 22: assert the polling table of SERVERS.md, and our errors with the request id."""
    foreseen = expected_polls(answers, GOOD)
    assert len(polled) == len(foreseen.iterations)
    if foreseen.error is None:
        assert isinstance(outcome, types.SampleResponse), repr(outcome)
        return
    assert type(outcome) is foreseen.error
    assert isinstance(outcome, TinkexError)
    assert outcome.request_id == polled[0].body["request_id"]  # type: ignore[attr-defined]


def check_row_23(outcome: Any, answers: List[Answer], sent: List[Request]) -> None:
    if len(answers) < 3 or {answer.status for answer in answers[:3]} - {409, 501}:
        not_understood("row 23 for other statuses than 409 and 501")
    assert len(sent) == 3
    assert isinstance(outcome, TinkexError)


def concurrency(given: Dict[str, Any], expected: Dict[str, Any], row: Optional[int]) -> None:
    """Assert the number of concurrent requests to a slow server, which slots and bytes limit."""
    takes = given["asample_takes_s"]
    with bare_session() as (server, session):
        assert session.config.dispatch_bytes == given.get("limit", session.config.dispatch_bytes)
        if given["backoff_seen_recently"]:
            # The state one second after a backoff, when paced re-entry is over.
            session.throttle._pace.backoff_until = session.clock.time() - 1.0
        quiet = HoldUntilQuiet(server, takes, expected["max_concurrent_asample"])
        server.defaults["asample"] = promising(Answer(hold=quiet))
        server.defaults["retrieve_future"] = GOOD
        began = time.monotonic()
        outcomes = sample(session, prompt_of(given), given["parallel"])
        assert time.monotonic() - began >= takes
        check_sent(server, given["parallel"])
    assert all(isinstance(outcome, types.SampleResponse) for outcome in outcomes)
    assert max(quiet.waves) == expected["max_concurrent_asample"]
    # Requests are sent in waves. Additional time depends on the machine.
    assert 0.4 * expected["approx_seconds"] <= len(quiet.waves) * takes <= expected["approx_seconds"] + 0.1


def check_sent(server: ScriptedServer, parallel: int) -> None:
    sent = server.sent("asample")
    assert sorted(request.body["seq_id"] for request in sent) == list(range(parallel))
    assert {request.headers["x-tinker-sampling-backpressure"] for request in sent} == {"1"}
