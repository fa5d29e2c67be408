"""One poll for all samples of a sampling session, if the server supports it. POST /api/v1/retrieve_futures.

Each poll contains a cursor, up to which completions were received, and the ids of results that were read since, so that
the server can delete those. The response lists new completions. The waiting thread then fetches the result itself.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from .. import errors
from ..concurrency.primitives import Event, Lock, start_thread
from ..http.call_state import CallState
from ..http.request import Request
from ..http.retry import MOST_BAD_POLLS
from ..logs import get_logger
from ..plugins.events import Source
from ..session import Session
from ..types import FuturesRetrieveRequest, FuturesTarget
from .failed_polls import Action, action_after

_log = get_logger(__name__)

#: Seconds before the next poll after one that failed; the 0.38.0 client waits as long.
_DELAY = 1.0
#: Seconds between two polls, unless the first one returned an expected completion or another thread waits since.
_LEAST_INTERVAL = 0.1
#: Completions kept for threads that do not wait yet; the oldest are dropped. A server may send unknown ids.
_MOST_EARLY = 10_000
#: Seconds that a poll which only acknowledges results may take.
_ACKNOWLEDGE_WITHIN = 5.0


class _Waiter:
    """The state of a thread that waits for one completion. The poller's thread sets it."""

    def __init__(self) -> None:
        #: Set after one of the following is set, or if the size is unknown.
        self.done = Event()
        #: Size of the result in bytes.
        self.size: Optional[int] = None
        #: The final error of the polls.
        self.error: Optional[Exception] = None


class BulkPoller:
    """Polls for the completions of one sampling session. Thread-safe.

    Its thread lives only while threads wait for completions, or while there are results to acknowledge.

    Invariants: A completion that is received before its waiter is kept in ``_early``. An id stays in ``_read`` until a
    poll that contained it has succeeded. While threads wait or there is something to acknowledge, the poller's thread
    runs, or is being started, or ``_final_error`` is set.

    Args:
        source: The sampling client.
        clone_id: Number of this copy of the sampling client.
    """

    def __init__(self, session: Session, source: Source, clone_id: int) -> None:
        self._session = session
        self._source = source
        self._target = FuturesTarget(source.id, clone_id)
        self._lock = Lock()
        #: Set when a thread begins to wait.
        self._more = Event()
        self._waiters: Dict[str, _Waiter] = {}  # guarded by _lock
        self._early: Dict[str, Optional[int]] = {}  # guarded by _lock
        self._read: Set[str] = set()  # guarded by _lock
        self._cursor = 0  # guarded by _lock
        self._acknowledged = 0  # guarded by _lock; the cursor of the last poll that succeeded
        self._running = False  # guarded by _lock
        self._final_error: Optional[Exception] = None  # guarded by _lock
        # Consecutive polls that failed with 400. Used by the poller's thread only.
        self._bad_requests = 0

    def wait(self, request_id: str, call: CallState, gives_up_at: Callable[[], float]) -> Optional[int]:
        """Wait until the server reports that an operation has completed.

        Args:
            gives_up_at: Returns the time of the session's clock at which the wait ends. Called again at that time.

        Returns:
            The size of the result in bytes. None if the server does not return it, or if the operation failed: then the
            server future is polled like any other.

        Raises:
            TinkexError: Polling failed finally. All current and later waiters receive this error.
            DeadlineExceeded, ClosedError: The wait ended.
        """
        call.phase, call.sent, call.request_id = "polling", "yes", request_id
        waiter = _Waiter()
        with self._lock:
            if self._final_error is not None:
                raise self._final_error
            if request_id in self._early:
                return self._early.pop(request_id)
            self._waiters[request_id] = waiter
        self._more.set()
        try:
            self._start()
            while not waiter.done.is_set():
                self._session.wait(waiter.done, gives_up_at())
                if not waiter.done.is_set() and gives_up_at() <= self._session.clock.time():
                    raise call.deadline_exceeded()
        finally:
            with self._lock:
                self._waiters.pop(request_id, None)
        if waiter.error is not None:
            raise waiter.error
        return waiter.size

    def acknowledge(self, request_id: str) -> None:
        """Record that a result, or its error, was read, so that the server can delete it."""
        with self._lock:
            self._read.add(request_id)
        with suppress(errors.ThreadStartError):  # The next call tries again.
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._running or self._final_error is not None or self._session.closing.is_set():
                return
            start_thread(self._run, f"tinkex-bulk-{self._source.id}")  # It begins when the lock is free.
            self._running = True

    def _run(self) -> None:
        try:
            while True:
                self._more.clear()  # Before the waiters are read, so that no later one is missed.
                with self._lock:
                    has_waiters = bool(self._waiters)
                    if not has_waiters and not self._read and self._cursor == self._acknowledged:
                        self._running = False
                        return
                    cursor, read = self._cursor, sorted(self._read)
                earliest = self._session.clock.time() + _LEAST_INTERVAL
                try:
                    if not self._apply(self._poll(cursor, read, has_waiters), cursor, read):
                        self._session.wait(self._more, earliest)
                except Exception as error:
                    self._session.sleep(self._delay_after(error))
        except Exception as final:
            self._fail(final)

    def _poll(self, cursor: int, read: List[str], has_waiters: bool) -> Any:
        body = FuturesRetrieveRequest(
            self._target, prev_cursor=cursor, timeout=None if has_waiters else 0.0, retrieved_request_ids=read
        )
        deadline = None if has_waiters else self._session.clock.time() + _ACKNOWLEDGE_WITHIN
        request = Request("retrieve_futures", body, source=self._source, deadline=deadline)
        return self._session.send_once(request).json()

    def _apply(self, body: Any, cursor: int, read: List[str]) -> bool:
        """Wake the waiters of the completions in a response; return whether there were any.

        Args:
            cursor, read: Those of the request.
        """
        completions, latest = _completions(body)
        woken: List[_Waiter] = []
        with self._lock:
            self._acknowledged, self._cursor = cursor, latest
            self._read.difference_update(read)
            for request_id, size in completions:
                waiter = self._waiters.pop(request_id, None)
                if waiter is None:
                    self._early[request_id] = size
                else:
                    waiter.size = size
                    woken.append(waiter)
            while len(self._early) > _MOST_EARLY:
                del self._early[next(iter(self._early))]
        self._bad_requests = 0
        for waiter in woken:
            waiter.done.set()
        return bool(woken)

    def _delay_after(self, error: Exception) -> float:
        """Return the seconds before the next poll after one that failed; raise ``error`` if it is final."""
        if isinstance(error, (errors.APIConnectionError, errors.DeadlineExceeded)):
            return _DELAY
        if not isinstance(error, (errors.APIStatusError, errors.APIResponseValidationError)):
            raise error
        action = action_after(error, is_bulk=True)
        if action is Action.BACK_OFF:
            return _DELAY
        if action is Action.AWAIT_PAYMENT and isinstance(error, errors.BillingError):
            return self._session.payment_wait.pause(error, self._source, "")
        if action is Action.RETRY_BAD_REQUEST and self._bad_requests < MOST_BAD_POLLS:
            self._bad_requests += 1
            return _DELAY
        raise error

    def _fail(self, error: Exception) -> None:
        """Fail all current and later waiters."""
        with self._lock:
            self._final_error = error
            self._running = False
            waiters = list(self._waiters.values())
            self._waiters.clear()
        _log.debug("Bulk polling ended: sampling_session=%s error=%s", self._source.id, error)
        for waiter in waiters:
            waiter.error = error
            waiter.done.set()


def _completions(body: Any) -> Tuple[List[Tuple[str, Optional[int]]], int]:
    """Return the request ids of a response with the sizes of their results, and its cursor.

    Raises:
        APIResponseValidationError: The body has another form.
    """
    try:
        found: List[Tuple[str, Optional[int]]] = []
        for one in body["completions"]:
            state, size = one["state"], one.get("response_payload_uncompressed_size")
            if state not in ("finished", "failed"):
                raise ValueError(f"state {state!r} is neither finished nor failed")
            is_known = state == "finished" and isinstance(size, int) and size > 0
            found.append((str(one["request_id"]), size if is_known else None))
        cursor = int(body["cursor"])
        if not 0 <= cursor < 1 << 63:
            raise ValueError(f"cursor {cursor} is out of range")  # The next request could not contain it.
        return found, cursor
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise errors.APIResponseValidationError(
            f"The response to retrieve_futures cannot be decoded: {type(error).__name__}: {error}",
            body=body,
            path="completions",
        ) from error
