"""Queue states of one client: made up of its calls, each change told once."""

import threading

import pytest
from scripted_server import SteppedClock

from tinkex_sync.http.call_state import CallState
from tinkex_sync.plugins.hookspecs import Source, hookimpl
from tinkex_sync.plugins.registry import Observers
from tinkex_sync.polling.queue_states import QueueStates


class Told:
    def __init__(self):
        self.events = []

    @hookimpl
    def tinkex_queue_state_changed(self, state, previous, reason, reason_source, waited, request_id):
        self.events.append((state, previous, reason, reason_source, waited, request_id))


@pytest.fixture
def clock():
    return SteppedClock()


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def states(clock, told):
    return QueueStates(Observers([told], autoload=False, strict=True, clock=clock), clock)


def call(clock, name, kind="training"):
    made = CallState(Source(kind, "model-1", "s"), name, "optim_step", 1, clock.time())
    made.request_id = f"rf-{name}"
    return made


def test_each_change_of_state_or_reason_is_told_once(states, told, clock):
    one = call(clock, "a")
    for state, reason in (
        ("active", None),
        ("active", None),
        ("paused_capacity", "full"),
        ("paused_capacity", "full"),
        ("paused_capacity", "fuller"),
        ("active", None),
    ):
        clock.advance(10.0)
        states.report(one, state, reason)
    assert [event[:4] for event in told.events] == [
        ("active", None, None, None),
        ("paused_capacity", "active", "full", "server"),
        ("paused_capacity", "paused_capacity", "fuller", "server"),
        ("active", "paused_capacity", None, None),
    ]
    assert {event[5] for event in told.events} == {"rf-a"}


def test_the_client_is_paused_while_any_of_its_calls_is(states, told, clock):
    one, two = call(clock, "a"), call(clock, "b")
    states.report(one, "paused_capacity")
    states.report(two, "paused_capacity")
    clock.advance(30.0)
    states.settle(one)
    assert [event[0] for event in told.events] == ["paused_capacity"]
    states.settle(two)
    state, previous, reason, source, waited, request = told.events[-1]
    assert (state, previous, reason, source, request) == ("active", "paused_capacity", None, None, "rf-b")
    assert waited == pytest.approx(30.0)


def test_two_calls_told_different_reasons_do_not_alternate(states, told, clock):
    one, two = call(clock, "a"), call(clock, "b")
    for _ in range(5):
        states.report(one, "paused_capacity", "x")
        states.report(two, "paused_capacity", "y")
    assert [event[2] for event in told.events] == ["x", "y"]


def test_a_call_that_failed_does_not_make_the_client_active(states, told, clock):
    one, two = call(clock, "a"), call(clock, "b")
    states.report(one, "paused_capacity", "x")
    states.settle(one, kept=False)
    states.report(two, "paused_capacity", "x")
    assert [event[0] for event in told.events] == ["paused_capacity"] * 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("training", "concurrent training clients rate limit hit"),
        ("sampling", "concurrent sampler weights limit hit"),
        ("service", "concurrent training clients rate limit hit"),
    ],
)
def test_a_reason_of_ours_stands_in_where_the_server_gives_none(states, told, clock, kind, reason):
    states.read(call(clock, "a", kind), {"queue_state": "paused_rate_limit", "queue_state_reason": ""})
    assert told.events[0][2:4] == (reason, "default")


@pytest.mark.parametrize("body", [None, [], "x", {}, {"queue_state": ""}, {"queue_state": None}])
def test_bodies_that_say_nothing(states, told, clock, body):
    states.read(call(clock, "a"), body)
    assert told.events == []


@pytest.mark.parametrize("state", ["ACTIVE", "new", 5, ["active"]])
def test_states_we_do_not_know(states, told, clock, state):
    states.read(call(clock, "a"), {"queue_state": state})
    assert told.events[0][0] == "unknown"


def test_many_threads_tell_a_pause_and_its_end_once(states, told, clock):
    calls = [call(clock, str(n)) for n in range(16)]
    start = threading.Barrier(len(calls))

    def one(made):
        start.wait(10.0)
        for _ in range(50):
            states.report(made, "paused_capacity", "x")
        start.wait(10.0)
        states.settle(made)

    threads = [threading.Thread(target=one, args=(made,), daemon=True) for made in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert [event[:2] for event in told.events] == [
        ("paused_capacity", None),
        ("active", "paused_capacity"),
    ]
