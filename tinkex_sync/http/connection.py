"""Calls to the server: one linear path from a :class:`Request` to the transport, with one retry loop around it.

:meth:`Connection.call` runs the retry loop and decodes the response. Each attempt waits while the server requires
payment (402). :meth:`Connection.send_once` adds credentials, sends the request again after a reset of a kept-alive
connection, and reports to observers. :meth:`Transport.send` makes the HTTP request.
"""

from __future__ import annotations

import math
import os
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Optional

import tenacity

from .. import errors
from ..concurrency.clock import remaining
from ..concurrency.close_signal import CloseSignal
from ..concurrency.primitives import Event, Lock
from ..concurrency.timer import Timer
from ..config import Config
from ..plugins.events import Source
from ..plugins.registry import Observers
from ..protocol.negotiation import Capabilities, Negotiation
from ..types import AuthTokenRequest
from .auth import Credentials
from .call_state import CallState
from .error_advice import advise
from .payment_wait import PaymentWait
from .request import Request
from .retry import Attempts, RetryLog, make_policies, may_have_arrived
from .transport import Response, Transport

#: Seconds; a longer timeout means no deadline.
_LONGEST_TIMEOUT = 3e9


class Connection:
    """Sends requests to one server, retries them by their endpoint's policy, and reports to observers.

    Thread-safe. Invariant: once ``closing`` is set no request starts, and every wait ends with ClosedError.
    """

    def __init__(self, config: Config, observers: Observers) -> None:
        self.config = config
        self.clock = config.clock
        self.observers = observers
        self.closing = CloseSignal()
        #: Set whenever a call has been sent or has ended.
        self.sends_changed = Event()
        self.timer = Timer(self.clock)
        self.transport = Transport(config, self.timer)
        self.negotiation = Negotiation(config, self.transport.base_url, self.clock)
        self.payment_wait = PaymentWait(lambda: self.capabilities.payment_wait_limit, self.clock, observers)
        self.credentials = Credentials(config, self.timer)
        #: The source of requests that belong to no single client.
        self.source = Source("service", "", "")
        #: Time of the clock at which the server last confirmed the session; None before there is one.
        self.last_heartbeat: Optional[float] = None
        self._policies = make_policies(config)
        self._retry_log = RetryLog(self.clock)
        self._lock = Lock()
        self._retrying = 0  # guarded by _lock
        self._pid = os.getpid()

    @property
    def capabilities(self) -> Capabilities:
        """The server's capabilities, as negotiated so far."""
        return self.negotiation.capabilities

    def call(self, request: Request, attempts: Optional[Attempts] = None) -> Any:
        """Send a request, retry it by the policy of its endpoint, and decode the response.

        Args:
            request: The request. An endpoint without a policy is sent once.
            attempts: From :meth:`attempts`, for callers that read it afterwards.

        Returns:
            The decoded response; a :class:`~tinkex_sync.http.transport.Response` if the endpoint's row names no type;
            None if the server has no such endpoint and the row allows that, or if the error of a repeated request
            shows that an earlier attempt was carried out.

        Raises:
            APIError: The last attempt's, after the policy has given up.
            DeadlineExceeded: The deadline has passed.
            ClosedError, ForkedClientError: As :meth:`check_usable`.
        """
        row = request.row
        try:
            if row.policy is None:
                response = _decoded(request, self.send_once(request))
            else:
                made = attempts or self.attempts(row.policy)
                if request.first_contact:
                    made.unreachable_after = self.config.first_contact_timeout
                retrying = made.policy.retrying(
                    sleep=lambda delay: self.sleep(delay, request.deadline, request.call),
                    before_sleep=self._report_retry,
                )
                response = retrying(self._attempt, request, made)
            return response
        except errors.APIError as error:
            if row.policy is not None and isinstance(error, (errors.APIStatusError, errors.APIConnectionError)):
                made.describe(error)
            status = getattr(error, "status_code", None)
            if status in row.absent_statuses or (status in row.done_statuses and made.in_doubt):
                return None
            advise(error, self.config, request.first_contact)
            raise

    def attempts(self, policy: str) -> Attempts:
        """Return the record of a new call that is retried by ``policy``."""
        return Attempts(self._policies[policy], self.clock, is_crowded=lambda: self._retrying > 0)

    def _attempt(self, request: Request, attempts: Attempts) -> Any:
        """Make one attempt of :meth:`call`; while the server requires payment (402), wait and send again."""
        with attempts.running():
            while True:
                try:
                    return _decoded(request, self.send_once(request, attempts))
                except errors.BillingError as error:
                    if request.first_contact:
                        raise  # A user waits for the first contact, and the error states what to do.
                    paused = self.clock.time()
                    pause = self.payment_wait.pause(error, **self._origin(request))
                self.sleep(pause, request.deadline, request.call)
                attempts.exclude(self.clock.time() - paused)

    def _report_retry(self, state: tenacity.RetryCallState) -> None:
        request, attempts = state.args
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        self.report_retry(request, attempts, state.upcoming_sleep, error)

    def report_retry(self, request: Request, attempts: Attempts, delay: float, error: BaseException) -> None:
        """Report to observers, and after some time to the log, that a request is sent again in ``delay`` seconds."""
        self._retry_log.report(attempts, delay, error, request.row.name, self._retrying + 1)
        if (hook := self.observers.retry_scheduled) is not None and request.row.observed:
            hook(
                **self._origin(request), policy=attempts.policy.name, attempt=attempts.number, delay=delay, cause=error
            )

    def send_once(self, request: Request, attempts: Optional[Attempts] = None) -> Response:
        """Send a request once. It is sent again immediately in two cases, each at most once.

        These are: the server had closed the kept-alive connection, and the server requires a new token (401).

        Args:
            request: The request.
            attempts: The record this attempt belongs to. The attempt is cut where the record's policy ends.

        Raises:
            APIStatusError, APIConnectionError: It failed.
            DeadlineExceeded: The deadline has passed.
            ClosedError, ForkedClientError: As :meth:`check_usable`.
        """
        limit = math.inf if attempts is None else attempts.ends_at()
        is_cut = limit < (math.inf if request.deadline is None else request.deadline)
        ends = limit if is_cut else request.deadline
        uses_key, may_reconnect, may_renew = request.row.uses_key, True, True
        try:
            key = self.credentials.key(uses_key, ends)
            while True:
                try:
                    with self._observed(request, attempts) as outcome:
                        outcome.response = self.transport.send(request, request.all_headers(key), ends)
                    return outcome.response
                except errors.AuthenticationError as error:
                    renewed = self.credentials.renewed_key(error, key, uses_key, ends) if may_renew else None
                    if renewed is None:
                        raise
                    key, may_renew = renewed, False
                except errors.APIConnectionError as error:
                    if not (may_reconnect and error.reused) or isinstance(error, TimeoutError):
                        raise
                    may_reconnect = False
                    # The server has most likely not read the request. If it has, it recognizes the repetition by the
                    # seq_id and the idempotency key.
                    if attempts is not None:
                        attempts.in_doubt = True
                    if request.call is not None:
                        request.call.reconnects += 1
        except errors.DeadlineExceeded as error:
            if not is_cut or attempts is None:
                raise
            raise errors.APITimeoutError(
                f"Request timed out. No response within {attempts.policy.limit:g} s in all."
            ) from error

    @contextmanager
    def _observed(self, request: Request, attempts: Optional[Attempts]) -> Iterator[_Outcome]:
        """Keep the state of the call during one HTTP request, and report the request to observers."""
        self.check_usable()
        call = request.call
        if call is not None:
            call.phase = "polling" if request.polled is not None else "sending"
        if attempts is not None:
            attempts.requests += 1
        outcome = _Outcome(self.clock.time(), request.attempt if attempts is None else attempts.requests)
        try:
            yield outcome
        except BaseException as error:
            outcome.failure = error
            if request.polled is not None and isinstance(error, errors.TinkexError):
                error.polled = request.polled
            if call is not None and call.sent == "no" and may_have_arrived(error):
                call.sent = "unknown"
            if call is not None and isinstance(error, errors.DeadlineExceeded):
                raise call.deadline_exceeded() from call.last_failure or error
            # A poll that returns 408 has no result yet, which is no failure.
            if call is not None and not (request.polled and getattr(error, "status_code", None) == 408):
                call.last_failure = error
            raise
        else:
            if call is not None:
                call.sent, call.last_failure = "yes", None
                self.sends_changed.set()
        finally:
            if request.row.observed:
                self._report_request(request, outcome)

    def _report_request(self, request: Request, outcome: _Outcome) -> None:
        hook = self.observers.request_finished
        if hook is None:
            return
        response, failure = outcome.response, outcome.failure
        status = response.status if response is not None else getattr(failure, "status_code", None)
        hook(
            **self._origin(request),
            method=request.row.method,
            route=f"/api/v1/{request.row.path}",
            path=request.path.partition("?")[0],
            host=self.transport.host,
            attempt=outcome.attempt,
            status=status,
            elapsed=self.clock.time() - outcome.started,
            sent_bytes=len(request.content or b""),
            received_bytes=0 if response is None else len(response.content),
            http_version=getattr(response or failure, "http_version", None),
            server_request_id=getattr(response or failure, "headers", {}).get("x-request-id"),
            error=None if status in request.row.absent_statuses else failure,
        )

    def _origin(self, request: Request) -> Dict[str, Any]:
        """Return the first two arguments of every hook, the client and the call that a request is sent for."""
        origin = {"source": self.source, "call_id": ""} if request.call is None else request.call.origin
        return {**origin, "source": request.source} if request.source else origin

    def use_server_credentials(self, run_in_background: Callable[[Callable[[], None]], object]) -> None:
        """Send the API key or tokens, as the server's configuration requires. POST /api/v1/auth/token.

        Args:
            run_in_background: Runs the renewal of a token in another thread.
        """
        own = weakref.ref(self)

        def exchange(deadline: Optional[float]) -> str:
            connection = own()
            if connection is None:
                raise errors.ClosedError("the client no longer exists")
            return str(connection.call(Request("auth_token", AuthTokenRequest(), deadline=deadline)).jwt)

        self.credentials.apply(self.capabilities, exchange, run_in_background)

    def sleep(
        self,
        seconds: float,
        deadline: Optional[float] = None,
        call: Optional[CallState] = None,
        phase: str = "retrying",
    ) -> None:
        """Wait between two attempts.

        Args:
            seconds: The wait.
            deadline: Time of the clock at which it ends with DeadlineExceeded.
            call: The call, whose phase becomes ``phase``.

        Raises:
            ClosedError: The client was closed.
            DeadlineExceeded: The deadline has passed.
        """
        if call is not None:
            call.phase = phase
        left = remaining(self.clock, deadline)
        self.count_retrying(1)
        try:
            closed = self.clock.wait(self.closing, seconds if left is None else min(seconds, left))
        finally:
            self.count_retrying(-1)
        if closed:
            raise errors.ClosedError("the client was closed while a call waited for its next attempt")
        if left is not None and left <= seconds:
            if call is not None:
                raise call.deadline_exceeded()
            raise errors.DeadlineExceeded("the timeout ran out while retrying", phase="retrying", sent="unknown")

    def count_retrying(self, change: int) -> None:
        """Add ``change`` to the number of calls that wait for a retry."""
        with self._lock:
            self._retrying += change

    def wait(self, event: Event, until: Optional[float] = None) -> None:
        """Wait until ``event`` is set or until a time of the clock.

        Raises:
            ClosedError: The client was closed.
        """
        with self.closing.waking(event):
            self.clock.wait(event, remaining(self.clock, until))
        if self.closing.is_set():
            raise errors.ClosedError("the client was closed while a call waited")

    def deadline(self, timeout: Optional[float]) -> Optional[float]:
        """Return the time at which a call with this ``timeout`` must end; None: no deadline.

        Args:
            timeout: Seconds from now; None: ``Config.timeout``. Infinity means no deadline.

        Raises:
            ValueError: ``timeout`` is not a positive number.
        """
        if timeout is None:
            timeout = self.config.timeout
        elif not (isinstance(timeout, (int, float)) and timeout > 0):
            raise ValueError(f"timeout must be a positive number of seconds or None, got {timeout!r}")
        if timeout is None or timeout >= _LONGEST_TIMEOUT:
            return None
        return self.clock.time() + timeout

    def check_usable(self) -> None:
        """Check that requests can be sent.

        Raises:
            ForkedClientError: The client was created before the process forked.
            ClosedError: The client is closed.
        """
        self.check_not_forked()
        if self.closing.is_set():
            raise errors.ClosedError("the client is closed")

    def check_not_forked(self) -> None:
        """Raise ForkedClientError in a child of the process that created the client."""
        if self.forked:
            raise errors.ForkedClientError(
                "this client was made before the process forked, and connections cannot be shared:"
                " make a new ServiceClient in the child (sampling and REST clients rebuild themselves)"
            )

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the process that created the client."""
        return os.getpid() != self._pid


def _decoded(request: Request, response: Response) -> Any:
    kind = request.row.response_type
    return response if kind is None else kind.from_wire(response.json())


@dataclass
class _Outcome:
    """The facts of one HTTP request that are reported to observers."""

    started: float
    attempt: int
    response: Optional[Response] = None
    failure: Optional[BaseException] = None
