"""Server futures: each accepted operation has one, and clients poll it for the result."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from typing import Callable, Deque, Dict, NamedTuple, Optional, Set, Tuple

from ..concurrency.clock import Clock
from .fault_gate import FaultGate
from .json_bodies import ErrorResponse, encode_json
from .stats import Stats

__all__ = ["OperationResult", "ServerFuture", "ServerFutures"]

#: Bytes of delivered results that are kept in case a response was lost. The oldest are discarded first.
MAX_DELIVERED_BYTES = 64 * 1024 * 1024


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
        """Bytes of both forms."""
        return len(self.json) + len(self.protobuf or b"")


class ServerFuture:
    """The future of one accepted operation. :class:`ServerFutures` guards its fields."""

    __slots__ = (
        "delivered",
        "done",
        "expired",
        "kind",
        "model_id",
        "on_result",
        "request_id",
        "result",
        "try_again_polls",
        "waiting",
    )

    def __init__(self, kind: str, model_id: Optional[str], *, expired: bool, try_again_polls: int) -> None:
        self.request_id = uuid.uuid4().hex
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


class ServerFutures:
    """All server futures, by id and by (owner, number). Thread-safe.

    Invariant while ``_lock`` is free: a number of an owner leads to one future for ever, together with the digest of
    the body that was sent under it. Every event in ``waiting`` belongs to a poll that has not returned. It is set once,
    when the future is done or the pauses change.

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
        self._by_id: Dict[str, ServerFuture] = {}  # guarded by _lock
        self._by_number: Dict[Tuple[str, int], Tuple[bytes, ServerFuture]] = {}  # guarded by _lock
        self._delivered: Deque[ServerFuture] = deque()  # guarded by _lock; oldest first
        self._delivered_bytes = 0  # guarded by _lock
        self._polled: Set[ServerFuture] = set()  # guarded by _lock; futures with a waiting poll
        self._closed = False  # guarded by _lock
        gate.subscribe(self.wake)

    def accept(
        self,
        kind: str,
        model_id: Optional[str],
        number: Optional[Tuple[str, int]],
        body: bytes,
        admit: Callable[[], None] = lambda: None,
    ) -> Tuple[ServerFuture, bool]:
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
            ErrorResponse: 409, another body was sent under this number.
        """
        # Two copies of a request may arrive concurrently. The second must find the future of the first.
        with self._admission:
            with self._lock:
                known = self._by_number.get(number) if number is not None else None
            if known is None:
                admit()
                expired, polls = self._gate.expires_next_result(), self._gate.faults.try_again_polls
                future = ServerFuture(kind, model_id, expired=expired, try_again_polls=polls)
                with self._lock:
                    self._by_id[future.request_id] = future
                    if number is not None:
                        self._by_number[number] = (body, future)
                return future, True
        if known[0] != body:
            assert number is not None
            raise ErrorResponse(
                409, f"seq_id {number[1]} of {number[0]} was already used for another request body"
            )
        self._stats.add("dedupe_hits")
        return known[1], False

    def get(self, request_id: str) -> ServerFuture:
        """Return the future of an id.

        Raises:
            ErrorResponse: 404, there is none.
        """
        with self._lock:
            future = self._by_id.get(request_id)
        if future is None:
            raise ErrorResponse(404, f"no promise {request_id!r} on this server")
        return future

    def finish(self, future: ServerFuture, result: OperationResult) -> None:
        """Set the result of a future and wake its polls. A cancelled future keeps its error."""
        with self._lock:
            if future.done:
                return
            future.done = True
            if not future.expired:
                future.result = result
            waiting = list(future.waiting)
        for event in waiting:
            event.set()
        future.on_result(result)

    def cancel(self, future: ServerFuture) -> bool:
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
            self._delivered_bytes -= future.result.size
            future.result, future.expired = OperationResult(b""), True
            return True

    def wake(self, *, close: bool = False) -> None:
        """Wake every held poll, because the pauses changed or, with ``close``, because the server ends."""
        with self._lock:
            self._closed = self._closed or close
            waiting = [event for future in self._polled for event in future.waiting]
        for event in waiting:
            event.set()

    def wait(
        self,
        future: ServerFuture,
        hold: float,
        reports_only: Callable[[OperationResult], bool] = lambda result: False,
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
            ErrorResponse: 410, the result is lost.
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

    def _hold_poll(self, future: ServerFuture, woken: threading.Event, started: float, hold: float) -> bool:
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
        self, future: ServerFuture, reports_only: Callable[[OperationResult], bool]
    ) -> Tuple[bool, OperationResult]:
        """Return whether the result is delivered for the first time, and the result. Call with ``_lock`` held."""
        if not future.expired and reports_only(future.result):
            return False, future.result
        first = not future.delivered
        return first, self._deliver(future)

    def _deliver(self, future: ServerFuture) -> OperationResult:
        """Call with ``_lock`` held."""
        if future.expired:
            raise ErrorResponse(410, f"promise {future.request_id!r} expired: its result is lost")
        if not future.delivered:
            future.delivered = True
            self._delivered.append(future)
            self._delivered_bytes += future.result.size
        result = future.result
        while self._delivered_bytes > MAX_DELIVERED_BYTES and len(self._delivered) > 1:
            oldest = self._delivered.popleft()
            self._delivered_bytes -= oldest.result.size
            oldest.result, oldest.expired = OperationResult(b""), True
        return result
