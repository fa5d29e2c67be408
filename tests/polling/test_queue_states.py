"""The queue state of one client is computed from its calls, and plugins receive each change once."""

import threading

import pytest
from scripted_server import SteppedClock

from tinkex_sync.http.call_state import CallState
from tinkex_sync.plugins.events import Source
from tinkex_sync.plugins.hookspecs import hookimpl
from tinkex_sync.plugins.registry import Observers
from tinkex_sync.polling.queue_states import REPEAT_INTERVAL, QueueStates


class Recorder:
    """A plugin that keeps the facts of the changes and of the repeated reports."""

    def __init__(self):
        self.changes = []
        self.repeats = []

    @hookimpl
    def tinkex_queue_state_changed(self, state, previous, reason, reason_source, waited, request_id):
        self.changes.append((state, previous, reason, reason_source, waited, request_id))

    @hookimpl
    def tinkex_queue_state_repeated(self, state, reason, reason_source, waited, request_id):
        self.repeats.append((state, reason, reason_source, waited, request_id))


@pytest.fixture
def clock():
    return SteppedClock()


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def states(clock, recorder):
    return QueueStates(Observers([recorder], autoload=False, strict=True, clock=clock), clock)


def make_call(clock, name, kind="training"):
    call = CallState(Source(kind, "model-1", "s"), name, "optim_step", 1, clock.time())
    call.request_id = f"rf-{name}"
    return call


def test_each_change_of_state_or_reason_is_reported_once(states, recorder, clock):
    call = make_call(clock, "a")
    for state, reason in (
        ("active", None),
        ("active", None),
        ("paused_capacity", "full"),
        ("paused_capacity", "full"),
        ("paused_capacity", "fuller"),
        ("active", None),
    ):
        clock.advance(10.0)
        states.report(call, state, reason)
    assert [change[:4] for change in recorder.changes] == [
        ("active", None, None, None),
        ("paused_capacity", "active", "full", "server"),
        ("paused_capacity", "paused_capacity", "fuller", "server"),
        ("active", "paused_capacity", None, None),
    ]
    assert {change[5] for change in recorder.changes} == {"rf-a"}
    assert recorder.repeats == []


def test_client_is_paused_while_any_of_its_calls_is_paused(states, recorder, clock):
    one, two = make_call(clock, "a"), make_call(clock, "b")
    states.report(one, "paused_capacity")
    states.report(two, "paused_capacity")
    clock.advance(30.0)
    states.finish(one)
    assert [change[0] for change in recorder.changes] == ["paused_capacity"]
    states.finish(two)
    state, previous, reason, source, waited, request_id = recorder.changes[-1]
    assert (state, previous, reason, source, request_id) == ("active", "paused_capacity", None, None, "rf-b")
    assert waited == pytest.approx(30.0)


def test_two_calls_with_different_reasons_do_not_alternate(states, recorder, clock):
    one, two = make_call(clock, "a"), make_call(clock, "b")
    for _ in range(5):
        states.report(one, "paused_capacity", "x")
        states.report(two, "paused_capacity", "y")
    assert [change[2] for change in recorder.changes] == ["x", "y"]


def test_failed_call_does_not_make_the_client_active(states, recorder, clock):
    one, two = make_call(clock, "a"), make_call(clock, "b")
    states.report(one, "paused_capacity", "x")
    states.finish(one, succeeded=False)
    states.report(two, "paused_capacity", "x")
    assert [change[0] for change in recorder.changes] == ["paused_capacity"] * 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("training", "concurrent training clients rate limit hit"),
        ("sampling", "concurrent sampler weights limit hit"),
        ("service", "concurrent training clients rate limit hit"),
    ],
)
def test_default_reason_is_reported_if_the_server_gives_none(states, recorder, clock, kind, reason):
    states.read(make_call(clock, "a", kind), {"queue_state": "paused_rate_limit", "queue_state_reason": ""})
    assert recorder.changes[0][2:4] == (reason, "default")


@pytest.mark.parametrize("body", [None, [], "x", {}, {"queue_state": ""}, {"queue_state": None}])
def test_body_without_queue_state_is_ignored(states, recorder, clock, body):
    states.read(make_call(clock, "a"), body)
    assert recorder.changes == []


@pytest.mark.parametrize("state", ["ACTIVE", "new", 5, ["active"]])
def test_unexpected_queue_state_is_reported_as_unknown(states, recorder, clock, state):
    states.read(make_call(clock, "a"), {"queue_state": state})
    assert recorder.changes[0][0] == "unknown"


def test_pause_that_continues_is_reported_again_at_most_every_minute(states, recorder, clock):
    call = make_call(clock, "a")
    states.report(call, "paused_capacity", "full")
    reported_at = []
    for second in range(5, 185, 5):
        clock.advance(5.0)
        states.report(call, "paused_capacity", "full")
        if len(recorder.repeats) > len(reported_at):
            reported_at.append(second)
    assert reported_at == [60, 120, 180]
    assert recorder.repeats[0] == ("paused_capacity", "full", "server", 60.0, "rf-a")
    assert len(recorder.changes) == 1


def test_change_within_the_minute_does_not_delay_the_next_repeated_report(states, recorder, clock):
    call = make_call(clock, "a")
    states.report(call, "paused_capacity", "full")
    clock.advance(30.0)
    states.report(call, "paused_capacity", "fuller")
    clock.advance(30.0)
    states.report(call, "paused_capacity", "fuller")
    assert [(reason, waited) for _, reason, _, waited, _ in recorder.repeats] == [("fuller", 60.0)]


def test_active_state_is_never_reported_again(states, recorder, clock):
    call = make_call(clock, "a")
    for _ in range(3):
        states.report(call, "active")
        clock.advance(2 * REPEAT_INTERVAL)
    assert recorder.repeats == []


def test_repeated_report_contains_the_state_of_the_client_not_of_the_call(states, recorder, clock):
    one, two = make_call(clock, "a"), make_call(clock, "b")
    states.report(one, "paused_capacity", "x")
    states.report(two, "paused_rate_limit", "y")
    clock.advance(REPEAT_INTERVAL)
    states.report(one, "paused_capacity", "x")
    assert [repeat[:2] for repeat in recorder.repeats] == [("paused_rate_limit", "y")]


def test_slow_hook_does_not_shorten_the_interval(clock):
    times = []

    class Slow:
        @hookimpl
        def tinkex_queue_state_changed(self):
            clock.advance(10.0)
            times.append(clock.time())

        @hookimpl
        def tinkex_queue_state_repeated(self):
            times.append(clock.time())

    states = QueueStates(Observers([Slow()], autoload=False, strict=True), clock)
    call = make_call(clock, "a")
    states.report(call, "paused_capacity")
    clock.advance(REPEAT_INTERVAL - 1.0)
    states.report(call, "paused_capacity")
    assert len(times) == 1
    clock.advance(1.0)
    states.report(call, "paused_capacity")
    assert times[1] - times[0] == REPEAT_INTERVAL


def test_concurrent_reports_cause_one_pause_one_repeat_and_one_end(states, recorder, clock):
    calls = [make_call(clock, str(number)) for number in range(16)]
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait(10.0)
        for _ in range(50):
            states.report(call, "paused_capacity", "x")
        if barrier.wait(10.0) == 0:
            clock.advance(REPEAT_INTERVAL)
        barrier.wait(10.0)
        for _ in range(50):
            states.report(call, "paused_capacity", "x")
        barrier.wait(10.0)
        states.finish(call)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert [change[:2] for change in recorder.changes] == [("paused_capacity", None), ("active", "paused_capacity")]
    assert len(recorder.repeats) == 1
