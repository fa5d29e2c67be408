"""The pace of sampling after a refusal: pure arithmetic over times that are passed in.

`docs/throttle.md` tells how the rule was found and what it does at other rates.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

from ..config import ThrottleLimits

__all__ = ["Pace", "Ticket"]

#: The clock of growth and measurement stands still between acceptances further apart than this (seconds).
_IDLE = 1.0
#: Acceptances that make a measured rate usable, and good enough to start a new measurement.
_ROUGH, _SOUND = 5, 10


class Ticket(NamedTuple):
    """A send that left."""

    sent_at: float
    #: The pace it left at; None if there was none.
    rate: Optional[float]


class Pace:
    """When the next send may leave. Pure: times are arguments, nothing waits, nothing locks.

    An episode begins with a refusal while there is no pace: everybody stops. Then sends leave at
    ``pace_start`` per second, doubling every ``pace_doubling`` while they are accepted. A refusal of a send
    that left after the last cut sets the rate to ``pace_cut`` of the rate accepted since; from there it grows
    while it holds somebody back, slowly at first and ever faster, until the next refusal. Refusals of sends
    that left before the cut tell nothing new. The rate never exceeds twice the rate at which an accepted send
    left, so slow answers cannot let it run away. The episode ends when the pace has held nobody back for
    ``pace_memory``.
    """

    def __init__(self, limits: ThrottleLimits) -> None:
        self._limits = limits
        self.rate: Optional[float] = None
        #: Nobody sends before this.
        self.stopped_until = -math.inf
        #: The end of the latest backoff of any kind.
        self.backoff_until = -math.inf
        self._next = -math.inf  # when the next send is due
        self._held_at = -math.inf  # when the pace last held somebody back
        self._cut_at = -math.inf  # when the present rate was set; sends from before do not judge it
        self._ramp = True  # no cut yet in this episode
        self._growth = 0.0
        self._base = 0.0  # the rate after the last cut
        self._age = 0.0  # active seconds since the last cut
        self._active = 0.0  # active seconds, and
        self._accepted = 0.0  # acceptances, of the present measurement
        self._seen_at = -math.inf

    def is_recent(self, now: float) -> bool:
        """Whether a backoff is on, or ended less than ``throttle_memory`` ago."""
        return now < self.backoff_until + self._limits.throttle_memory

    def opens_at(self, now: float) -> float:
        """When the next send may leave (at once if that is not after ``now``), asked by one that wants to."""
        self.expire(now)
        if self.rate is None or now < self.stopped_until:
            return self.stopped_until
        if now < self._next:
            self._held_at = now
        return self._next

    def expire(self, now: float) -> None:
        """End the episode if the pace has held nobody back for long enough."""
        if self.rate is not None and now - self._held_at >= self._limits.pace_memory:
            self.rate = None

    def leave(self, now: float) -> Ticket:
        """A send leaves."""
        if self.rate is not None:
            # A late send is not made up for: a bucket of one token has no room for two at once.
            self._next = max(self._next, now) + 1.0 / self.rate
        return Ticket(now, self.rate)

    def accepted(self, now: float, ticket: Ticket) -> None:
        """A send was accepted."""
        if self.rate is None:
            return
        step = self._tick(now)
        self._accepted += 1
        if ticket.rate is None or ticket.sent_at < self._cut_at or now - self._held_at > _IDLE:
            return  # it does not show that a higher pace would be accepted too
        if self._ramp:
            growth = 2.0 ** (step / self._limits.pace_doubling)
            grown = self.rate * growth
            # What was accepted at a fraction of this rate says little about the limit: forget it.
            self._accepted /= growth * growth
            self._active /= growth * growth
        else:
            self._age += step
            # A cube in the exponent: flat near the rate that was right, steep when that is long ago.
            grown = self._base * math.exp(min(50.0, (self._age / self._growth) ** 3))
        self.rate = max(self.rate, min(grown, 2.0 * ticket.rate))

    def refused(self, now: float, ticket: Ticket, duration: float) -> bool:
        """A send was refused, to be repeated after ``duration``. True if that stops everybody."""
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
            # At a refusal the server has nothing left, so what it accepted between two is its rate.
            rate = min(rate, self._accepted / self._active)
        self.rate = self._base = max(limits.pace_floor, limits.pace_cut * rate)
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
