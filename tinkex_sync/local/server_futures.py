"""Server futures: each accepted operation has one, and clients poll it for the result."""

from __future__ import annotations

import secrets
import threading
from typing import Callable, Dict, NamedTuple, Optional, Set, Tuple

from ..concurrency.clock import Clock
from .fault_gate import FaultGate
from .json_bodies import RejectedRequest, encode_json
from .stats import Stats

__all__ = ["OperationResult", "StoredFuture", "ServerFutures"]

#: Bytes of delivered futures that are kept in case a response was lost. The oldest are dropped first.
MAX_DELIVERED_BYTES = 64 * 1024 * 1024
#: Bytes of finished futures whose result was never polled. The oldest are dropped first.
MAX_UNDELIVERED_BYTES = 256 * 1024 * 1024
#: Bytes of a future without its result.
FUTURE_BYTES = 1024


class OperationResult(NamedTuple):
    """The result of an operation, encoded as the body of the response to a poll."""

    json: bytes
    #: The protobuf form, if the result has one.
    protobuf: Optional[bytes] = None
    failed: bool = False

    def body_for(self, accepts_protobuf: bool) -> bytes:
        """Return the protobuf form if the client accepts it and it exists, else JSON."""
        return self.protobuf if accepts_protobuf and self.protobuf is not None else self.json

    @property
    def size(self) -> int:
        """Bytes of both forms, and of the future."""
        return FUTURE_BYTES + len(self.json) + len(self.protobuf or b"")


class StoredFuture:
    """The future of one accepted operation. :class:`ServerFutures` guards its fields."""

    __slots__ = (
        "delivered",
        "done",
        "expired",
        "kind",
        "model_id",
        "number",
        "on_result",
        "request_id",
        "result",
        "try_again_polls",
        "waiting",
    )

    def __init__(self, kind: str, model_id: Optional[str], *, expired: bool, try_again_polls: int) -> None:
        self.request_id = ""
        #: Owner and number of the request, if it has one.
        self.number: Optional[Tuple[str, int]] = None
        #: "training" or "sampling".
        self.kind = kind
        self.model_id = model_id
        #: Polls get 410.
        self.expired = expired
        #: The number of polls that get 408 immediately.
        self.try_again_polls = try_again_polls
        self.done = False
        self.delivered = False
        self.result = OperationResult(b"")
        self.waiting: Set[threading.Event] = set()
        #: Called once with the result.
        self.on_result: Callable[[OperationResult], None] = lambda result: None


class NumberSet:
    """A set of numbers of 0 or more that needs little memory if they are dense. Not thread-safe.

    Invariant: the set contains the numbers from ``_start`` to ``_end`` - 1, and ``_others``.
    """

    def __init__(self) -> None:
        self._start: Optional[int] = None
        self._end = 0
        self._others: Set[int] = set()

    def add(self, number: int) -> None:
        """Add a number."""
        if self._start is None:
            self._start = self._end = number
        self._others.add(number)
        while self._end in self._others:
            self._others.remove(self._end)
            self._end += 1

    def __contains__(self, number: int) -> bool:
        return (self._start is not None and self._start <= number < self._end) or number in self._others


class ServerFutures:
    """The server futures, by id and by (owner, number). Thread-safe.

    A future is dropped when its result was acknowledged, or when newer results need its memory. Its id and its number
    are recognized afterwards, so a repeated request is not run a second time.

    Invariant while ``_lock`` is free: a number of an owner leads to one future, together with the digest of the body
    that was sent under it, or is in ``_dropped``. ``_finished`` contains the futures that are done, the delivered ones
    under True, in the order in which they were finished or delivered. Every event in ``waiting`` belongs to a poll that
    has not returned. It is set once, when the future is done or the pauses change.

    Args:
        gate: Pauses polls and expires results.
        stats: Counts duplicates and deliveries.
        clock: The clock of polls.
    """

    def __init__(self, gate: FaultGate, stats: Stats, clock: Clock) -> None:
        self._gate = gate
        self._stats = stats
        self._clock = clock
        self._admission = threading.Lock()  # acquired before _lock
        self._lock = threading.Lock()
        self._by_id: Dict[str, StoredFuture] = {}  # guarded by _lock
        self._by_number: Dict[Tuple[str, int], Tuple[bytes, StoredFuture]] = {}  # guarded by _lock
        self._dropped: Dict[str, NumberSet] = {}  # guarded by _lock; by owner
        # The start of all ids shows that this instance issued them, and the rest how many it issued.
        self._id_prefix = secrets.token_hex(8)
        self._issued = 0  # guarded by _lock
        self._finished: Dict[bool, Dict[str, StoredFuture]] = {True: {}, False: {}}  # guarded by _lock
        self._bytes = {True: 0, False: 0}  # guarded by _lock; of the results in _finished
        self._polled: Set[StoredFuture] = set()  # guarded by _lock; futures with a waiting poll
        self._closed = False  # guarded by _lock
        gate.subscribe(self.wake)

    def accept(
        self,
        kind: str,
        model_id: Optional[str],
        number: Optional[Tuple[str, int]],
        body: bytes,
        admit: Callable[[], None] = lambda: None,
    ) -> Tuple[StoredFuture, bool]:
        """Accept a request, or recognize it as a repetition of an earlier one.

        Args:
            kind: "training" or "sampling".
            model_id: The model of the operation, if any.
            number: Owner and number of the request. None: the request is never a repetition.
            body: Digest of the request body.
            admit: Called for a new request, for one request at a time. It rejects the request by raising.

        Returns:
            The future, and whether it is new. If so, the caller must run the operation.

        Raises:
            RejectedRequest: 409, another body was sent under this number. 410, its future was dropped.
        """
        # Two copies of a request may arrive concurrently. The second must find the future of the first.
        with self._admission:
            with self._lock:
                known = self._by_number.get(number) if number is not None else None
                if known is None and number is not None and number[1] in self._dropped.get(number[0], ()):
                    raise RejectedRequest(
                        410, f"seq_id {number[1]} of {number[0]} was accepted, and its result was discarded"
                    )
            if known is None:
                admit()
                expired, polls = self._gate.expires_next_result(), self._gate.faults.try_again_polls
                future = StoredFuture(kind, model_id, expired=expired, try_again_polls=polls)
                with self._lock:
                    future.request_id = f"{self._id_prefix}{self._issued:016x}"
                    future.number = number
                    self._issued += 1
                    self._by_id[future.request_id] = future
                    if number is not None:
                        self._by_number[number] = (body, future)
                return future, True
        if known[0] != body:
            assert number is not None
            raise RejectedRequest(409, f"seq_id {number[1]} of {number[0]} was already used for another request body")
        self._stats.add("dedupe_hits")
        return known[1], False

    def get(self, request_id: str) -> StoredFuture:
        """Return the future of an id.

        Raises:
            RejectedRequest: 404, this server did not issue the id. 410, the future was dropped.
        """
        with self._lock:
            future, issued = self._by_id.get(request_id), self._issued
        if future is not None:
            return future
        prefix, serial = request_id[:-16], request_id[-16:]
        if prefix == self._id_prefix and serial < f"{issued:016x}":
            raise RejectedRequest(410, f"promise {request_id!r} expired: its result was discarded")
        raise RejectedRequest(404, f"no promise {request_id!r} on this server")

    def finish(self, future: StoredFuture, result: OperationResult) -> None:
        """Set the result of a future and wake its polls. A cancelled future keeps its error."""
        with self._lock:
            if future.done:
                return
            future.done = True
            if not future.expired:
                future.result = result
            self._keep(future, delivered=False)
            waiting = list(future.waiting)
        for event in waiting:
            event.set()
        future.on_result(result)

    def cancel(self, future: StoredFuture) -> bool:
        """Cancel an operation that is not done. An operation that has not started is never run.

        Returns:
            Whether the operation was cancelled.
        """
        with self._lock:
            done = future.done
        if not done:
            error = {"error": f"request {future.request_id} was cancelled", "category": "user"}
            self.finish(future, OperationResult(encode_json(error), failed=True))
        return not done

    def discard(self, request_id: str) -> bool:
        """Discard a result that the client has read.

        Returns:
            Whether a delivered result was discarded. A result that was not delivered is kept.
        """
        with self._lock:
            future = self._by_id.get(request_id)
            if future is None or not future.delivered or future.expired:
                return False
            self._drop(future)
            return True

    def wake(self, *, close: bool = False) -> None:
        """Wake every held poll, because the pauses changed or, with ``close``, because the server ends."""
        with self._lock:
            self._closed = self._closed or close
            waiting = [event for future in self._polled for event in future.waiting]
        for event in waiting:
            event.set()

    def wait(
        self, future: StoredFuture, hold: float, reports_only: Callable[[OperationResult], bool] = lambda result: False
    ) -> Optional[OperationResult]:
        """Hold a poll until there is a result.

        Args:
            future: The polled future.
            hold: Seconds to wait at most.
            reports_only: Whether the poll returns facts about the result instead of the result. The result then
                does not count as delivered.

        Returns:
            The result, or None if the client must poll again.

        Raises:
            RejectedRequest: 410, the result is lost.
        """
        started = self._clock.time()
        while True:
            woken = threading.Event()
            with self._lock:
                if future.try_again_polls:
                    future.try_again_polls -= 1
                    return None
                if future.done:
                    first, result = self._take(future, reports_only)
                elif self._closed:
                    return None
                else:
                    result = None
                    future.waiting.add(woken)
                    self._polled.add(future)
            if result is not None:
                if first and future.kind == "sampling":
                    self._stats.add("samples_delivered")
                return result
            if not self._hold_poll(future, woken, started, hold):
                return None

    def _hold_poll(self, future: StoredFuture, woken: threading.Event, started: float, hold: float) -> bool:
        """Wait until the poll is woken or its time is over. Return whether it must check the future again."""
        limit = min(hold, self._gate.faults.pause_hold) if self._gate.is_paused(future.kind) else hold
        remaining = started + limit - self._clock.time()
        if remaining > 0:
            self._clock.wait(woken, remaining)
        with self._lock:
            future.waiting.discard(woken)
            if not future.waiting:
                self._polled.discard(future)
            return remaining > 0 or future.done

    def _take(
        self, future: StoredFuture, reports_only: Callable[[OperationResult], bool]
    ) -> Tuple[bool, OperationResult]:
        """Return whether the result is delivered for the first time, and the result. Call with ``_lock`` held."""
        if not future.expired and reports_only(future.result):
            return False, future.result
        first = not future.delivered
        return first, self._deliver(future)

    def _deliver(self, future: StoredFuture) -> OperationResult:
        """Call with ``_lock`` held."""
        if future.expired:
            raise RejectedRequest(410, f"promise {future.request_id!r} expired: its result is lost")
        result = future.result
        if not future.delivered:
            self._forget(future)
            future.delivered = True
            self._keep(future, delivered=True)
        return result

    def _keep(self, future: StoredFuture, *, delivered: bool) -> None:
        """Keep a finished future, and drop the oldest if they need too much memory. Call with ``_lock`` held."""
        kept = self._finished[delivered]
        kept[future.request_id] = future
        self._bytes[delivered] += future.result.size
        limit = MAX_DELIVERED_BYTES if delivered else MAX_UNDELIVERED_BYTES
        while self._bytes[delivered] > limit and len(kept) > 1:
            self._drop(next(iter(kept.values())))

    def _forget(self, future: StoredFuture) -> None:
        """Remove a future from the finished ones. Call with ``_lock`` held."""
        if self._finished[future.delivered].pop(future.request_id, None) is not None:
            self._bytes[future.delivered] -= future.result.size

    def _drop(self, future: StoredFuture) -> None:
        """Drop a future. Only its id and its number are recognized. Call with ``_lock`` held."""
        self._forget(future)
        future.result, future.expired = OperationResult(b""), True
        self._by_id.pop(future.request_id, None)
        if future.number is not None:
            self._by_number.pop(future.number, None)
            owner, number = future.number
            self._dropped.setdefault(owner, NumberSet()).add(number)
