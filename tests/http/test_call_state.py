"""The state of calls that have not ended."""

import gc
import weakref

import pytest

from tinkex_sync.http.call_state import CallState
from tinkex_sync.plugins.events import Source


@pytest.fixture
def call():
    return CallState(Source("sampling", "sampler-1", "session-1"), "call-1", "sample", 1, 100.0)


def test_the_status_of_a_call_has_its_age_phase_and_queue_state(call):
    call.phase, call.sent, call.request_id = "polling", "yes", "r-1"
    call.queue_state, call.queue_reason, call.polls = "paused_capacity", "busy", 2
    assert call.status(103.5) == {
        "operation": "sample",
        "client": "sampling",
        "id": "sampler-1",
        "age": 3.5,
        "phase": "polling",
        "sent": "yes",
        "request_id": "r-1",
        "queue_state": "paused_capacity",
        "queue_state_reason": "busy",
        "polls": 2,
    }


@pytest.mark.parametrize(
    ("sent", "more_to_send", "is_unaccepted"),
    [("no", False, True), ("unknown", False, True), ("yes", False, False), ("yes", True, True)],
)
def test_a_call_is_unsent_until_the_server_has_accepted_all_of_it(call, sent, more_to_send, is_unaccepted):
    call.sent, call.more_to_send = sent, more_to_send
    assert call.is_unaccepted is is_unaccepted


def test_the_error_for_a_timeout_states_what_became_of_the_call(call):
    call.phase = "throttled"
    error = call.deadline_exceeded()
    assert str(error) == "sample: the timeout ran out while throttled (nothing was sent)"
    assert (error.phase, error.sent, error.request_id, error.queue_state) == ("throttled", "no", None, None)
    call.phase, call.sent, call.request_id, call.queue_state = "polling", "yes", "r-1", "paused_capacity"
    error = call.deadline_exceeded()
    assert str(error) == (
        "sample: the timeout ran out while polling"
        " (the server has accepted it, request r-1, queue state paused_capacity)"
    )
    assert (error.sent, error.request_id, error.queue_state) == ("yes", "r-1", "paused_capacity")


def test_a_call_whose_dispatch_has_started_may_be_sent_after_its_timeout(call):
    assert call.deadline_exceeded(is_started=True).sent == "unknown"
    call.sent = "yes"
    assert call.deadline_exceeded(is_started=True).sent == "yes"


def test_calls_are_compared_by_identity_and_can_be_held_weakly(call):
    same = CallState(call.source, call.call_id, call.operation, call.items, call.started)
    assert same != call
    assert len({call, same}) == 2
    held = weakref.ref(same)
    del same
    gc.collect()
    assert held() is None
