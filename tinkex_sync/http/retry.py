"""Retry policies, composed from tenacity's strategies and strategies of the same form defined here.

A call has exactly one policy, and tenacity runs its loop: ``Retrying.__call__`` for calls, ``Retrying.iter`` for each
step of polls and samples. The strategies defined here read the :class:`Attempts` of the call, which is its last
argument. They measure time on the client's clock. Users replace the strategies of a policy with
``Config.retry_strategies``.

The rules are those of version 0.7.0 of the official SDK, with changes for the behaviour observed in SkyRL, TuFT and
Hatchery.
"""

from __future__ import annotations

import contextlib
import email.utils
import math
import random
import time
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, Iterator, Mapping, Optional, Tuple, Type, cast

import tenacity
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .. import errors
from ..concurrency.clock import Clock
from ..concurrency.primitives import Lock
from ..config import Config, RetryStrategies
from ..logs import get_logger

_log = get_logger(__name__)

#: A valid poll that fails with 400 is sent again at most this often (protocol 0.38).
MOST_BAD_POLLS = 3
#: Seconds of retrying after which a WARNING is logged, and seconds until the next one for the same kind of error.
_WARN_AFTER, _WARN_EVERY = 10.0, 300.0
#: Characters of an error in that WARNING; a gateway's page is longer.
_LONGEST_TEXT = 300
#: A retry is not started if the previous attempt took longer than the time left. Attempts longer than this count as
#: this long, in seconds.
_LONG_ATTEMPT = 30.0
#: Longest wait in seconds that a server may request. Other values are ignored, as in the 0.7.0 client.
_LONGEST_RETRY_AFTER = 60.0
#: The largest share of a wait that is subtracted at random.
_JITTER = 0.25
#: Statuses of gateways, login pages and firewalls, if the body is a page or empty.
_INTERMEDIARY_STATUSES = frozenset((*range(300, 400), 400, 401, 403, 407, 421, 499))
#: Attempts after which a status is final, because known servers return it permanently.
_PERMANENT = {409: 3, 501: 3}


def is_transient(status: int, last: int = 599) -> bool:
    """Return whether a request that failed with this status may succeed later: 408, 409, 429, or 500 to ``last``."""
    return status in (408, 409, 429) or 500 <= status <= last


def is_from_intermediary(error: Optional[BaseException]) -> bool:
    """Return whether a failed response is that of a gateway or proxy: a page, nothing, or a redirect.

    Statuses from 500 on are retried in any case, and 404 and 413 are final.
    """
    body = getattr(error, "body", None)
    if not isinstance(body, str):
        return False
    is_page = not body.strip() or body.lstrip().startswith("<")
    if isinstance(error, errors.APIStatusError):
        return error.status_code in _INTERMEDIARY_STATUSES and (is_page or error.status_code < 400)
    return isinstance(error, errors.APIResponseValidationError) and is_page


def may_have_arrived(error: BaseException) -> bool:
    """Return whether the server may have carried out a request that failed with ``error``."""
    if isinstance(error, errors.APIStatusError) and not is_from_intermediary(error):
        return error.status_code >= 500 and error.status_code != 501
    return not getattr(error, "unsent", False) and getattr(error, "sent", "unknown") != "no"


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """Return the wait that a server requests, in seconds: ``retry-after-ms``, else ``Retry-After`` as seconds or date.

    Args:
        headers: Names in lower case.

    Returns:
        None if there is no such header, or if its value is not within (0, 60].
    """
    value = 0.0
    try:
        value = float(headers.get("retry-after-ms", "")) / 1000
    except ValueError:
        text = headers.get("retry-after", "")
        try:
            value = float(text)
        except ValueError:
            # Years and offsets that no calendar has raise any of these.
            with contextlib.suppress(ValueError, OverflowError, TypeError, IndexError):
                # An HTTP date is wall-clock time; no monotonic clock can be compared with it.
                value = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    return value if 0 < value <= _LONGEST_RETRY_AFTER else None


@dataclass(eq=False)
class Attempts:
    """The attempts of one retried call. Used by one thread at a time."""

    policy: RetryPolicy
    clock: Clock
    #: Returns whether other calls of the client wait for a retry at the same time.
    is_crowded: Callable[[], bool] = lambda: False
    #: Attempts made, the running one included.
    number: int = 0
    #: HTTP requests made for them, for observers.
    requests: int = 0
    #: Seconds that an attempt may take at least, even if the policy's limit is nearer.
    shortest: float = 5.0
    #: Returns random numbers in [0, 1) for jitter.
    random: Callable[[], float] = random.random
    #: At the first contact: stop when no attempt has reached the server for this many seconds. Else infinite.
    unreachable_after: float = math.inf
    #: Whether an earlier attempt may have reached the server although its response was lost.
    in_doubt: bool = False
    #: Time of the clock at which the first attempt started.
    started: float = field(init=False)
    #: Time of the clock at which the last attempt started.
    attempt_started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.attempt_started = self.clock.time()

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

    def remaining(self) -> float:
        """Return the seconds until the policy's limit; infinite if it has none."""
        return self.policy.limit - self.elapsed

    def last_attempt_took(self) -> float:
        """Return the seconds that the last attempt took. Call it when the attempt has failed."""
        return self.clock.time() - self.attempt_started

    def ends_at(self) -> float:
        """Return the time at which the running attempt must end so that the policy's limit holds."""
        return max(self.started + self.policy.limit, self.attempt_started + self.shortest)

    def failure_state(self, error: BaseException) -> tenacity.RetryCallState:
        """Return tenacity's state of a call whose last attempt failed with ``error``."""
        state = tenacity.RetryCallState(retry_object=None, fn=None, args=(self,), kwargs={})  # type: ignore[arg-type]
        state.attempt_number = self.number
        state.set_exception((type(error), error, error.__traceback__))
        return state

    def describe(self, error: errors.APIError, subject: str = "") -> None:
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
    return cast(Attempts, state.args[-1])


def _failure(state: tenacity.RetryCallState) -> Optional[BaseException]:
    return None if state.outcome is None else state.outcome.exception()


def _is_unreachable(state: tenacity.RetryCallState) -> bool:
    """Return whether the last attempt did not reach the server."""
    return getattr(_failure(state), "unsent", False)


class retry_if_status(retry_base):  # noqa: N801 - tenacity's own strategies have such names
    """Retry 408, 409, 429 and the statuses from 500 to ``last``, unless the header ``x-should-retry`` decides.

    Args:
        last: Highest status that is retried.
        limited: Attempts after which a status is final. A 409 is limited only if its body has a ``detail``.
    """

    def __init__(self, last: int = 599, limited: Mapping[int, int] = _PERMANENT) -> None:
        self._last = last
        self._limited = limited

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        error = _failure(retry_state)
        if not isinstance(error, errors.APIStatusError):
            return False
        override = error.headers.get("x-should-retry")
        if override in ("true", "false"):
            return override == "true"
        status = error.status_code
        has_detail = isinstance(error.body, dict) and "detail" in error.body
        limit = self._limited.get(status, math.inf) if has_detail or status != 409 else math.inf
        return is_transient(status, self._last) and _attempts(retry_state).number < limit


class retry_if_intermediary(retry_base):  # noqa: N801
    """Retry responses that gateways and proxies return instead of the API, except at the first contact."""

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return is_from_intermediary(_failure(retry_state)) and _attempts(retry_state).unreachable_after == math.inf


def _is_connection_failure(error: BaseException) -> bool:
    # A deadline of the caller is a TimeoutError too, and final.
    is_failure = isinstance(error, (errors.APIConnectionError, TimeoutError))
    return is_failure and not isinstance(error, errors.DeadlineExceeded) and not getattr(error, "is_final", False)


class stop_at_limit(stop_base):  # noqa: N801
    """Stop when the policy's limit is reached, or when an attempt as long as the last one cannot end before it.

    A first attempt without any response is followed by a second one, which may take as long: the connection was dead.

    Args:
        long_attempt: Longer attempts count as this long, in seconds; 0: the last attempt starts at the limit.
    """

    def __init__(self, long_attempt: float = _LONG_ATTEMPT) -> None:
        self._long_attempt = long_attempt

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        attempts = _attempts(retry_state)
        left = attempts.remaining()
        failure = _failure(retry_state)
        if attempts.number == 1 and isinstance(failure, errors.APITimeoutError) and not failure.unsent:
            attempts.shortest = max(attempts.shortest, attempts.last_attempt_took())
            return False
        return left <= 0 or left < min(attempts.last_attempt_took(), self._long_attempt)


class stop_when_unreachable(stop_base):  # noqa: N801
    """Stop when no attempt of the first contact reached the server for ``Config.first_contact_timeout`` seconds."""

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        attempts = _attempts(retry_state)
        spent = attempts.elapsed + attempts.last_attempt_took()
        return _is_unreachable(retry_state) and spent >= attempts.unreachable_after


class with_jitter(wait_base):  # noqa: N801
    """Subtract a random share of at most 25 % from another wait, so that clients do not retry at the same time.

    Args:
        only_when_crowded: Only while other calls of the client wait for a retry.
    """

    def __init__(self, wait: wait_base, *, only_when_crowded: bool = False) -> None:
        self._wait = wait
        self._only_when_crowded = only_when_crowded

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        attempts = _attempts(retry_state)
        delay = self._wait(retry_state)
        if self._only_when_crowded and not attempts.is_crowded():
            return delay
        return delay * (1 - _JITTER * attempts.random())


class wait_within_limit(wait_base):  # noqa: N801
    """Wait as long as the response requests (``Retry-After``), else as ``otherwise``.

    The wait ends at the policy's limit and, while the server is unreachable, at the limit of the first contact.
    """

    def __init__(self, otherwise: wait_base) -> None:
        self._otherwise = otherwise

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        attempts = _attempts(retry_state)
        requested: Optional[float] = getattr(_failure(retry_state), "retry_after", None)
        delay = self._otherwise(retry_state) if requested is None else requested
        if _is_unreachable(retry_state):
            delay = min(delay, attempts.unreachable_after - attempts.elapsed)
        return max(0.0, min(delay, attempts.remaining()))


# Policies


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed call is retried, how long it waits before that, and when it gives up."""

    name: str
    retry: retry_base
    wait: wait_base
    stop: stop_base
    #: Seconds after the start of the first attempt at which the running attempt is cut. Infinite: no limit.
    limit: float = math.inf

    def retrying(
        self, sleep: Callable[[float], None], before_sleep: Callable[[tenacity.RetryCallState], None]
    ) -> tenacity.Retrying:
        """Return tenacity's loop for one call, ``retrying(function, *arguments)``.

        The last argument is the :class:`Attempts` of the call; ``function`` runs each attempt in its ``running()``.

        Args:
            sleep: Waits; raises to end the call (closed, deadline).
            before_sleep: Called before each wait with tenacity's state.
        """
        return tenacity.Retrying(sleep, self.stop, self.wait, self.retry, before_sleep=before_sleep, reraise=True)

    def next_delay(self, attempts: Attempts, error: BaseException, is_transient: bool = False) -> float:
        """Return the seconds to wait after a failed attempt: one step of tenacity's loop.

        Polls and samples use it, because a sample must not hold a thread while it waits, and because most polls without
        a result are not failures.

        Args:
            attempts: The attempts so far, the failed one included.
            error: The error of the last one.
            is_transient: Whether it is known that a retry may succeed, so that ``retry`` is not applied.

        Raises:
            BaseException: ``error``, if it is final or the policy gives up.
        """
        retry = tenacity.retry_always if is_transient else self.retry
        loop = tenacity.Retrying(stop=self.stop, wait=self.wait, retry=retry, reraise=True)
        loop.begin()
        delay: float = loop.iter(attempts.failure_state(error))  # type: ignore[assignment]
        return delay


_TRANSPORT_FAILURE = tenacity.retry_if_exception(_is_connection_failure) | retry_if_intermediary()


def make_policies(config: Config) -> Dict[str, RetryPolicy]:
    """Compose the policies from the settings, by name. docs/retries.md describes them."""

    def policy(name: str, retry: retry_base, wait: wait_base, stop: stop_base, limit: float) -> RetryPolicy:
        ours = RetryPolicy(
            name, retry | _TRANSPORT_FAILURE, wait_within_limit(wait), stop | stop_when_unreachable(), limit
        )
        users = vars(config.retry_strategies.get(name, RetryStrategies()))
        given = {part: strategy for part, strategy in users.items() if strategy is not None}
        return replace(ours, **given, limit=math.inf if "stop" in given else limit)

    # Endpoints that some servers lack: a 409 or 501 means that this server does.
    once = {409: 1, 501: 1}
    attempts = tenacity.stop_after_attempt(config.max_retries + 1)
    short_wait = with_jitter(tenacity.wait_exponential(0.5, 10.0))
    submit_wait = with_jitter(tenacity.wait_exponential(1.0, 30.0), only_when_crowded=True)
    poll_wait = with_jitter(tenacity.wait_exponential(0.5, 30.0))
    telemetry_wait = with_jitter(tenacity.wait_exponential(1.0, 10.0))
    telemetry_stop = stop_at_limit() | tenacity.stop_after_attempt(4)
    made = (
        # Every status from 500 on is transient, as in the 0.7.0 client.
        policy("short", retry_if_status(last=999), short_wait, attempts, math.inf),
        policy("optional", retry_if_status(999, once), short_wait, attempts, math.inf),
        policy("submit", retry_if_status(), submit_wait, stop_at_limit(), config.retry_for),
        policy("sampling", retry_if_status(), submit_wait, stop_at_limit(), config.retry_for),
        # A long poll that fails after a minute is no reason to give up a minute before the limit.
        policy("poll", retry_if_status(limited=once), poll_wait, stop_at_limit(0.0), config.poll_retry_for),
        policy("telemetry", retry_if_status(), telemetry_wait, telemetry_stop, 30.0),
    )
    return {one.name: one for one in made}


_RETRYABLE = (TimeoutError, errors.APIConnectionError, errors.PromiseExpiredError)


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
    retryable_exceptions: Tuple[Type[BaseException], ...] = _RETRYABLE

    def __post_init__(self) -> None:
        if not self.max_connections > 0:
            raise ValueError(f"max_connections must be positive, got {self.max_connections}")

    def is_retryable(self, error: BaseException) -> bool:
        """Return whether a sample that failed with ``error`` may succeed when it is repeated."""
        if isinstance(error, errors.APIStatusError):
            return is_transient(error.status_code)
        return isinstance(error, self.retryable_exceptions) and not isinstance(error, errors.DeadlineExceeded)

    def should_resubmit(self, error: BaseException) -> bool:
        """Return whether a sample that failed with ``error`` is submitted again with a new ``seq_id``.

        A sample that may still have a result never is: its connection broke, or its time ran out.
        """
        may_have_result = isinstance(error, (TimeoutError, errors.APIConnectionError, errors.ClosedError))
        return self.enable_retry_logic and not may_have_result and isinstance(error, self.retryable_exceptions)

    def resubmit_delay(self, resubmissions: int, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait before resubmission number ``resubmissions`` (from 0)."""
        delay = min(self.retry_delay_base * 2.0 ** min(resubmissions, 60), self.retry_delay_max)
        delay += delay * self.jitter_factor * (2 * draw() - 1)
        return min(max(delay, 0.0), self.retry_delay_max)


class RetryLog:
    """Logs one WARNING for all calls of a client that have been retrying for one reason. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._logged: Dict[str, float] = {}  # guarded by _lock; when a kind of error was last logged

    def report(self, attempts: Attempts, delay: float, error: BaseException, operation: str, waiting: int) -> None:
        """Log a call that is retried in ``delay`` seconds, if no call with such an error was logged lately.

        Args:
            waiting: Number of calls of the client that wait for a retry.
        """
        if attempts.elapsed + delay < _WARN_AFTER:
            return
        kind, now = type(error).__name__, self._clock.time()
        with self._lock:
            if now - self._logged.get(kind, -math.inf) < _WARN_EVERY:
                return
            self._logged[kind] = now
        text, shown = "Still retrying: operation=%s calls=%d elapsed=%.0fs attempts=%d error=%s", f"{kind}: {error}"
        _log.warning(text, operation, waiting, attempts.elapsed, attempts.number, shown[:_LONGEST_TEXT])
