"""The pace alone, against a token bucket."""

from __future__ import annotations

from typing import Any, List, Tuple

from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_sync.config import ThrottleLimits
from tinkex_sync.throttle.pacing import Pace


def drive(pace: Pace, seconds: float, rate: float, size: float, answer: float = 0.0) -> Tuple[int, int]:
    """Send at the pace to a token bucket that starts empty; return (accepted, refused)."""
    now = end = pace.stopped_until
    end += seconds
    tokens, filled = min(size, rate), now
    outcomes = [0, 0]
    pending: List[Tuple[float, bool, Any]] = []
    while now < end:
        opens = max(now, pace.opens_at(now))
        if pending and pending[0][0] <= opens:
            now, ok, ticket = pending.pop(0)
            if ok:
                pace.record_acceptance(now, ticket)
            else:
                pace.record_rate_limit(now, ticket, 1.0)
            outcomes[not ok] += 1
            continue
        now = opens
        tokens, filled = min(size, tokens + (now - filled) * rate), now
        pending.append((now + answer, tokens >= 1, pace.leave(now)))
        tokens -= tokens >= 1
    return outcomes[0], outcomes[1]


@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([5, 20, 50, 200, 500]),
    size=st.sampled_from([5, 50, 500]),
    answer=st.sampled_from([0.0, 0.001, 0.05]),
)
def test_the_pace_finds_the_rate_of_the_server(rate: int, size: int, answer: float) -> None:
    pace = Pace(ThrottleLimits())
    pace.record_rate_limit(100.0, pace.leave(100.0), 1.0)
    good, bad = drive(pace, 20.0, rate, size, answer)
    assert good >= 0.7 * 20 * rate
    assert bad <= 0.25 * good + 5


def test_slow_responses_do_not_increase_the_pace_without_limit() -> None:
    limits = ThrottleLimits()
    pace = Pace(limits)
    pace.record_rate_limit(0.0, pace.leave(0.0), 1.0)
    ticket = pace.leave(1.0)
    for step in range(100):
        pace.record_acceptance(2.0 + step * 0.1, ticket)
    assert pace.rate == 2 * limits.pace_start


def test_the_pace_recovers_when_the_server_admits_more() -> None:
    pace = Pace(ThrottleLimits())
    pace.record_rate_limit(0.0, pace.leave(0.0), 1.0)
    drive(pace, 10.0, 5, 5)
    slow = pace.rate
    assert slow is not None and slow < 10
    pace.stopped_until = 11.0
    drive(pace, 8.0, 1000, 1000)
    assert pace.rate is None or pace.rate > 100


def test_the_pace_never_falls_below_its_floor() -> None:
    limits = ThrottleLimits()
    pace = Pace(limits)
    pace.record_rate_limit(0.0, pace.leave(0.0), 1.0)
    now = 1.0
    for _ in range(200):
        now = max(now, pace.opens_at(now))
        pace.record_rate_limit(now, pace.leave(now), 1.0)
    assert pace.rate == limits.pace_floor
