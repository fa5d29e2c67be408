"""Replay of queue states: the facts that plugins receive and the lines that are logged after a poll."""

import logging
from typing import Any, Callable, Dict, List, Optional, Tuple

from scripted_server import Answer, Request, SteppedClock, bare_session

from tinkex_sync.plugins import Source, hookimpl
from tinkex_sync.plugins.queue_log import QueueLog
from tinkex_sync.plugins.queue_log import logger as queue_logger
from tinkex_sync.polling.poller import ServerFuture, poll
from tinkex_sync.polling.queue_states import QueueStates
from tinkex_sync.types import QueueState

from .registry import no_excuse, not_understood, only, replay, same

IDS = ("training_model_id", "sampling_session_id")
BODIES = {"training": ("optim_step", {"metrics": None}), "sampling": ("asample", {"type": "sample", "sequences": []})}


class Recorder(logging.Handler):
    """Records hook calls and log lines for each poll."""

    def __init__(self) -> None:
        super().__init__()
        #: Reported changes, one list per poll.
        self.changes: List[List[Tuple[str, Any]]] = []
        self.logged: List[List[List[str]]] = []

    def next(self) -> None:
        self.changes.append([])
        self.logged.append([])

    def emit(self, record: logging.LogRecord) -> None:
        self.logged[-1].append([record.levelname, record.getMessage()])

    @hookimpl
    def tinkex_queue_state_changed(self, state: str, reason: Any, reason_source: Optional[str]) -> None:
        assert (reason_source == "server") == bool(reason) or reason_source == "default"
        self.changes[-1].append((state, reason if reason_source == "server" else None))


def record_polls(kind: str, client: str, answers: List[Tuple[Optional[float], Answer]]) -> Recorder:
    """Poll a server future and return the recorded events.

    Args:
        kind: Kind of the client.
        client: Id of the client.
        answers: Responses to the polls, with the time of the client's clock or None. A result follows them.
    """
    clock = SteppedClock()
    recorded = Recorder()
    endpoint, result = BODIES[kind]

    def at(time: Optional[float], answer: Answer) -> Callable[[Request], Answer]:
        def give(request: Request) -> Answer:
            if time is not None:
                clock.advance(time - clock.time())
            recorded.next()
            return answer

        return give

    queue_logger.addHandler(recorded)
    try:
        with bare_session(clock, (recorded, QueueLog(clock))) as (server, session):
            server.script("retrieve_future", *(at(*entry) for entry in answers), at(None, Answer(body=result)))
            call = session.begin(Source(kind, client, "sess-1"), endpoint)
            states = QueueStates(session.observers, clock)
            try:
                poll(session, ServerFuture("rq", endpoint), call, states=states)
            finally:
                session.end(call)
            assert len(server.sent("retrieve_future")) == len(answers) + 1
    finally:
        queue_logger.removeHandler(recorded)
    return recorded


@replay("queue_state")
def queue_state(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = case["input"]
    no_excuse(row, 24, 25)
    if "calls" in given:
        debounced(case["name"], only(given, "clock", "calls", *IDS), case["expected"])
        return
    only(given, "status", "body", "body_text", "content_type", *IDS)
    expected = only(case["expected"], "observer_calls", "training_log", "sampling_log")
    answer = Answer(given["status"], given["body"], given["body_text"], headers={"Content-Type": given["content_type"]})
    for kind, client in zip(("training", "sampling"), IDS):
        recorded = record_polls(kind, given[client], [(None, answer)])
        if row == 24:
            reported(recorded, given)
            continue
        changes, logged = recorded.changes[0], recorded.logged[0]
        assert len(changes) == len(expected["observer_calls"])
        for (state, reason), call in zip(changes, expected["observer_calls"]):
            only(call, "queue_state", "name", "reason")
            assert (state, QueueState(state).name) == (call["queue_state"], call["name"])
            # An empty reason counts as missing, and plugins receive the default reason.
            assert same(reason, call["reason"] or None)
        assert logged == expected[f"{kind}_log"]


def reported(recorded: Recorder, given: Dict[str, Any]) -> None:
    """Row 24: the state and the reason in a body are reported for every status code."""
    body = given["body"]
    if not isinstance(body, dict) or not body.get("queue_state"):
        not_understood("row 24 for a body without a queue state")
    state = body["queue_state"]
    known = [known.value for known in QueueState]
    assert recorded.changes[0] == [(state if state in known else "unknown", body.get("queue_state_reason") or None)]
    assert len(recorded.logged[0]) == (state != "active")


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
    recorded = record_polls(kinds[0], client, answers)
    assert recorded.logged[:-1] == only(expected, "logs")["logs"]
