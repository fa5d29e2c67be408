"""The pace of sampling, which limits the dispatch rate after a 429.

All times are arguments; nothing here reads a clock or waits. ``docs/throttle.md`` describes how the rule was found, and
its results at other rates.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

from ..config import ThrottleLimits

#: Seconds. Longer times between two acceptances count as this much time of growth and measurement.
_IDLE = 1.0
#: Acceptances after which a measured rate is usable, and after which a new measurement starts.
_ROUGH, _SOUND = 5, 10


class Ticket(NamedTuple):
    """The time and the pace of one send."""

    sent_at: float
    #: Sends per second at that time; None if there was no pace.
    rate: Optional[float]


class Pace:
    """The time at which the next sample may be sent. Times are arguments; it does not wait and is not thread-safe.

    An episode begins with a 429 while there is no pace: all samples stop. Then they are sent at ``pace_start`` per
    second, and the rate doubles every ``pace_doubling`` seconds while they are accepted. If a sample that was sent
    after the last rate reduction gets a 429, the rate is reduced to ``pace_reduction`` of the rate accepted since then.
    From there it grows until the next reduction while it delays samples, slowly at first and then faster. A 429 for
    a sample that was sent before the reduction does not change the rate. The rate is at most twice the rate at which
    an accepted sample was sent, so that slow responses cannot increase it without limit. The episode ends when the
    pace has delayed no sample for ``pace_memory`` seconds.
    """

    def __init__(self, limits: ThrottleLimits) -> None:
        self._limits = limits
        self.rate: Optional[float] = None
        #: No sample is sent before this time.
        self.stopped_until = -math.inf
        #: The end of the latest backoff of any kind.
        self.backoff_until = -math.inf
        self._next = -math.inf  # when the next sample may be sent
        self._held_at = -math.inf  # when the pace last delayed a sample
        self._cut_at = -math.inf  # when the rate was last reduced; earlier sends do not change it
        self._ramp = True  # whether there was no rate reduction yet in this episode
        self._growth = 0.0
        self._base = 0.0  # the rate after the last reduction
        self._age = 0.0  # active seconds since the last reduction
        self._active = 0.0  # active seconds of the running measurement
        self._accepted = 0.0  # acceptances of the running measurement
        self._seen_at = -math.inf

    def is_recent(self, now: float) -> bool:
        """Return whether a backoff is in force, or ended less than ``throttle_memory`` seconds ago."""
        return now < self.backoff_until + self._limits.throttle_memory

    def opens_at(self, now: float) -> float:
        """Return the time at which the next sample may be sent, for a sample that is ready to be sent."""
        self.expire(now)
        if self.rate is None or now < self.stopped_until:
            return self.stopped_until
        if now < self._next:
            self._held_at = now
        return self._next

    def expire(self, now: float) -> None:
        """End the episode if the pace has delayed no sample for ``pace_memory`` seconds."""
        if self.rate is not None and now - self._held_at >= self._limits.pace_memory:
            self.rate = None

    def leave(self, now: float) -> Ticket:
        """Record that a sample is sent, and return its ticket."""
        if self.rate is not None:
            # A late send does not make the next one earlier: a bucket of one token cannot accept two together.
            self._next = max(self._next, now) + 1.0 / self.rate
        return Ticket(now, self.rate)

    def record_acceptance(self, now: float, ticket: Ticket) -> None:
        """Record that a sample was accepted."""
        if self.rate is None:
            return
        step = self._tick(now)
        self._accepted += 1
        if ticket.rate is None or ticket.sent_at < self._cut_at or now - self._held_at > _IDLE:
            return  # it is no evidence that a higher rate would be accepted
        if self._ramp:
            growth = 2.0 ** (step / self._limits.pace_doubling)
            grown = self.rate * growth
            # Acceptances at a fraction of this rate are little evidence of the limit, so they count less.
            self._accepted /= growth * growth
            self._active /= growth * growth
        else:
            self._age += step
            # The cube makes the growth slow near the last accepted rate, and fast a long time after the reduction.
            grown = self._base * math.exp(min(50.0, (self._age / self._growth) ** 3))
        self.rate = max(self.rate, min(grown, 2.0 * ticket.rate))

    def record_rate_limit(self, now: float, ticket: Ticket, duration: float) -> bool:
        """Record a 429 for a sample that is sent again after ``duration`` seconds; return whether all samples stop."""
        until = now + duration
        self.backoff_until = max(self.backoff_until, until)
        if self.rate is None:
            self._begin(until)
            return True
        if ticket.sent_at >= self._cut_at:
            self._tick(now)
            self._cut(now, self.rate)
        return False

    def _begin(self, until: float) -> None:
        self.rate = self._limits.pace_start
        self.stopped_until = self._next = self._held_at = self._cut_at = self._seen_at = until
        self._ramp = True
        self._accepted = self._active = 0.0

    def _cut(self, now: float, rate: float) -> None:
        limits = self._limits
        if self._accepted >= _ROUGH and self._active > 0:
            # At a 429 the server's bucket is empty, so the acceptances between two of them are its rate.
            rate = min(rate, self._accepted / self._active)
        self.rate = self._base = max(limits.pace_floor, limits.pace_reduction * rate)
        if self._ramp:
            self._growth = limits.pace_search
        elif self._accepted >= _SOUND:
            self._growth = limits.pace_growth
        if self._ramp or self._accepted >= _SOUND:
            self._accepted = self._active = 0.0
        self._ramp = False
        self._age = 0.0
        self._cut_at = now

    def _tick(self, now: float) -> float:
        step = min(max(0.0, now - self._seen_at), _IDLE)
        self._seen_at = max(self._seen_at, now)
        self._active += step
        return step
