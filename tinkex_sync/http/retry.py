"""Retry policies, composed from tenacity's strategies and strategies of the same form defined here.

A call has exactly one policy, and tenacity runs its loop. The strategies defined here read the :class:`Attempts` of
the call, which is the last argument of the retried function. They measure time on the client's clock. Users replace
the strategies of a policy with ``Config.retry_strategies``.

The rules are those of version 0.7.0 of the official SDK, with changes for the behaviour observed in SkyRL, TuFT and
Hatchery.
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import time
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, Mapping, Optional, Tuple, Type

import tenacity
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from ..concurrency.clock import Clock
from ..config import Config, RetryStrategies
from ..errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    ClosedError,
    DeadlineExceeded,
    PromiseExpiredError,
)
from ..logs import get_logger

__all__ = [
    "MOST_BAD_POLLS",
    "Attempts",
    "RetryConfig",
    "RetryPolicy",
    "is_transient",
    "log_long_retry",
    "make_policies",
    "may_have_arrived",
    "retry_after",
    "retry_if_status",
    "stop_at_limit",
    "stop_when_unreachable",
    "wait_requested",
    "wait_within_limit",
    "with_jitter",
]

_log = get_logger(__name__)

#: Error statuses below 500 that are retried.
_TRANSIENT = frozenset({408, 409, 429})
#: A valid poll that fails with 400 is sent again at most this often (protocol 0.38).
MOST_BAD_POLLS = 3
#: Seconds of retrying after which a WARNING is logged.
_WARN_AFTER = 10.0
#: A retry with less time left than this is not started if the previous attempt took as long.
_LONG_ATTEMPT = 30.0
#: Seconds an attempt is given at least, however little time is left.
_SHORTEST_ATTEMPT = 5.0
#: Seconds a server may request as a wait; longer and non-positive values are ignored, as in the 0.7.0 client.
_LONGEST_RETRY_AFTER = 60.0
#: Attempts after which a status is final, because known servers return it permanently.
_PERMANENT = {409: 3, 501: 3}


def is_transient(status: int, last: int = 599) -> bool:
    """Return whether a request that failed with this status may succeed later: 408, 409, 429, or 500 to ``last``."""
    return status in _TRANSIENT or 500 <= status <= last


def may_have_arrived(error: BaseException) -> bool:
    """Return whether the server may have carried out a request that failed with ``error``."""
    if isinstance(error, APIStatusError):
        return error.status_code >= 500 and error.status_code != 501
    return not getattr(error, "unsent", False) and getattr(error, "sent", "unknown") != "no"


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """Return the wait a server requests, in seconds: ``retry-after-ms``, else ``Retry-After`` as seconds or date.

    Args:
        headers: Names in lower case.

    Returns:
        None if there is no such header, or if its value is not within (0, 60].
    """
    value: Optional[float] = None
    try:
        value = float(headers["retry-after-ms"]) / 1000
    except (KeyError, ValueError):
        text = headers.get("retry-after", "")
        try:
            value = float(text)
        except ValueError:
            # Years and offsets that no calendar has raise any of these.
            with contextlib.suppress(ValueError, OverflowError, TypeError, IndexError):
                # An HTTP date is wall-clock time; no monotonic clock can be compared with it.
                value = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    return value if value is not None and 0 < value <= _LONGEST_RETRY_AFTER else None


class Attempts:
    """The attempts of one retried call. Used by one thread at a time."""

    def __init__(self, policy: RetryPolicy, clock: Clock) -> None:
        self.policy = policy
        self.clock = clock
        self.started = clock.time()
        #: Attempts made, the running one included.
        self.number = 0
        #: HTTP requests made for them, for observers.
        self.requests = 0
        self.warned = False
        #: Returns whether other calls of the client wait for a retry at the same time.
        self.is_crowded: Callable[[], bool] = lambda: False
        #: Returns random numbers in [0, 1) for jitter.
        self.random: Callable[[], float] = random.random
        #: First contact: stop once no attempt reached the server for this many seconds.
        self.unreachable_after: Optional[float] = None
        #: When the last attempt started.
        self.attempt_started = self.started
        #: Whether an earlier attempt may have reached the server although its response was lost.
        self.in_doubt = False

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt started."""
        return self.clock.time() - self.started

    def start(self) -> None:
        """Count one more attempt."""
        self.number += 1
        self.attempt_started = self.clock.time()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count one more attempt, which a ``with`` block makes, and keep ``in_doubt`` up to date."""
        self.start()
        try:
            yield
        except Exception as error:
            self.in_doubt = self.in_doubt or may_have_arrived(error)
            raise

    def remaining(self) -> Optional[float]:
        """Return the seconds until the policy's limit, or None if it has none."""
        return None if self.policy.limit is None else self.policy.limit - self.elapsed

    def ends_at(self) -> Optional[float]:
        """Return the time at which the running attempt must end so that the policy's limit holds, or None."""
        if self.policy.limit is None:
            return None
        return max(self.started + self.policy.limit, self.attempt_started + _SHORTEST_ATTEMPT)

    def describe(self, error: APIError, subject: str = "") -> None:
        """Add the number of attempts and their time to the final error and its message, after a ``subject``."""
        error.attempts, error.elapsed = self.number, self.elapsed
        if self.number > 1 and error.args and isinstance(error.args[0], str):
            note = f" ({subject}gave up after {error.attempts} attempts in {error.elapsed:.1f} s)"
            error.args = (error.args[0].removesuffix(note) + note, *error.args[1:])

    def exclude(self, seconds: float) -> None:
        """Exclude ``seconds`` of the running attempt from its time: it waited for a permit or a payment."""
        self.started += seconds
        self.attempt_started += seconds


# Strategies in tenacity's form


def _attempts(state: tenacity.RetryCallState) -> Attempts:
    attempts: Attempts = state.args[-1]
    return attempts


def _failure(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    assert error is not None
    return error


class retry_if_status(retry_base):  # noqa: N801 - tenacity's own strategies have such names
    """Retry 408, 409, 429 and the statuses from 500 to ``last``; ``x-should-retry`` of the response overrides.

    Args:
        last: Highest status that is retried.
        limited: Attempts after which a status is final. A 409 is limited only if its body has a ``detail``.
    """

    def __init__(self, last: int = 599, limited: Optional[Mapping[int, int]] = None) -> None:
        self._last = last
        self._limited = dict(_PERMANENT if limited is None else limited)

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        error = _failure(retry_state) if retry_state.outcome and retry_state.outcome.failed else None
        if not isinstance(error, APIStatusError):
            return False
        override = error.headers.get("x-should-retry")
        if override in ("true", "false"):
            return override == "true"
        status = error.status_code
        if not is_transient(status, self._last):
            return False
        limit = self._limited.get(status)
        has_detail = isinstance(error.body, dict) and "detail" in error.body
        return limit is None or _attempts(retry_state).number < limit or (status == 409 and not has_detail)


def _is_connection_failure(error: BaseException) -> bool:
    # A deadline of the caller is a TimeoutError too, and final.
    is_failure = isinstance(error, (APIConnectionError, TimeoutError)) and not isinstance(
        error, DeadlineExceeded
    )
    return is_failure and not getattr(error, "is_final", False)


class stop_at_limit(stop_base):  # noqa: N801
    """Stop when the policy's limit is reached, or when an attempt as long as the last one cannot end before it.

    Args:
        long_attempt: Longer attempts count as this long, in seconds; 0: the last attempt starts at the limit.
    """

    def __init__(self, long_attempt: float = _LONG_ATTEMPT) -> None:
        self._long_attempt = long_attempt

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        attempts = _attempts(retry_state)
        left = attempts.remaining()
        took = attempts.clock.time() - attempts.attempt_started
        return left is not None and (left <= 0 or left < min(took, self._long_attempt))


class stop_when_unreachable(stop_base):  # noqa: N801
    """Stop when no attempt of the first contact reached the server for ``Config.first_contact_timeout`` seconds."""

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        attempts = _attempts(retry_state)
        if attempts.unreachable_after is None or not getattr(_failure(retry_state), "unsent", False):
            return False
        took = attempts.clock.time() - attempts.attempt_started
        return attempts.elapsed + took >= attempts.unreachable_after


class with_jitter(wait_base):  # noqa: N801
    """Change another wait at random, so that clients do not retry at the same time.

    Args:
        below: At most this share is subtracted.
        around: At most this share is added or subtracted; the result is at most ``longest`` seconds.
        crowded: As ``below``, but only while other calls of the client wait for a retry.
    """

    def __init__(
        self,
        wait: wait_base,
        *,
        below: float = 0.0,
        around: float = 0.0,
        crowded: float = 0.0,
        longest: float = 30.0,
    ) -> None:
        self._wait = wait
        self._below = below
        self._around = around
        self._crowded = crowded
        self._longest = longest

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        attempts = _attempts(retry_state)
        delay = self._wait(retry_state)
        below = self._below or (self._crowded if attempts.is_crowded() else 0.0)
        if below:
            delay *= 1 - below * attempts.random()
        if self._around:
            delay += delay * self._around * (2 * attempts.random() - 1)
            delay = min(max(delay, 0.0), self._longest)
        return delay


class wait_requested(wait_base):  # noqa: N801
    """Wait as long as the response requests (``Retry-After``), else as ``otherwise``."""

    def __init__(self, otherwise: wait_base) -> None:
        self._otherwise = otherwise

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        requested: Optional[float] = getattr(_failure(retry_state), "retry_after", None)
        return self._otherwise(retry_state) if requested is None else requested


class wait_within_limit(wait_base):  # noqa: N801
    """Shorten another wait to the time left until the policy's limit and, at first contact, until its limit."""

    def __init__(self, wait: wait_base) -> None:
        self._wait = wait

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        attempts = _attempts(retry_state)
        limits = [self._wait(retry_state)]
        left = attempts.remaining()
        if left is not None:
            limits.append(left)
        if attempts.unreachable_after is not None and getattr(_failure(retry_state), "unsent", False):
            limits.append(attempts.unreachable_after - attempts.elapsed)
        return max(0.0, min(limits))


# Policies


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed call is retried, how long it waits before that, and when it gives up."""

    name: str
    retry: retry_base
    wait: wait_base
    stop: stop_base
    #: Seconds after the first attempt at which the running attempt is cut; None: no limit.
    limit: Optional[float] = None

    def retrying(
        self, sleep: Callable[[float], None], before_sleep: Callable[[tenacity.RetryCallState], None]
    ) -> tenacity.Retrying:
        """Return tenacity's loop for one call, ``retrying(function, *arguments)``.

        The last argument is the :class:`Attempts` of the call; ``function`` runs each attempt in its ``running()``.

        Args:
            sleep: Waits; raises to end the call (closed, deadline).
            before_sleep: Called before each wait with tenacity's state.
        """
        return tenacity.Retrying(
            retry=self.retry,
            wait=self.wait,
            stop=self.stop,
            sleep=sleep,
            before_sleep=before_sleep,
            reraise=True,
        )

    def next_delay(self, attempts: Attempts, error: BaseException, is_transient: bool = False) -> float:
        """Return the seconds to wait after a failed attempt, for operations that must not hold a thread meanwhile.

        Args:
            attempts: The attempts so far, the failed one included.
            error: The error of the last one.
            is_transient: Whether it is known that a retry may succeed, so that ``retry`` is not applied.

        Raises:
            BaseException: ``error``, if it is final or the policy gives up.
        """
        state = _failed_state(attempts, error)
        if not (is_transient or self.retry(state)) or self.stop(state):
            raise error
        return self.wait(state)

    def backoff(self, attempts: Attempts, error: BaseException) -> float:
        """Return the seconds to wait after an attempt that failed with ``error``, without checking ``retry``."""
        return self.wait(_failed_state(attempts, error))

    def is_retryable(self, attempts: Attempts, error: BaseException) -> bool:
        """Return whether the policy retries an attempt that failed with ``error``, limits aside."""
        return self.retry(_failed_state(attempts, error))

    def with_strategies(self, strategies: RetryStrategies) -> RetryPolicy:
        """Return this policy with a user's strategies in place of ours where they are given."""
        given = {name: value for name, value in vars(strategies).items() if value is not None}
        if "stop" in given:
            given["limit"] = None
        return replace(self, **given) if given else self


def _failed_state(attempts: Attempts, error: BaseException) -> tenacity.RetryCallState:
    """Return tenacity's state of a call whose last attempt failed with ``error``."""
    state = tenacity.RetryCallState(retry_object=None, fn=None, args=(attempts,), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempts.number
    state.set_exception((type(error), error, error.__traceback__))
    return state


def _exponential(first: float, longest: float) -> wait_base:
    return tenacity.wait_exponential(multiplier=first, max=longest)


_CONNECTION_FAILURE = tenacity.retry_if_exception(_is_connection_failure)


def make_policies(config: Config) -> Dict[str, RetryPolicy]:
    """Compose the policies from the settings, by name. docs/retries.md describes them."""
    transient = retry_if_status() | _CONNECTION_FAILURE
    # Endpoints that some servers lack: a 409 or 501 means that this server does.
    once = {409: 1, 501: 1}
    attempts = tenacity.stop_after_attempt(config.max_retries + 1)
    short_wait = with_jitter(_exponential(0.5, 10.0), below=0.25)
    submit_wait = with_jitter(_exponential(1.0, 30.0), crowded=0.25)
    poll_wait = with_jitter(_exponential(0.5, 30.0), below=0.25)
    telemetry_wait = with_jitter(_exponential(1.0, 10.0), below=0.25)
    made = (
        # Every status from 500 on is transient, as in the 0.7.0 client.
        _policy("short", retry_if_status(last=999) | _CONNECTION_FAILURE, short_wait, attempts),
        _policy("optional", retry_if_status(999, once) | _CONNECTION_FAILURE, short_wait, attempts),
        _policy("submit", transient, submit_wait, stop_at_limit(), config.retry_for),
        _policy("sampling", transient, submit_wait, stop_at_limit(), config.retry_for),
        # A long poll that fails after a minute is no reason to give up a minute before the limit.
        _policy(
            "poll",
            retry_if_status(limited=once) | _CONNECTION_FAILURE,
            poll_wait,
            stop_at_limit(0.0),
            config.poll_retry_for,
        ),
        _policy(
            "telemetry", transient, telemetry_wait, stop_at_limit() | tenacity.stop_after_attempt(4), 30.0
        ),
    )
    given = config.retry_strategies
    return {policy.name: policy.with_strategies(given.get(policy.name, RetryStrategies())) for policy in made}


def _policy(
    name: str, retry: retry_base, wait: wait_base, stop: stop_base, limit: Optional[float] = None
) -> RetryPolicy:
    return RetryPolicy(
        name, retry, wait_within_limit(wait_requested(wait)), stop | stop_when_unreachable(), limit
    )


@dataclass(frozen=True)
class RetryConfig:
    """How the samples of one sampling client are retried; names and defaults of the 0.7.0 client.

    Raises:
        ValueError: ``max_connections`` is not positive.
    """

    #: Samples in progress at the same time at most, from dispatch to result.
    max_connections: int = 1000
    #: A sample fails when no sample has succeeded for this many seconds.
    progress_timeout: float = 7200.0
    #: Seconds before the first repetition of a sample whose result was lost; doubled each time.
    retry_delay_base: float = 0.5
    retry_delay_max: float = 10.0
    #: At most this share is added to or subtracted from the delay.
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

    def is_retryable(self, error: BaseException) -> bool:
        """Return whether a sample that failed with ``error`` may succeed when it is repeated."""
        if isinstance(error, APIStatusError):
            return is_transient(error.status_code)
        return isinstance(error, self.retryable_exceptions) and not isinstance(error, DeadlineExceeded)

    def should_resubmit(self, error: BaseException) -> bool:
        """Return whether a sample that failed with ``error`` is submitted again with a new ``seq_id``.

        A sample that may still have a result never is: its connection broke, or its time ran out.
        """
        if not self.enable_retry_logic or isinstance(error, (TimeoutError, APIConnectionError, ClosedError)):
            return False
        return isinstance(error, self.retryable_exceptions)

    def resubmit_delay(self, resubmissions: int, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait before resubmission number ``resubmissions`` (from 0)."""
        delay = min(self.retry_delay_base * 2.0 ** min(resubmissions, 60), self.retry_delay_max)
        delay += delay * self.jitter_factor * (2 * draw() - 1)
        return min(max(delay, 0.0), self.retry_delay_max)


def log_long_retry(attempts: Attempts, delay: float, error: BaseException, subject: str) -> None:
    """Log one WARNING when a call has been retrying for ten seconds."""
    if attempts.warned or attempts.elapsed + delay < _WARN_AFTER:
        return
    attempts.warned = True
    _log.warning(
        "Still retrying %s: elapsed=%.0fs attempts=%d error=%s: %s",
        subject,
        attempts.elapsed,
        attempts.number,
        type(error).__name__,
        error,
    )
