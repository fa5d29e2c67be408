"""Retry policies as data, run by tenacity.

A call has exactly one policy; they do not nest. Sources: PROTOCOL sections 5.1 to 5.3 of the 0.7.0 client,
and how servers of the field behave.
"""

from __future__ import annotations

import email.utils
import logging
import math
import random
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, FrozenSet, Mapping, Optional, Tuple, Type, TypeVar

import tenacity

from ..concurrency.clock import Clock
from ..errors import (
    APIConnectionError,
    APIStatusError,
    ClosedError,
    DeadlineExceeded,
    PromiseExpiredError,
    TinkexError,
)

__all__ = ["POLICIES", "Attempts", "RetryConfig", "RetryPolicy", "retry_after", "run"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_TRANSIENT: FrozenSet[int] = frozenset({408, 409, 429})
_WARN_AFTER = 10.0
#: A retry that has less time left than this is not begun, if the attempt before took as long.
_WORTH_TRYING = 30.0
#: However little time is left, an attempt that was begun is given this much.
_LEAST_ATTEMPT = 5.0
#: Waits a server may ask for; longer or non-positive ones are ignored, as in the 0.7.0 client.
_LONGEST_RETRY_AFTER = 60.0


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """Seconds a server asks to wait: ``retry-after-ms``, else ``Retry-After`` as seconds or HTTP date.

    None if there is no such header, or if it is not within (0, 60].

    Args:
        headers: Names in lower case.
    """
    value: Optional[float] = None
    try:
        value = float(headers["retry-after-ms"]) / 1000
    except (KeyError, ValueError):
        text = headers.get("retry-after", "")
        try:
            value = float(text)
        except ValueError:
            parsed = email.utils.parsedate_tz(text)
            if parsed is not None:
                # An HTTP date is wall-clock time; this is the one place where it cannot be avoided.
                value = email.utils.mktime_tz(parsed) - time.time()
    return value if value is not None and 0 < value <= _LONGEST_RETRY_AFTER else None


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often to try again. Times are seconds.

    The wait before retry n (from 0) is ``min(first_wait * 2**n, max_wait)``, changed by jitter and cut to what
    is left of ``give_up_after``.
    """

    name: str
    first_wait: float = 1.0
    max_wait: float = 30.0
    #: Up to this share is taken off the wait, at random.
    jitter_below: float = 0.0
    #: Up to this share is added to or taken off the wait, at random; the sum stays within ``max_wait``.
    jitter_around: float = 0.0
    #: Like ``jitter_below``, but only while other calls of the client wait for a retry too: without it they
    #: would come back as one.
    jitter_crowd: float = 0.0
    #: Attempts in all; None: no limit.
    attempts: Optional[int] = None
    #: No retry later than this after the first send; None: no limit.
    give_up_after: Optional[float] = None
    #: Of the statuses from 500 on, the last that is retried.
    last_status: int = 599
    #: Exceptions retried beside error statuses.
    exceptions: Tuple[Type[BaseException], ...] = (APIConnectionError, TimeoutError)
    #: Statuses final after this many attempts, because they are permanent on servers we know.
    short_statuses: Mapping[int, int] = field(default_factory=dict)

    def wait(self, retries: int, draw: Callable[[], float] = random.random, crowded: bool = False) -> float:
        """Seconds to wait before retry number ``retries`` (from 0); ``draw`` gives a number in [0, 1)."""
        delay = self.max_wait if retries > 60 else min(self.first_wait * 2.0**retries, self.max_wait)
        below = self.jitter_below or (self.jitter_crowd if crowded else 0.0)
        if below:
            delay *= 1 - below * draw()
        if self.jitter_around:
            delay += delay * self.jitter_around * (2 * draw() - 1)
            delay = min(max(delay, 0.0), self.max_wait)
        return delay

    def retries(self, error: BaseException, attempt: int = 1) -> bool:
        """Whether attempt number ``attempt`` (from 1), having failed with ``error``, may be followed by another."""
        if isinstance(error, APIStatusError):
            told = error.headers.get("x-should-retry")
            if told in ("true", "false"):
                return told == "true"
            status = error.status_code
            if not (status in _TRANSIENT or 500 <= status <= self.last_status):
                return False
            limit = self.short_statuses.get(status)
            return limit is None or attempt < limit or (status == 409 and not _says_why(error))
        # The caller's own deadline is a TimeoutError too, and final.
        return isinstance(error, self.exceptions) and not isinstance(error, DeadlineExceeded)


def _says_why(error: APIStatusError) -> bool:
    return isinstance(error.body, dict) and "detail" in error.body


#: Servers answer 409 with a detail, and 501, for good.
_PERMANENT = {409: 3, 501: 3}

#: Every policy there is, by name; ``dataclasses.replace`` makes variants (``Config.max_retries``).
POLICIES: Dict[str, RetryPolicy] = {
    policy.name: policy
    for policy in (
        RetryPolicy("none", attempts=1),
        RetryPolicy(
            "short",
            first_wait=0.5,
            max_wait=10.0,
            jitter_below=0.25,
            attempts=11,
            last_status=999,
            short_statuses=_PERMANENT,
        ),
        # For endpoints that not every server has.
        RetryPolicy(
            "ask",
            first_wait=0.5,
            max_wait=10.0,
            jitter_below=0.25,
            attempts=11,
            last_status=999,
            short_statuses={409: 1, 501: 1},
        ),
        RetryPolicy("submit", jitter_crowd=0.25, give_up_after=300.0, short_statuses=_PERMANENT),
        RetryPolicy("poll", first_wait=0.5, max_wait=30.0, jitter_below=0.25, give_up_after=900.0),
        # Around a whole sample; what limits it is the watch for progress.
        RetryPolicy("sampling", first_wait=0.5, max_wait=10.0, jitter_around=0.25),
        RetryPolicy("telemetry", max_wait=10.0, jitter_below=0.25, attempts=4, give_up_after=30.0),
    )
}


@dataclass(frozen=True)
class RetryConfig:
    """How the samples of one sampling client are retried; names and defaults of the 0.7.0 client.

    Raises:
        ValueError: ``max_connections`` is not positive.
    """

    #: Most samples in progress at once, from dispatch to result.
    max_connections: int = 1000
    #: A sample fails when none has succeeded for this many seconds.
    progress_timeout: float = 7200.0
    retry_delay_base: float = 0.5
    retry_delay_max: float = 10.0
    jitter_factor: float = 0.25
    enable_retry_logic: bool = True
    retryable_exceptions: Tuple[Type[BaseException], ...] = (
        TimeoutError,
        APIConnectionError,
        PromiseExpiredError,
    )

    def __post_init__(self) -> None:
        if not self.max_connections > 0:
            raise ValueError(f"max_connections must be positive, got {self.max_connections}")

    def redraws(self, error: BaseException) -> bool:
        """Whether a sample that failed so is drawn anew, under a new number.

        Not where it may yet have a result: a connection that broke, or time that ran out.
        """
        if not self.enable_retry_logic or isinstance(error, (TimeoutError, APIConnectionError, ClosedError)):
            return False
        return isinstance(error, self.retryable_exceptions)

    def policy(self) -> RetryPolicy:
        """The policy around a whole sample that these settings make."""
        return replace(
            POLICIES["sampling"],
            first_wait=self.retry_delay_base,
            max_wait=self.retry_delay_max,
            jitter_around=self.jitter_factor,
            exceptions=self.retryable_exceptions,
        )


class Attempts:
    """What one retried call has been through; handed to the callbacks. Used by one thread."""

    def __init__(self, policy: RetryPolicy, clock: Clock, deadline: Optional[float] = None) -> None:
        self.policy = policy
        self.clock = clock
        self.deadline = deadline
        self.started = clock.time()
        #: Attempts made, the running one included.
        self.number = 0
        self.warned = False
        #: Whether other calls wait for a retry at the same time.
        self.crowded: Callable[[], bool] = lambda: False
        #: Where jitter comes from: numbers in [0, 1).
        self.draw: Callable[[], float] = random.random
        #: First contact: give up once nothing reached the server for this long.
        self.unreachable_after: Optional[float] = None
        #: When the last attempt began.
        self.began = self.started
        #: Whether an earlier attempt may have reached the server although its reply was lost.
        self.in_doubt = False

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        return self.clock.time() - self.started

    def left(self) -> Optional[float]:
        """Seconds until the policy gives up, or None."""
        limit = self.policy.give_up_after
        return None if limit is None else limit - self.elapsed

    def cut_at(self) -> Optional[float]:
        """When the running attempt has to end so that the policy's limit holds, or None."""
        limit = self.policy.give_up_after
        return None if limit is None else max(self.started + limit, self.began + _LEAST_ATTEMPT)

    def exclude(self, seconds: float) -> None:
        """Do not count ``seconds`` that the running attempt spent on something else than trying."""
        self.started += seconds
        self.began += seconds


def _attempts(state: tenacity.RetryCallState) -> Attempts:
    attempts: Attempts = state.args[0]
    return attempts


def _failure(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    assert error is not None
    return error


def _should_retry(state: tenacity.RetryCallState) -> bool:
    if state.outcome is None or not state.outcome.failed:
        return False
    attempts = _attempts(state)
    return attempts.policy.retries(_failure(state), attempts.number)


def _should_stop(state: tenacity.RetryCallState) -> bool:
    attempts = _attempts(state)
    if attempts.unreachable_after is not None and getattr(_failure(state), "unsent", False):
        # No attempt that would take as long as the last one may begin too late to end in time.
        took = attempts.clock.time() - attempts.began
        if attempts.elapsed + took >= attempts.unreachable_after:
            return True
    left = attempts.left()
    limit = attempts.policy.attempts
    took = attempts.clock.time() - attempts.began
    return (limit is not None and attempts.number >= limit) or (
        left is not None and (left <= 0 or left < min(took, _WORTH_TRYING))
    )


def _wait(state: tenacity.RetryCallState) -> float:
    attempts, error = _attempts(state), _failure(state)
    delay: Optional[float] = getattr(error, "retry_after", None)
    if delay is None:
        delay = attempts.policy.wait(attempts.number - 1, attempts.draw, attempts.crowded())
    left = attempts.left()
    if attempts.unreachable_after is not None and getattr(error, "unsent", False):
        left = min(left if left is not None else math.inf, attempts.unreachable_after - attempts.elapsed)
    return delay if left is None else min(delay, left)


# tenacity keeps the state of a run in the thread and in the call state, so one object serves every thread.
_RETRYING = tenacity.Retrying(retry=_should_retry, stop=_should_stop, wait=_wait, reraise=True)


def run(
    attempts: Attempts,
    send: Callable[[Attempts], T],
    sleep: Callable[[float], None],
    scheduled: Optional[Callable[[Attempts, float, BaseException], None]] = None,
) -> T:
    """Call ``send`` until it succeeds, is refused for good, or the policy gives up.

    Args:
        attempts: Fresh for each call; says which policy.
        sleep: Waits; raises to end the call (closed, deadline).
        scheduled: Told before each wait: attempts so far, seconds, the error.

    Raises:
        Exception: what the last attempt raised, with ``attempts`` and ``elapsed`` filled in if it is an APIError.
    """
    _RETRYING.begin()
    state = tenacity.RetryCallState(retry_object=_RETRYING, fn=None, args=(attempts,), kwargs={})
    while True:
        try:
            action = _RETRYING.iter(retry_state=state)
        except (APIStatusError, APIConnectionError) as error:
            error.attempts, error.elapsed = attempts.number, attempts.elapsed
            if attempts.number > 1:
                _say_how_often(error)
            raise
        if isinstance(action, tenacity.DoAttempt):
            attempts.number += 1
            attempts.began = attempts.clock.time()
            try:
                result = send(attempts)
            except Exception as error:  # tenacity decides what is retried
                attempts.in_doubt = attempts.in_doubt or _leaves_doubt(error)
                state.set_exception(sys.exc_info())  # type: ignore[arg-type]
            else:
                state.set_result(result)
        elif isinstance(action, tenacity.DoSleep):
            failure = _failure(state)
            state.prepare_for_next_attempt()
            if scheduled is not None:
                scheduled(attempts, float(action), failure)
            if not attempts.warned and attempts.elapsed + float(action) >= _WARN_AFTER:
                attempts.warned = True
                _log.warning(
                    "Still retrying after %.0f s and %d attempts: %s: %s",
                    attempts.elapsed,
                    attempts.number,
                    type(failure).__name__,
                    failure,
                )
            sleep(float(action))
        else:
            return action  # type: ignore[no-any-return]


def _leaves_doubt(error: BaseException) -> bool:
    if isinstance(error, APIStatusError):
        return error.status_code >= 500 and error.status_code != 501
    if isinstance(error, APIConnectionError):
        return not error.unsent
    return isinstance(error, (TimeoutError, TinkexError))


def _say_how_often(error: Any) -> None:
    """Put attempts and time into the text; the last cause is the error itself."""
    note = f" (gave up after {error.attempts} attempts in {error.elapsed:.1f} s)"
    if error.args and isinstance(error.args[0], str) and note not in error.args[0]:
        error.args = (error.args[0] + note, *error.args[1:])
