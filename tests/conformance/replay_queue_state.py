"""Replay of the file about queue states: what observers and the log are told of an answer to a poll."""

import logging
from typing import Any, Callable, Dict, List, Optional, Tuple

from scripted_server import Answer, Request, SteppedClock, bare_session

from tinkex_sync.plugins.hookspecs import Source, hookimpl
from tinkex_sync.plugins.queue_log import QueueLog
from tinkex_sync.plugins.queue_log import logger as queue_logger
from tinkex_sync.polling.poller import ServerFuture, poll
from tinkex_sync.polling.queue_states import QueueStates
from tinkex_sync.types import QueueState

from .registry import no_excuse, not_understood, only, replay, same

IDS = ("training_model_id", "sampling_session_id")
BODIES = {
    "training": ("optim_step", {"metrics": None}),
    "sampling": ("asample", {"type": "sample", "sequences": []}),
}


class Recorder(logging.Handler):
    """What observers and the log heard while the answer to each poll was taken in."""

    def __init__(self) -> None:
        super().__init__()
        #: One entry for each poll.
        self.told: List[List[Tuple[str, Any]]] = []
        self.logged: List[List[List[str]]] = []

    def next(self) -> None:
        self.told.append([])
        self.logged.append([])

    def emit(self, record: logging.LogRecord) -> None:
        self.logged[-1].append([record.levelname, record.getMessage()])

    @hookimpl
    def tinkex_queue_state_changed(self, state: str, reason: Any, reason_source: Optional[str]) -> None:
        assert (reason_source == "server") == bool(reason) or reason_source == "default"
        self.told[-1].append((state, reason if reason_source == "server" else None))


def hear(kind: str, client: str, answers: List[Tuple[Optional[float], Answer]]) -> Recorder:
    """Poll a promise of a client that is given these answers (at these times of its clock), then its result."""
    clock = SteppedClock()
    heard = Recorder()
    endpoint, result = BODIES[kind]

    def at(time: Optional[float], answer: Answer) -> Callable[[Request], Answer]:
        def give(request: Request) -> Answer:
            if time is not None:
                clock.advance(time - clock.time())
            heard.next()
            return answer

        return give

    queue_logger.addHandler(heard)
    try:
        with bare_session(clock, (heard, QueueLog(clock))) as (server, session):
            server.script(
                "retrieve_future", *(at(*entry) for entry in answers), at(None, Answer(body=result))
            )
            call = session.begin(Source(kind, client, "sess-1"), endpoint)
            states = QueueStates(session.observers, clock)
            try:
                poll(session, ServerFuture("rq", endpoint), call, states=states)
            finally:
                session.end(call)
            assert len(server.sent("retrieve_future")) == len(answers) + 1
    finally:
        queue_logger.removeHandler(heard)
    return heard


@replay("queue_state")
def queue_state(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = case["input"]
    no_excuse(row, 24, 25)
    if "calls" in given:
        debounced(case["name"], only(given, "clock", "calls", *IDS), case["expected"])
        return
    only(given, "status", "body", "body_text", "content_type", *IDS)
    expected = only(case["expected"], "observer_calls", "training_log", "sampling_log")
    answer = Answer(
        given["status"], given["body"], given["body_text"], headers={"Content-Type": given["content_type"]}
    )
    for kind, client in zip(("training", "sampling"), IDS):
        heard = hear(kind, given[client], [(None, answer)])
        if row == 24:
            reported(heard, given)
            continue
        told, logged = heard.told[0], heard.logged[0]
        assert len(told) == len(expected["observer_calls"])
        for (state, reason), call in zip(told, expected["observer_calls"]):
            only(call, "queue_state", "name", "reason")
            assert (state, QueueState(state).name) == (call["queue_state"], call["name"])
            # An empty reason is none; the text that stands in for it is told as ours.
            assert same(reason, call["reason"] or None)
        assert logged == expected[f"{kind}_log"]


def reported(heard: Recorder, given: Dict[str, Any]) -> None:
    """Row 24: the state and reason in the body are reported like any, whatever the status."""
    body = given["body"]
    if not isinstance(body, dict) or not body.get("queue_state"):
        not_understood("row 24 for a body without a queue state")
    state = body["queue_state"]
    known = [known.value for known in QueueState]
    assert heard.told[0] == [(state if state in known else "unknown", body.get("queue_state_reason") or None)]
    assert len(heard.logged[0]) == (state != "active")


def debounced(name: str, given: Dict[str, Any], expected: Dict[str, Any]) -> None:
    kinds = [kind for kind in BODIES if kind in name]
    if len(kinds) != 1 or given["clock"] != "time.time() at each call":
        not_understood(f"which client and clock {name!r} is about")
    client = given[dict(zip(("training", "sampling"), IDS))[kinds[0]]]
    answers = []
    for call in given["calls"]:
        only(call, "t", "state", "reason")
        body = {"queue_state": call["state"], "queue_state_reason": call["reason"]}
        answers.append((call["t"], Answer(408, body)))
    heard = hear(kinds[0], client, answers)
    assert heard.logged[:-1] == only(expected, "logs")["logs"]
