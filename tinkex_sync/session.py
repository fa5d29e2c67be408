"""A session on the server: one retried, observed call at a time; heartbeat; what is open; closing."""

from __future__ import annotations

import itertools
import logging
import os
import random
import threading
import uuid
import warnings
import weakref
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, TypeVar, Union
from urllib.parse import urlencode

from . import codec
from .advice import advise
from .background import beat, close_at_exit
from .clock import remaining
from .config import Config
from .endpoints import ENDPOINTS, Endpoint
from .errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    ClosedError,
    DeadlineExceeded,
    ForkedClientError,
)
from .hookspecs import Source
from .open_calls import OpenCall, Unfinished
from .plugins import Observers
from .retry import POLICIES, Attempts, RetryPolicy, run
from .throttle import Throttle, ThrottleLimits
from .timer import Timer
from .transport import Reply, Transport
from .workers import Workers

__all__ = ["Session"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Session:
    """Everything the clients of one server session share.

    Threads of ours hold a session weakly unless they work for a call: dropping the last client closes it.
    Invariants: after :meth:`close` no call begins and every wait ends with ClosedError; a call is in
    ``_open`` from its start to its end.
    """

    def __init__(self, config: Config, observers: Observers) -> None:
        self.config = config
        self.clock = config.clock
        self.observers = observers
        self.closing = threading.Event()
        self.timer = Timer(self.clock)
        self.transport = Transport(config, self.timer)
        limits = ThrottleLimits(
            max_dispatches=config.max_dispatches,
            throttled_dispatches=config.throttled_dispatches,
            dispatch_bytes=config.dispatch_bytes,
            throttled_bytes_factor=config.throttled_bytes_factor,
            throttle_memory=config.throttle_memory,
        )
        self.throttle = Throttle(limits, self.clock, self.closing)
        self.dispatchers = Workers(
            "dispatch", self.clock, self.timer, active=config.dispatchers, limit=config.max_dispatches
        )
        self.pollers = Workers(
            "poll", self.clock, self.timer, active=config.max_polls, limit=config.max_polls
        )
        # Apart from samples' polls, so that a thousand of those never hold up training.
        self.helpers = Workers("work", self.clock, self.timer, active=1000, limit=1000)
        self.session_id = ""
        self.source = Source("service", "", "")
        self.last_heartbeat: Optional[float] = None
        self._policies = {
            **POLICIES,
            "short": replace(POLICIES["short"], attempts=config.max_retries + 1),
            "submit": replace(POLICIES["submit"], give_up_after=config.retry_for),
            "poll": replace(POLICIES["poll"], give_up_after=config.poll_retry_for),
        }
        self._lock = threading.Lock()
        self._open: Dict[str, OpenCall] = {}  # guarded by _lock
        self._retrying = 0  # guarded by _lock
        self._closed = False  # guarded by _lock
        self._close_callbacks: List[Callable[[], None]] = []  # guarded by _lock
        self._counters: Dict[str, Iterator[int]] = {}  # guarded by _lock
        self._pid = os.getpid()
        close_at_exit(self)

    # Opening

    def open(self, user_metadata: Optional[Mapping[str, Any]] = None) -> None:
        """Create the session on the server and start its heartbeat. POST /api/v1/create_session.

        Raises:
            APIConnectionError: the server cannot be reached; after 15 s, not minutes.
            AuthenticationError, APIStatusError: it refuses us; the text says what to do.
        """
        body = {
            "tags": list(self.config.tags),
            "user_metadata": dict(user_metadata or {}),
            "sdk_version": self.config.sdk_version,
        }
        answer = self.call("create_session", body, first_contact=True)
        for level, text in (
            (logging.INFO, answer.info_message),
            (logging.WARNING, answer.warning_message),
            (logging.ERROR, answer.error_message),
        ):
            if text:
                _log.log(level, "%s", text)
        self.join(answer.session_id)
        hook = self.observers.session_opened
        if hook is not None:
            hook(source=self.source, call_id="")

    def join(self, session_id: str) -> None:
        """Belong to an existing session: beat for it, create nothing."""
        self.session_id = session_id
        self.source = Source("service", session_id, session_id)
        self.last_heartbeat = self.clock.time()
        body = codec.encode({"session_id": session_id})
        threading.Thread(
            target=beat,
            args=(weakref.ref(self), body, self.closing, self.clock, self.config.heartbeat_interval),
            name=f"tinkex-heartbeat-{session_id}",
            daemon=True,
        ).start()

    def next_number(self, counter: str) -> int:
        """The next of a dense sequence from 0 (``model_seq_id``, ``sampling_session_seq_id``)."""
        with self._lock:
            return next(self._counters.setdefault(counter, itertools.count()))

    # Calling

    def call(
        self,
        name: str,
        body: Union[None, Mapping[str, Any], bytes] = None,
        *,
        parts: Optional[Mapping[str, str]] = None,
        query: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
        source: Optional[Source] = None,
        call: Optional[OpenCall] = None,
        deadline: Optional[float] = None,
        policy: Optional[str] = None,
        idempotency_key: Optional[str] = None,
        attempts: Optional[Attempts] = None,
        first_contact: bool = False,
        raw: bool = False,
    ) -> Any:
        """Send one call under its one retry policy, and decode the answer.

        Args:
            name: Row of ``endpoints.ENDPOINTS``.
            parts: What fills the braces of its path.
            call: The open call it belongs to; its phase and ``sent`` are kept up to date.
            deadline: Time of the clock at which it ends with DeadlineExceeded.
            attempts: Given by callers who want to see afterwards what happened.
            raw: Return the :class:`~tinkex_sync.transport.Reply`.

        Raises:
            APIError: as the transport, after the policy has given up.
            DeadlineExceeded, ClosedError, ForkedClientError: as named.
        """
        endpoint = ENDPOINTS[name]
        path = endpoint.url(**(parts or {}))
        if query:
            path = f"{path}?{urlencode(query)}"
        content = body if isinstance(body, bytes) or body is None else codec.encode(body)
        sent_headers = dict(headers or {})
        if endpoint.method != "GET":
            sent_headers["X-Idempotency-Key"] = idempotency_key or f"tinkex-sync-{uuid.uuid4()}"
        chosen = self._policies[policy or endpoint.policy]
        if attempts is None:
            attempts = self.attempts(chosen, deadline)
        if first_contact:
            attempts.unreachable_after = self.config.first_contact_timeout
        who = source or (call.source if call is not None else self.source)

        def send(made: Attempts) -> Reply:
            try:
                return self._send_once(
                    endpoint, path, content, sent_headers, who, call, deadline, made.number
                )
            except APIConnectionError as error:
                if not error.reused or isinstance(error, TimeoutError):
                    raise
                # A server that dropped a kept-alive connection has most likely not seen the request; and if it
                # has, number and idempotency key are the same.
                made.in_doubt = True
                if call is not None:
                    call.reconnects += 1
                return self._send_once(
                    endpoint, path, content, sent_headers, who, call, deadline, made.number
                )

        try:
            reply = self.retrying(attempts, send, call, deadline, source=who, observed=endpoint.observed)
            if raw or endpoint.reply is None:
                return reply
            return endpoint.reply.from_wire(reply.json())
        except APIError as error:
            advise(error, self.config, first_contact)
            raise

    def retrying(
        self,
        attempts: Attempts,
        send: Callable[[Attempts], T],
        call: Optional[OpenCall],
        deadline: Optional[float],
        *,
        source: Optional[Source] = None,
        observed: bool = True,
    ) -> T:
        """Run ``send`` under the policy of ``attempts``, telling observers of each retry."""

        def scheduled(made: Attempts, delay: float, error: BaseException) -> None:
            hook = self.observers.retry_scheduled if observed else None
            if hook is not None:
                hook(
                    source=source or (call.source if call is not None else self.source),
                    call_id=call.call_id if call else "",
                    policy=made.policy.name,
                    attempt=made.number,
                    delay=delay,
                    cause=error,
                )

        return run(attempts, send, lambda delay: self.sleep(delay, deadline, call), scheduled)

    def attempts(self, policy: Union[str, RetryPolicy], deadline: Optional[float] = None) -> Attempts:
        """A fresh record for one retried call."""
        chosen = self._policies[policy] if isinstance(policy, str) else policy
        made = Attempts(chosen, self.clock, deadline)
        made.crowded = lambda: self._retrying > 1
        return made

    def _send_once(
        self,
        endpoint: Endpoint,
        path: str,
        content: Optional[bytes],
        headers: Mapping[str, str],
        source: Source,
        call: Optional[OpenCall],
        deadline: Optional[float],
        attempt: int,
    ) -> Reply:
        self.check_usable()
        if call is not None:
            call.phase = "polling" if endpoint.name == "retrieve_future" else "sending"
        started = self.clock.time()
        status: Optional[int] = None
        received = 0
        failure: Optional[BaseException] = None
        try:
            reply = self._transport_send(endpoint, path, content, headers, deadline)
        except APIStatusError as error:
            status, failure = error.status_code, error
            raise
        except DeadlineExceeded as error:
            failure = error
            if call is None:
                raise
            if call.sent == "no":
                call.sent = error.sent
            raise call.deadline_exceeded() from error
        except BaseException as error:
            failure = error
            raise
        else:
            status, received = reply.status, len(reply.content)
            return reply
        finally:
            if call is not None and call.sent == "no" and _may_have_arrived(failure):
                call.sent = "unknown"
            hook = self.observers.request_finished if endpoint.observed else None
            if hook is not None:
                hook(
                    source=source,
                    call_id=call.call_id if call else "",
                    method=endpoint.method,
                    path="/" + path.partition("?")[0],
                    attempt=attempt,
                    status=status,
                    elapsed=self.clock.time() - started,
                    sent_bytes=len(content or b""),
                    received_bytes=received,
                    error=failure,
                )

    def _transport_send(
        self,
        endpoint: Endpoint,
        path: str,
        content: Optional[bytes],
        headers: Mapping[str, str],
        deadline: Optional[float],
    ) -> Reply:
        timeout = endpoint.read_timeout
        if endpoint.name == "retrieve_future":
            timeout = self.config.poll_timeout
        elif endpoint.name == "session_heartbeat":
            timeout = self.config.heartbeat_timeout

        return self.transport.send(
            endpoint.method,
            path,
            body=content,
            headers=headers,
            read_timeout=timeout,
            deadline=deadline,
            redirect_ok=endpoint.redirect_ok,
        )

    def sleep(
        self, seconds: float, deadline: Optional[float] = None, call: Optional[OpenCall] = None
    ) -> None:
        """Wait between attempts; ends early with ClosedError or, at the deadline, DeadlineExceeded."""
        if call is not None:
            call.phase = "retrying"
        left = remaining(self.clock, deadline)
        with self._lock:
            self._retrying += 1
        try:
            closed = self.clock.wait(self.closing, seconds if left is None else min(seconds, left))
        finally:
            with self._lock:
                self._retrying -= 1
        if closed:
            raise ClosedError("the client was closed while a call waited for its next attempt")
        if left is not None and left <= seconds:
            if call is not None:
                raise call.deadline_exceeded()
            raise DeadlineExceeded("the timeout ran out while retrying", phase="retrying", sent="unknown")

    def deadline(self, timeout: Optional[float]) -> Optional[float]:
        """When a call that is given ``timeout`` seconds from now must end; None: ``Config.timeout`` decides."""
        if timeout is None:
            timeout = self.config.timeout
        elif not (isinstance(timeout, (int, float)) and timeout > 0):
            raise ValueError(f"timeout must be a positive number of seconds or None, not {timeout!r}")
        return None if timeout is None else self.clock.time() + timeout

    # What is open

    def begin(self, source: Source, operation: str, items: int = 1) -> OpenCall:
        """Enter a call into the list of open ones and tell the observers."""
        self.check_usable()
        call = OpenCall(source, f"{random.getrandbits(48):012x}", operation, items, self.clock.time())
        with self._lock:
            self._open[call.call_id] = call
        hook = self.observers.call_started
        if hook is not None:
            hook(source=source, call_id=call.call_id, operation=operation, items=items)
        return call

    def end(self, call: OpenCall) -> None:
        """Take a call out of the list. Idempotent."""
        with self._lock:
            self._open.pop(call.call_id, None)

    @contextmanager
    def calling(self, source: Source, operation: str, items: int = 1) -> Iterator[OpenCall]:
        """A call for the length of a ``with`` block."""
        call = self.begin(source, operation, items)
        try:
            yield call
        finally:
            self.end(call)

    def open_calls(self) -> List[OpenCall]:
        """Every call that has not ended, oldest first."""
        with self._lock:
            return list(self._open.values())

    def check_usable(self) -> None:
        """Raise if it is closed, or was made before a fork."""
        if os.getpid() != self._pid:
            raise ForkedClientError(
                "this client was made before the process forked, and connections cannot be shared:"
                " make a new ServiceClient in the child (sampling and REST clients rebuild themselves)"
            )
        if self.closing.is_set():
            raise ClosedError("the client is closed")

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process it was made in."""
        return os.getpid() != self._pid

    # Closing

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` (short, not blocking) when the session closes."""
        with self._lock:
            self._close_callbacks.append(callback)

    def drain(self, seconds: float) -> None:
        """Wait until everything submitted was sent, for at most ``seconds``."""
        end = self.clock.time() + seconds
        nap = threading.Event()
        while any(call.sent == "no" for call in self.open_calls()) and self.clock.time() < end:
            # Sending is what other threads do; there is no single event that says all of it is done.
            self.clock.wait(nap, 0.01)

    def close(self) -> List[Unfinished]:
        """End every wait with ClosedError, stop all threads, and say what was left. Idempotent.

        May be called from any thread. In a forked child it does nothing.
        """
        if self.forked:
            return []
        with self._lock:
            if self._closed:
                return []
            self._closed = True
            calls = list(self._open.values())
            callbacks, self._close_callbacks = self._close_callbacks, []
        left = [Unfinished(call.operation, call.sent, call.request_id) for call in calls]
        self.closing.set()
        self.throttle.close()
        self.transport.close()
        for callback in callbacks:
            callback()
        for workers in (self.dispatchers, self.pollers):
            workers.close()
        self.helpers.close()
        _fail_all([call.future() for call in calls if call.future is not None])
        hook = self.observers.session_closed
        if hook is not None:
            hook(source=self.source, call_id="")
        self.observers.close()
        if left:
            ids = ", ".join(one.request_id for one in left if one.request_id)
            _log.warning(
                "Closed with %d calls unfinished (%d of them never sent)%s",
                len(left),
                sum(one.sent == "no" for one in left),
                f"; requests {ids}" if ids else "",
            )
        return left

    def __del__(self) -> None:
        if not hasattr(self, "_pid") or self.forked or self._closed:
            return
        warnings.warn(
            f"unclosed client of session {self.session_id!r}: use it in a with statement, or call close()",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        self.close()


def _fail_all(futures: List[Any]) -> None:
    """Tell those who wait, in a thread of its own: their callbacks may block."""
    waiting = [future for future in futures if future is not None]
    if not waiting:
        return

    def fail() -> None:
        for future in waiting:
            future.set_exception(ClosedError("the client was closed before there was a result"))

    thread = threading.Thread(target=fail, name="tinkex-closing", daemon=True)
    thread.start()
    thread.join(0.5)


def _may_have_arrived(failure: Optional[BaseException]) -> bool:
    if failure is None:
        return False
    if isinstance(failure, APIStatusError):
        return failure.status_code >= 500
    return not getattr(failure, "unsent", False) and getattr(failure, "sent", "unknown") != "no"
