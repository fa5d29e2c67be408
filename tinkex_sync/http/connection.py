"""Calling the server: one retried, observed call at a time, under its deadline."""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from dataclasses import replace
from typing import Any, Callable, Dict, Mapping, Optional, TypeVar, Union
from urllib.parse import urlencode

from ..concurrency.clock import remaining
from ..concurrency.timer import Timer
from ..config import Config
from ..errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BillingError,
    ClosedError,
    DeadlineExceeded,
    ForkedClientError,
    Polled,
    TinkexError,
)
from ..plugins.hookspecs import Source
from ..plugins.registry import Observers
from ..protocol import json_wire as codec
from ..protocol.negotiation import Protocol
from .call_state import OpenCall
from .credentials import Credentials
from .endpoints import ENDPOINTS, Endpoint
from .error_advice import advise
from .payment_wait import Billing
from .retry import POLICIES, Attempts, RetryPolicy, run
from .transport import Reply, Transport

__all__ = ["Caller"]

T = TypeVar("T")

#: Seconds that no wait can be asked to last; a century is no deadline.
_FOR_EVER = 3e9


class Caller:
    """Sends calls to one server, each under one retry policy, and tells observers.

    Invariant: once ``closing`` is set no call begins, and every wait ends with ClosedError.
    """

    def __init__(self, config: Config, observers: Observers) -> None:
        self.config = config
        self.clock = config.clock
        self.observers = observers
        self.closing = threading.Event()
        self.timer = Timer(self.clock)
        self.transport = Transport(config, self.timer)
        self.protocol = Protocol(config, self.transport.base_url, self.clock)
        self.billing = Billing(self._billing_limit, self.clock, observers)
        self.credentials = Credentials(config, self.clock, self.timer)
        #: Who calls made for no client in particular come from.
        self.source = Source("service", "", "")
        self._policies: Dict[str, RetryPolicy] = {
            **POLICIES,
            **{name: replace(POLICIES[name], attempts=config.max_retries + 1) for name in ("short", "ask")},
            "submit": replace(POLICIES["submit"], give_up_after=config.retry_for),
            "poll": replace(POLICIES["poll"], give_up_after=config.poll_retry_for),
        }
        self._lock = threading.Lock()
        self._retrying = 0  # guarded by _lock
        self._pid = os.getpid()

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
        within: Optional[Attempts] = None,
        first_contact: bool = False,
        raw: bool = False,
        polled: Optional[Polled] = None,
    ) -> Any:
        """Send one call under its one retry policy, and decode the answer; None for one ``absent`` there.

        Args:
            name: Row of ``endpoints.ENDPOINTS``.
            parts: What fills the braces of its path.
            call: The open call it belongs to; its phase and ``sent`` are kept up to date.
            deadline: Time of the clock at which it ends with DeadlineExceeded.
            attempts, within: Given by callers who want to see what happened; what this one send is part of.
            raw: Return the :class:`~tinkex_sync.transport.Reply`.
            polled: Noted on what it raises, before observers hear of it.

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
        if endpoint.accept:
            sent_headers["Accept"] = endpoint.accept
        if endpoint.method != "GET":
            sent_headers["X-Idempotency-Key"] = idempotency_key or f"tinkex-sync-{uuid.uuid4()}"
        chosen = self._policies[policy or endpoint.policy]
        if attempts is None:
            attempts = self.attempts(chosen, deadline)
        if first_contact:
            attempts.unreachable_after = self.config.first_contact_timeout
        who = source or (call.source if call is not None else self.source)

        def attempt(made: Attempts) -> Reply:
            limit = (within or made).cut_at()
            late = limit is not None and (deadline is None or limit < deadline)
            ends = limit if late else deadline
            try:
                return self._send_once(
                    endpoint, path, content, sent_headers, who, call, ends, made.number, polled
                )
            except DeadlineExceeded as error:
                if not late:
                    raise
                # It was not the caller's time that ran out, but the policy's.
                given = (within or made).policy.give_up_after
                raise APITimeoutError(f"Request timed out. No answer within {given:g} s in all.") from error

        def send(made: Attempts) -> Reply:
            try:
                return attempt(made)
            except APIConnectionError as error:
                if not error.reused or isinstance(error, TimeoutError):
                    raise
                # A server that dropped a kept-alive connection has most likely not seen the request; and if it
                # has, number and idempotency key are the same.
                made.in_doubt = True
                if call is not None:
                    call.reconnects += 1
                return attempt(made)

        def paid(made: Attempts) -> Reply:
            while True:
                try:
                    return send(made)
                except BillingError as error:
                    # Sampling and polling wait in ways of their own; first contact is a person at a keyboard.
                    if first_contact or chosen.attempts == 1:
                        raise
                    entered = self.clock.time()
                    pause = self.billing.pause(error, who, call.call_id if call is not None else "")
                    self.sleep(pause, deadline, call)
                    made.exclude(self.clock.time() - entered)

        try:
            reply = self.retrying(attempts, paid, call, deadline, source=who, observed=endpoint.observed)
            if raw or endpoint.reply is None:
                return reply
            return endpoint.reply.from_wire(reply.json())
        except APIError as error:
            if getattr(error, "status_code", None) in endpoint.absent:
                return None
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
        made.crowded = lambda: self._retrying > 0
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
        polled: Optional[Polled],
    ) -> Reply:
        self.check_usable()
        if call is not None:
            call.phase = "polling" if endpoint.name == "retrieve_future" else "sending"
        started = self.clock.time()
        status: Optional[int] = None
        received = 0
        failure: Optional[BaseException] = None
        try:
            reply = self._authorized_send(endpoint, path, content, headers, deadline)
        except APIStatusError as error:
            status, failure = error.status_code, error
            if status in (408, 429) and call is not None and call.heard is not None:
                call.heard(call, error.body)
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
            if call is not None:
                call.sent = "yes"
            return reply
        finally:
            if call is not None and call.sent == "no" and failure and _may_have_arrived(failure):
                call.sent = "unknown"
            if polled is not None and isinstance(failure, TinkexError):
                failure.polled = polled
            hook = self.observers.request_finished if endpoint.observed else None
            if hook is not None:
                hook(
                    source=source,
                    call_id=call.call_id if call else "",
                    method=endpoint.method,
                    path=path.partition("?")[0],
                    attempt=attempt,
                    status=status,
                    elapsed=self.clock.time() - started,
                    sent_bytes=len(content or b""),
                    received_bytes=received,
                    error=None if status in endpoint.absent else failure,
                )

    def _authorized_send(
        self,
        endpoint: Endpoint,
        path: str,
        content: Optional[bytes],
        headers: Mapping[str, str],
        deadline: Optional[float],
    ) -> Reply:
        own = endpoint.own_key
        key = self.credentials.key(own, deadline)
        try:
            return self._transport_send(endpoint, path, content, _keyed(headers, key), deadline)
        except AuthenticationError as error:
            key = self.credentials.another(error, key, own, deadline)
            if key is None:
                raise
        return self._transport_send(endpoint, path, content, _keyed(headers, key), deadline)

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

    def _billing_limit(self) -> float:
        own, announced = self.config.billing_pause, self.protocol.announced
        given = announced.billing_exception_max_pause_duration_sec
        return float(given) if given is not None and own == Config.billing_pause else own

    def adopt_credentials(self) -> None:
        """Send keys or tokens, as the server announced. POST /api/v1/auth/token, with the first call."""
        own = weakref.ref(self)

        def exchange(deadline: Optional[float]) -> str:
            caller = own()
            if caller is None:
                raise ClosedError("the client is gone")
            return str(caller.call("auth_token", {}, deadline=deadline).jwt)

        self.credentials.adopt(self.protocol.announced, exchange, self.in_background)

    def in_background(self, job: Callable[[], None]) -> bool:
        """Run ``job`` in a thread of ours; False if the client is closed."""
        raise NotImplementedError

    def sleep(
        self,
        seconds: float,
        deadline: Optional[float] = None,
        call: Optional[OpenCall] = None,
        phase: str = "retrying",
    ) -> None:
        """Wait between attempts; ends early with ClosedError or, at the deadline, DeadlineExceeded."""
        if call is not None:
            call.phase = phase
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
        """When a call that is given ``timeout`` seconds from now must end; None: ``Config.timeout`` decides.

        Longer than any wait can be (such as infinity) means no deadline, whatever ``Config.timeout`` says.
        """
        if timeout is None:
            timeout = self.config.timeout
        elif not (isinstance(timeout, (int, float)) and timeout > 0):
            raise ValueError(f"timeout must be a positive number of seconds or None, not {timeout!r}")
        if timeout is None or timeout >= _FOR_EVER:
            return None
        return self.clock.time() + timeout

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


def _keyed(headers: Mapping[str, str], key: Optional[str]) -> Mapping[str, str]:
    return headers if key is None else {**headers, "X-API-Key": key}


def _may_have_arrived(failure: BaseException) -> bool:
    if isinstance(failure, APIStatusError):
        return failure.status_code >= 500
    return not getattr(failure, "unsent", False) and getattr(failure, "sent", "unknown") != "no"
