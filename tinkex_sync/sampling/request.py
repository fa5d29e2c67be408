"""One sample on its way, and the watch for a server that makes no progress."""

from __future__ import annotations

import logging
import uuid
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, List, Optional

from .. import types
from ..concurrency.primitives import Lock
from ..errors import APIConnectionError, BillingError, DeadlineExceeded, PromiseExpiredError, RateLimitError
from ..futures import Future
from ..http.call_state import CallState
from ..http.request import Request
from ..http.retry import Attempts
from ..http.transport import Reply
from ..polling.poller import ServerFuture, poll
from ..protocol import json_wire as codec
from ..throttle.dispatch import Permit

if TYPE_CHECKING:
    from ..clients.sampling import SamplingClient

__all__ = ["Progress", "Sample"]

_log = logging.getLogger(__name__)

#: A sample whose promise the server has lost is drawn anew at most this often.
_MOST_RESAMPLES = 2


class Progress:
    """When a sampling session last had a success, to tell a stuck server from a slow one."""

    def __init__(self, now: Callable[[], float], limit: float) -> None:
        self._now = now
        self.limit = limit
        self._lock = Lock()
        self._running = 0  # guarded by _lock
        self._last = now()  # guarded by _lock

    def begin(self) -> None:
        """A call starts; if none was running, the watch starts with it."""
        with self._lock:
            if self._running == 0:
                self._last = self._now()
            self._running += 1

    def end(self, success: bool) -> None:
        with self._lock:
            self._running -= 1
            if success:
                self._last = self._now()

    def gives_up_at(self) -> float:
        with self._lock:
            return self._last + self.limit


class Sample:
    """One logical sample on its way: one ``seq_id`` and one idempotency key through all its retries."""

    def __init__(
        self,
        client: SamplingClient,
        call: CallState,
        body: types.SampleRequest,
        size: int,
        deadline: Optional[float],
        future: Optional[Future[Any]] = None,
    ) -> None:
        self.client = client
        self.session = client._session
        self.call = call
        self.body = body
        self.size = size
        self.deadline = deadline
        self.resamples = 0
        self.permit: Optional[Permit] = None
        self.promise: Optional[ServerFuture] = None
        self.sequence_ids: Optional[List[str]] = None
        #: What its caller can withdraw until the first send.
        self.future = future
        self.content = b""
        self.key = ""

    def _number(self) -> None:
        self.content = codec.encode(replace(self.body, seq_id=self.client._next_seq_id()))
        self.key = f"tinkex-sync-{uuid.uuid4()}"

    def _claim(self) -> None:
        """Just before the first send: from here on it has a number, and cannot be withdrawn."""
        if self.content:
            return
        if self.future is not None and not self.future.begin():
            raise CancelledError
        self._number()

    def run(self) -> types.SampleResponse:
        """All of it, in this thread."""
        while True:
            self.dispatch()
            try:
                return self.fetch()
            except Exception as error:
                self.session.sleep(self.renew(error), self.deadline, self.call)

    def dispatch(self) -> None:
        """Wait at the throttle, send, and keep the promise."""
        session = self.session
        began = session.clock.time()
        request = Request("asample", call=self.call, deadline=self.deadline)
        try:
            answer = session.call(request, make_attempt=self._attempt)
        finally:
            self._release()
        self.promise = ServerFuture(answer.request_id, "asample", session.clock.time() - began)
        self.sequence_ids = answer.sample_sequence_ids

    def _attempt(self, request: Request, attempts: Attempts) -> Reply:
        with attempts.running():
            return self._admitted_send(attempts)

    def _admitted_send(self, attempts: Attempts) -> Reply:
        """One attempt; a 429 is waited out with the permit held, any other retry gives it back."""
        session, call = self.session, self.call
        entered = session.clock.time()
        permit = self._acquire()
        try:
            while True:
                call.phase = "throttled"
                own_delay = permit.not_before - session.clock.time()
                if own_delay > 0:
                    with session.dispatchers.waiting():
                        session.sleep(own_delay, self.deadline, call, "throttled")
                try:
                    permit.await_turn(self.deadline)
                except DeadlineExceeded as error:
                    raise call.deadline_exceeded() from error
                # Waiting to be let in, however long, is not trying.
                attempts.exclude(session.clock.time() - entered)
                self._claim()
                try:
                    with session.dispatchers.waiting():
                        reply = session.send_once(
                            Request(
                                "asample",
                                self.content,
                                headers={"X-Tinker-Sampling-Backpressure": "1"},
                                call=call,
                                deadline=self.deadline,
                                idempotency_key=self.key,
                            ),
                            attempts,
                        )
                except (RateLimitError, BillingError) as error:
                    self.client._states.read(call, error.body)
                    if isinstance(error, BillingError):
                        session.payment_wait.pause(error, call.source, call.call_id)
                    entered = session.clock.time()
                    backoff = permit.refused(error.retry_after)
                    hook = session.observers.backoff_started
                    if hook is not None:
                        hook(
                            source=call.source,
                            call_id=call.call_id,
                            duration=backoff.duration,
                            until=backoff.until,
                            everyone=backoff.everyone,
                        )
                else:
                    permit.accepted()
                    return reply
        finally:
            self._release()

    def _acquire(self) -> Permit:
        session, call = self.session, self.call
        call.phase = "throttled"
        try:
            permit = session.throttle.permit(self.size, self.deadline)
        except DeadlineExceeded as error:
            raise call.deadline_exceeded() from error
        self.permit = permit
        hook = session.observers.dispatch_acquired
        if hook is not None:
            facts = permit.facts
            hook(
                source=call.source,
                call_id=call.call_id,
                estimated_bytes=facts.estimated_bytes,
                charged_bytes=facts.charged_bytes,
                throttled=facts.throttled,
                waited=facts.waited,
                in_flight=facts.in_flight,
                bytes_left=facts.bytes_left,
            )
        return permit

    def _release(self) -> None:
        permit, self.permit = self.permit, None
        if permit is None:
            return
        permit.release()
        hook = self.session.observers.dispatch_released
        if hook is not None:
            hook(source=self.call.source, call_id=self.call.call_id)

    def fetch(self) -> types.SampleResponse:
        """Poll the promise."""
        assert self.promise is not None
        progress = self.client._progress
        try:
            return self._result(self.promise)
        except DeadlineExceeded:
            if self.deadline is not None and self.session.clock.time() >= self.deadline:
                raise
            raise APIConnectionError(
                f"No progress made in {progress.limit}s. Requests appear to be stuck."
            ) from None

    def _gives_up_at(self) -> float:
        """When the wait for the result ends; later, once another sample has succeeded meanwhile."""
        limit = self.client._progress.gives_up_at()
        return limit if self.deadline is None else min(limit, self.deadline)

    def _result(self, promise: ServerFuture) -> types.SampleResponse:
        bulk, announced = self.client._bulk, None
        if bulk is not None:
            announced = bulk.wait(promise.request_id, self.call, self._gives_up_at)
        try:
            result = poll(
                self.session,
                promise,
                self.call,
                states=self.client._states,
                deadline=self._gives_up_at(),
                extend=self._gives_up_at,
                announced=announced,
            )
            return self._named(result)
        finally:
            if bulk is not None:
                bulk.acknowledge(promise.request_id)

    def _named(self, result: types.SampleResponse) -> types.SampleResponse:
        """``result`` with the names that the promise gave its completions."""
        ids, drawn = self.sequence_ids, result.sequences
        if not ids:
            return result
        if len(ids) != len(drawn):
            # Which name is whose cannot be told; the completions are good all the same.
            _log.warning(
                "The server named %d completions and sent %d; the names are dropped", len(ids), len(drawn)
            )
            return result
        named = [replace(one, sequence_id=name) for one, name in zip(drawn, ids)]
        return replace(result, sequences=named)

    def renew(self, error: Exception) -> float:
        """After a failure: a new number; returns the seconds to wait, or raises ``error``.

        A sample whose promise the server has lost is drawn anew, and one that failed as the user's
        ``RetryConfig.retryable_exceptions`` say beyond the default; what may yet have a result never is.
        """
        config = self.client._retry_config
        lost = isinstance(error, PromiseExpiredError)
        late = self.session.clock.time() >= self._gives_up_at()
        if not config.should_resubmit(error) or late or (lost and self.resamples >= _MOST_RESAMPLES):
            raise error
        self.resamples += 1
        self._number()
        self.call.request_id, self.call.sent = None, "no"
        return config.resubmit_delay(self.resamples - 1)
