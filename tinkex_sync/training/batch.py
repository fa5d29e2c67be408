"""One forward or forward_backward: chunks sent in order by the lane, results put together again."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

from .. import types
from ..errors import OutcomeUnknownError, PartialBatchError, TinkexError
from ..futures import Future, resolve_in_worker
from ..http.call_state import CallState
from ..plugins.hookspecs import Boundary
from ..protocol import json_wire as codec
from ..protocol.byte_estimates import datum_bytes, protobuf_datum_bytes
from ..protocol.metrics import merge
from ..session import Session
from .chunking import plan
from .parallel_chunks import send_side_by_side
from .sequence_numbers import Sent, Sequence, new_key

__all__ = ["Batch"]


class Batch:
    """A batch on its way. The lane's thread sends the chunks; pollers bring the results in any order.

    Invariant: ``_outputs`` holds the results fetched so far by chunk; the future is resolved once, by the
    first failure or by the last result.
    """

    def __init__(
        self,
        session: Session,
        operation: str,
        model_id: str,
        data: List[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]],
        future: Future[types.ForwardBackwardOutput],
        fetch: Callable[[Sent, CallState], Any],
        finish: Optional[Callable[[types.ForwardBackwardOutput], types.ForwardBackwardOutput]] = None,
    ) -> None:
        self._session = session
        self._operation = operation
        self._model_id = model_id
        self._data = data
        self._loss_fn = loss_fn
        self._loss_fn_config = loss_fn_config
        self._fetch = fetch
        #: Turns the result of the whole batch into the caller's; raises nothing.
        self._finished = finish
        self.future = future
        #: Every chunk was accepted by the server.
        self.accepted = False
        self.error: Optional[BaseException] = None
        self._lock = threading.Lock()
        self._outputs: Dict[int, types.ForwardBackwardOutput] = {}  # guarded by _lock
        self._expected: Optional[int] = None  # guarded by _lock
        self._failed = False  # guarded by _lock

    def send(self, sequence: Sequence) -> None:
        """Send every chunk; called by the lane."""
        if not self.future.begin():
            self._session.end(self.future.call)
            return
        self.future.call.more_to_send = True
        accepted: List[Boundary] = []
        try:
            self._send_all(sequence, accepted)
        except BaseException as error:
            self.error = error
            self._fail(self._partial(error, accepted) if accepted else error)
            return
        finally:
            self.future.call.more_to_send = False
        self.accepted = True
        with self._lock:
            self._expected = len(accepted)
            complete = len(self._outputs) == self._expected
        if complete:
            self._finish()

    def _send_all(self, sequence: Sequence, accepted: List[Boundary]) -> None:
        """Send the chunks; those the server took are in ``accepted``, in order, also when this raises."""
        boundaries = self._boundaries()
        # A number in doubt may have to be used again, which only one request at a time can find out.
        if self._session.protocol.parallel_chunks and sequence.certain:
            boundaries = list(boundaries)
            if len(boundaries) > 1:
                self._send_side_by_side(sequence, boundaries, accepted)
                return
        for boundary in boundaries:
            sent = sequence.dispatch(self._session, self._operation, self._encode(boundary), self.future.call)
            self._took(boundary, sent, accepted)

    def _boundaries(self) -> Any:
        protocol = self._session.protocol
        limits = {"items": protocol.max_chunk_datums, "bytes": protocol.max_chunk_bytes}
        size = protobuf_datum_bytes if protocol.modern else datum_bytes
        boundaries = plan(map(size, self._data), max_items=limits["items"], max_bytes=limits["bytes"])
        hook = self._session.observers.chunks_planned
        if hook is None:
            return boundaries
        planned = list(boundaries)
        hook(
            source=self.future.call.source,
            call_id=self.future.call.call_id,
            operation=self._operation,
            boundaries=tuple(planned),
            limits=limits,
        )
        return planned

    def _encode(self, boundary: Boundary, operation: Optional[str] = None) -> Callable[[int], codec.Body]:
        protocol = self._session.protocol

        def encode(number: int) -> codec.Body:
            return codec.encode_batch(
                protocol.wire,
                operation or self._operation,
                self._data[boundary.start : boundary.stop],
                self._loss_fn,
                self._loss_fn_config,
                self._model_id,
                number,
                first_index=boundary.start,
                compressed=protocol.compressed,
                json_may_do=protocol.tries_json,
            )

        return encode

    def _send_side_by_side(
        self, sequence: Sequence, boundaries: List[Boundary], accepted: List[Boundary]
    ) -> None:
        session, call = self._session, self.future.call

        def prepare(boundary: Boundary, number: int) -> Sent:
            return Sent(session, self._operation, self._encode(boundary), number, new_key(), call)

        def fill(boundary: Boundary, number: int) -> Sent:
            one = boundary._replace(stop=boundary.start + 1)
            return Sent(session, "forward", self._encode(one, "forward"), number, new_key(), call)

        chunks = send_side_by_side(session, sequence, boundaries, prepare, fill)
        for chunk in chunks:
            if chunk.sent is not None:
                self._took(chunk.boundary, chunk.sent, accepted)
        for chunk in chunks:
            if chunk.error is not None:
                raise chunk.error

    def _took(self, boundary: Boundary, sent: Sent, accepted: List[Boundary]) -> None:
        """The server has a chunk: tell it, and fetch the result."""
        accepted.append(boundary)
        call = self.future.call
        call.request_id = sent.promise.request_id
        hook = self._session.observers.chunk_sent
        if hook is not None:
            hook(
                source=call.source,
                call_id=call.call_id,
                boundary=boundary,
                body_bytes=sent.body_bytes,
                request_id=sent.promise.request_id,
                elapsed=self._session.clock.time() - sent.began,
            )
        self._await(boundary, sent)

    def _await(self, boundary: Boundary, sent: Sent) -> None:
        def fetch() -> None:
            try:
                output = self._fetch(sent, self.future.call)
            except BaseException as error:
                if error.args and isinstance(error.args[0], str):
                    where = f"datums {boundary.start} to {boundary.stop - 1}"
                    error.args = (f"{error.args[0]} ({where})", *error.args[1:])
                self._fail(error)
                return
            with self._lock:
                self._outputs[boundary.index] = output
                complete = len(self._outputs) == self._expected
            if complete:
                self._finish()

        self._session.helpers.submit(fetch)

    def _finish(self) -> None:
        outputs = [self._outputs[index] for index in sorted(self._outputs)]
        try:
            merged = merge(outputs, modern=self._session.protocol.modern)
        except TinkexError as error:
            self._fail(error)
        else:
            resolve_in_worker(
                self._session, self.future, merged if self._finished is None else self._finished(merged)
            )

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            resolve_in_worker(self._session, self.future, error=error)

    def _partial(self, error: BaseException, accepted: List[Boundary]) -> PartialBatchError:
        taken = _joined([(boundary.start, boundary.stop) for boundary in accepted])
        missing = _between(taken, len(self._data))
        partial = PartialBatchError(
            f"{self._operation}: {_named(taken)} were accepted, {_named(missing)} were not"
            + (" or nobody knows" if isinstance(error, OutcomeUnknownError) else "")
            + f": {error}."
            + (
                " The gradients of the accepted ones stay accumulated on the server and will be part of the"
                " next optimizer step."
                if self._operation == "forward_backward"
                else ""
            ),
            accepted=taken[0],
            refused=missing[0],
            accepted_ranges=tuple(taken),
            refused_ranges=tuple(missing),
        )
        partial.__cause__ = error
        return partial


Range = Tuple[int, int]


def _joined(ranges: List[Range]) -> List[Range]:
    joined: List[Range] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def _between(ranges: List[Range], total: int) -> List[Range]:
    """What ``ranges``, in order, leave of 0 to ``total``."""
    starts = [0, *(stop for _, stop in ranges)]
    stops = [*(start for start, _ in ranges), total]
    return [(start, stop) for start, stop in zip(starts, stops) if start < stop]


def _named(ranges: List[Range]) -> str:
    return "datums " + " and ".join(f"{start} to {stop - 1}" for start, stop in ranges)
