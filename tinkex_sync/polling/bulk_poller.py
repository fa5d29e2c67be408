"""One poll for all samples of a sampling session, where the server wants that. POST /api/v1/retrieve_futures.

Each poll says up to where completions were heard of (the cursor) and which results have been read since, so that the
server can forget those. The result itself is fetched by its waiter.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ..concurrency.clock import remaining
from ..concurrency.primitives import Event, Lock, start_thread
from ..errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    BillingError,
    ClosedError,
    DeadlineExceeded,
    TinkexError,
)
from ..http.call_state import CallState
from ..http.request import Request
from ..http.retry import MOST_BAD_POLLS, is_transient
from ..plugins.hookspecs import Source
from ..session import Session
from ..types import FuturesRetrieveRequest, FuturesTarget

__all__ = ["BulkPoller"]

_log = logging.getLogger(__name__)

_PAUSE = 1.0
#: Seconds: an acknowledgement is not worth a long wait.
_ACK_WITHIN = 5.0


class _Waiter:
    def __init__(self) -> None:
        self.done = Event()
        self.size: Optional[int] = None
        self.error: Optional[BaseException] = None


class BulkPoller:
    """Hears of completions for those who wait; its thread lives only while there is something to ask or to say.

    Invariants: a poll is out, or nobody waits and nothing is unsaid, or the thread is being started. A completion that
    comes before its waiter is kept for it. An id in ``_read`` stays there until a poll that carried it succeeded.
    """

    def __init__(self, session: Session, source: Source, clone_id: int) -> None:
        self._session = session
        self._source = source
        self._target = FuturesTarget(source.id, clone_id)
        self._lock = Lock()
        self._waiters: Dict[str, _Waiter] = {}  # guarded by _lock
        self._early: Dict[str, Optional[int]] = {}  # guarded by _lock
        self._read: Set[str] = set()  # guarded by _lock
        self._cursor = 0  # guarded by _lock
        self._said = 0  # guarded by _lock; the cursor of the last poll that succeeded
        self._running = False  # guarded by _lock
        self._fatal: Optional[TinkexError] = None  # guarded by _lock
        self._bad_polls = 0
        own = weakref.ref(self)

        def close() -> None:
            alive = own()
            if alive is not None:
                alive._fail(ClosedError("the client was closed while a call waited for its result"))

        session.on_close(close)

    def wait(self, request_id: str, call: CallState, gives_up_at: Callable[[], float]) -> Optional[int]:
        """Wait until the server says that a promise is kept or broken.

        Args:
            gives_up_at: Time of the clock at which the wait ends; asked again then.

        Returns:
            The size of the result in bytes; None where the server does not say, or where it failed: then the
            promise is polled as any other.

        Raises:
            TinkexError: polling failed for good; all who wait, now and later, are told.
            DeadlineExceeded, ClosedError: the wait ended.
        """
        call.phase, call.sent, call.request_id = "polling", "yes", request_id
        waiter = _Waiter()
        with self._lock:
            if self._fatal is not None:
                raise self._fatal
            if request_id in self._early:
                return self._early.pop(request_id)
            self._waiters[request_id] = waiter
        self._start()
        try:
            while not self._session.clock.wait(waiter.done, remaining(self._session.clock, gives_up_at())):
                if gives_up_at() <= self._session.clock.time():
                    raise call.deadline_exceeded()
        finally:
            with self._lock:
                self._waiters.pop(request_id, None)
        if waiter.error is not None:
            raise waiter.error
        return waiter.size

    def read(self, request_id: str) -> None:
        """A result, or its error, was read: the server need not keep it."""
        with self._lock:
            self._read.add(request_id)
        self._start()

    def _start(self) -> None:
        with self._lock:
            if self._running or self._fatal is not None or self._session.closing.is_set():
                return
            self._running = True
        start_thread(self._run, f"tinkex-bulk-{self._source.id}")

    def _run(self) -> None:
        while True:
            with self._lock:
                asks = bool(self._waiters)
                if not asks and not self._read and self._cursor == self._said:
                    self._running = False
                    return
                cursor, read = self._cursor, sorted(self._read)
            try:
                answer = self._poll(cursor, read, asks)
            except BaseException as error:
                pause = self._pause(error)
                if pause is None:
                    return
                try:
                    self._session.sleep(pause)
                except ClosedError as closed:
                    self._fail(closed)
                    return
                continue
            try:
                self._take(answer, cursor, read)
            except APIResponseValidationError as error:
                self._fail(error)
                return

    def _poll(self, cursor: int, read: List[str], asks: bool) -> Any:
        body = FuturesRetrieveRequest(self._target, cursor, None if asks else 0.0, read)
        clock = self._session.clock
        reply = self._session.send_once(
            Request(
                "retrieve_futures",
                body,
                source=self._source,
                deadline=None if asks else clock.time() + _ACK_WITHIN,
            )
        )
        return reply.json()

    def _take(self, answer: Any, cursor: int, read: List[str]) -> None:
        completions, latest = _parsed(answer)
        told: List[_Waiter] = []
        with self._lock:
            self._bad_polls = 0
            self._said = cursor
            self._cursor = latest
            self._read.difference_update(read)
            for request_id, size in completions:
                waiter = self._waiters.pop(request_id, None)
                if waiter is None:
                    self._early[request_id] = size
                else:
                    waiter.size = size
                    told.append(waiter)
        for waiter in told:
            waiter.done.set()

    def _pause(self, error: BaseException) -> Optional[float]:
        """Seconds until the next poll; None: all who wait were told that there will be none."""
        if isinstance(error, BillingError):
            try:
                return self._session.payment_wait.pause(error, self._source, "")
            except BillingError as over:
                error = over
        elif isinstance(error, DeadlineExceeded):
            return _PAUSE  # an acknowledgement that took too long
        elif isinstance(error, APIStatusError):
            if is_transient(error.status_code, 999):
                return _PAUSE
            if error.status_code == 400:
                self._bad_polls += 1
                if self._bad_polls <= MOST_BAD_POLLS:
                    return _PAUSE
        elif isinstance(error, APIConnectionError):
            return _PAUSE
        self._fail(error)
        return None

    def _fail(self, error: BaseException) -> None:
        fatal = error if isinstance(error, TinkexError) else TinkexError(f"{type(error).__name__}: {error}")
        with self._lock:
            self._fatal = fatal
            self._running = False
            waiters = list(self._waiters.values())
            self._waiters.clear()
        if not isinstance(error, ClosedError):
            _log.debug("No more polls for sampling session %s: %s", self._source.id, error)
        for waiter in waiters:
            waiter.error = fatal
            waiter.done.set()


def _parsed(answer: Any) -> Tuple[List[Tuple[str, Optional[int]]], int]:
    """Ids with the sizes of their results, and the cursor."""
    try:
        found: List[Tuple[str, Optional[int]]] = []
        for one in answer["completions"]:
            state, size = one["state"], one.get("response_payload_uncompressed_size")
            if state not in ("finished", "failed"):
                raise ValueError(f"state {state!r} is neither finished nor failed")
            known = state == "finished" and isinstance(size, int) and size > 0
            found.append((str(one["request_id"]), size if known else None))
        return found, int(answer["cursor"])
    except (KeyError, TypeError, ValueError) as error:
        raise APIResponseValidationError(
            f"The server's answer to retrieve_futures cannot be read: {error}",
            body=answer,
            path="completions",
        ) from error
