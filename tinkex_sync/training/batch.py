"""One forward or forward-backward pass: its chunks are sent in order, and their results are merged.

If the server accepts the chunks of a batch in any order (capability of protocol 0.38.0), they are sent in parallel. The
first chunk is sent last: such a server starts with it, and has received the whole batch by then. A chunk that is
rejected must not leave its number unused below a used one, because the server would wait for that number forever. A
forward pass of one datum, which does not change the model, uses up the number then.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from .. import types
from ..concurrency.primitives import Event, Lock
from ..errors import ClosedError, OutcomeUnknownError, PartialBatchError, TinkexError
from ..plugins.events import Boundary
from ..protocol.json_wire import check_finite
from ..protocol.wire import Body
from ..session import Session
from .chunking import plan
from .lane import LaneOperation, TrainingLane
from .sequence_numbers import NumberedRequest

__all__ = ["BatchOperation", "validate_batch"]

_log = logging.getLogger(__name__)


class BatchOperation(LaneOperation[types.ForwardBackwardOutput]):
    """One pass over a batch. The lane's thread sends the chunks; workers fetch the results in any order.

    Invariants: ``_outputs`` contains the results fetched so far, by index of the chunk. The future is resolved once, by
    the first failure or by the last result. Thread-safe.

    Args:
        name: "forward" or "forward_backward"; also the endpoint.
        batch: Validated datums and the loss function.
        convert: Changes the merged result in place before it is returned; raises nothing.
    """

    def __init__(
        self,
        lane: TrainingLane,
        name: str,
        batch: types.ForwardBackwardInput,
        convert: Optional[Callable[[types.ForwardBackwardOutput], None]] = None,
    ) -> None:
        super().__init__(lane, name, len(batch.data))
        self._batch = batch
        self._convert = convert
        #: Whether the server has accepted every chunk.
        self.is_accepted = False
        #: Why it did not; None before that.
        self.error: Optional[BaseException] = None
        self._lock = Lock()
        self._outputs: Dict[int, types.ForwardBackwardOutput] = {}  # guarded by _lock
        self._expected: Optional[int] = None  # guarded by _lock
        self._has_failed = False  # guarded by _lock

    def dispatch(self) -> None:
        call = self.future.call
        if not self.future.begin():
            self.session.end(call)
            return
        call.more_to_send = True
        accepted: List[Boundary] = []
        try:
            self._send_chunks(accepted)
        except BaseException as error:
            self.error = error
            self._fail(self._partial_error(error, accepted) if accepted else error)
            return
        finally:
            call.more_to_send = False
            self.session.sends_changed.set()
        self.is_accepted = True
        with self._lock:
            self._expected = len(accepted)
            is_complete = len(self._outputs) == self._expected
        if is_complete:
            self._finish()

    def _send_chunks(self, accepted: List[Boundary]) -> None:
        """Send all chunks. Append those that the server accepts to ``accepted``, in order, also if this raises."""
        boundaries = self._boundaries()
        if self.session.capabilities.parallel_chunks and self.lane.numbers.are_certain:
            boundaries = list(boundaries)
            if len(boundaries) > 1:
                self._send_in_parallel(boundaries, accepted)
                return
        for boundary in boundaries:
            request = self._request(boundary)
            self.lane.numbers.dispatch(request)
            self._record_accepted(boundary, request, accepted)

    def _boundaries(self) -> Iterable[Boundary]:
        capabilities = self.session.capabilities
        limits = {"items": capabilities.max_chunk_datums, "bytes": capabilities.max_chunk_bytes}
        sizes = map(capabilities.wire.estimate_datum_bytes, self._batch.data)
        boundaries = plan(sizes, max_items=limits["items"], max_bytes=limits["bytes"])
        hook = self.session.observers.chunks_planned
        if hook is None:
            return boundaries
        planned = list(boundaries)
        call = self.future.call
        hook(
            source=call.source,
            call_id=call.call_id,
            operation=self.name,
            boundaries=tuple(planned),
            limits=limits,
        )
        return planned

    def _request(self, boundary: Boundary, endpoint: Optional[str] = None) -> NumberedRequest:
        """Return a request for the datums of a chunk."""
        name = endpoint or self.name

        def encode(number: int) -> Body:
            chunk = replace(self._batch, data=self._batch.data[boundary.start : boundary.stop])
            return self.session.capabilities.wire.encode_batch(
                name, chunk, self.lane.model_id, number, first_index=boundary.start
            )

        return NumberedRequest(self.session, name, encode, self.future.call)

    # Chunks in parallel

    def _send_in_parallel(self, boundaries: Sequence[Boundary], accepted: List[Boundary]) -> None:
        first = self.lane.numbers.reserve(len(boundaries))
        chunks = [
            _ParallelChunk(boundary, first + index, self._request(boundary))
            for index, boundary in enumerate(boundaries)
        ]
        for chunk in chunks[1:]:
            if not self.session.helpers.submit(functools.partial(self._send_parallel_chunk, chunk)):
                raise ClosedError("the client is closed")
        for chunk in chunks[1:]:
            self.session.wait(chunk.has_ended)
        self._send_parallel_chunk(chunks[0])
        self._fill_gaps(chunks)
        for chunk in chunks:
            if chunk.error is None:
                self.lane.numbers.outcomes.record_accepted(chunk.position)
                self._record_accepted(chunk.boundary, chunk.request, accepted)
        for chunk in chunks:
            if chunk.error is not None:
                raise chunk.error

    def _send_parallel_chunk(self, chunk: _ParallelChunk) -> None:
        budget, size = self.session.chunk_budget, chunk.boundary.estimated_bytes
        try:
            budget.acquire(size)
            try:
                self.lane.numbers.send_reserved(chunk.position, chunk.request)
            finally:
                budget.release(size)
        except BaseException as error:
            chunk.error = error
        finally:
            chunk.has_ended.set()

    def _fill_gaps(self, chunks: List[_ParallelChunk]) -> None:
        """Leave no number unused below a used one; release the positions of rejected chunks at the end."""
        numbers = self.lane.numbers
        while chunks and chunks[-1].is_rejected:
            numbers.release_last(chunks[-1].position)
            chunks = chunks[:-1]
        accepted = next((chunk for chunk in chunks if chunk.error is None), None)
        for chunk in chunks:
            if chunk.is_rejected and accepted is not None:
                boundary = accepted.boundary._replace(stop=accepted.boundary.start + 1)
                request = self._request(boundary, "forward")
                try:
                    numbers.send_reserved(chunk.position, request)
                except TinkexError as error:
                    _log.warning(
                        "Sequence number unused, the server may wait for it: number=%d error=%s",
                        request.number,
                        error,
                    )

    # Results

    def _record_accepted(
        self, boundary: Boundary, request: NumberedRequest, accepted: List[Boundary]
    ) -> None:
        """Report an accepted chunk and start to fetch its result."""
        accepted.append(boundary)
        call = self.future.call
        call.request_id = request.server_future.request_id
        hook = self.session.observers.chunk_sent
        if hook is not None:
            hook(
                source=call.source,
                call_id=call.call_id,
                boundary=boundary,
                body_bytes=request.body_bytes,
                request_id=request.server_future.request_id,
                elapsed=self.session.clock.time() - request.started,
            )
        self.session.helpers.submit(partial(self._fetch, boundary, request))

    def _fetch(self, boundary: Boundary, request: NumberedRequest) -> None:
        try:
            output = self.lane.fetch_result(request, self.future.call)
        except BaseException as error:
            if error.args and isinstance(error.args[0], str):
                error.args = (
                    f"{error.args[0]} ({_datums([(boundary.start, boundary.stop)])})",
                    *error.args[1:],
                )
            self._fail(error)
            return
        with self._lock:
            self._outputs[boundary.index] = output
            is_complete = len(self._outputs) == self._expected
        if is_complete:
            self._finish()

    def _finish(self) -> None:
        outputs = [self._outputs[index] for index in sorted(self._outputs)]
        try:
            merged = self.session.capabilities.wire.merge_results(outputs)
        except TinkexError as error:
            self._fail(error)
            return
        if self._convert is not None:
            self._convert(merged)
        self.resolve(merged)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            is_first, self._has_failed = not self._has_failed, True
        if is_first:
            self.resolve(error=error)

    def _partial_error(self, error: BaseException, accepted: List[Boundary]) -> PartialBatchError:
        ranges = _joined([(boundary.start, boundary.stop) for boundary in accepted])
        missing = _gaps(ranges, len(self._batch.data))
        unknown = " or it is unknown" if isinstance(error, OutcomeUnknownError) else ""
        consequence = ""
        if self.name == "forward_backward":
            consequence = (
                " The gradients of the accepted datums stay accumulated on the server and will be part of the next"
                " optimizer step."
            )
        outcome = f"{_datums(ranges)} were accepted, {_datums(missing)} were not{unknown}"
        partial = PartialBatchError(
            f"{self.name}: {outcome}: {error}.{consequence}",
            accepted=ranges[0],
            refused=missing[0],
            accepted_ranges=tuple(ranges),
            refused_ranges=tuple(missing),
        )
        partial.__cause__ = error
        return partial


@dataclass
class _ParallelChunk:
    """One of the chunks that are sent in parallel."""

    boundary: Boundary
    position: int
    request: NumberedRequest
    error: Optional[BaseException] = None
    has_ended: Event = field(default_factory=Event)

    @property
    def is_rejected(self) -> bool:
        """Whether the server does not have the chunk, so that its number is unused."""
        return self.error is not None and not isinstance(self.error, (OutcomeUnknownError, ClosedError))


_Range = Tuple[int, int]


def _joined(ranges: List[_Range]) -> List[_Range]:
    """Return ascending ranges with adjacent ones joined."""
    joined: List[_Range] = []
    for start, stop in ranges:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def _gaps(ranges: List[_Range], total: int) -> List[_Range]:
    """Return the parts of 0 to ``total`` that ascending ranges leave out."""
    starts = [0, *(stop for _, stop in ranges)]
    stops = [*(start for start, _ in ranges), total]
    return [(start, stop) for start, stop in zip(starts, stops) if start < stop]


def _datums(ranges: List[_Range]) -> str:
    return "datums " + " and ".join(f"{start} to {stop - 1}" for start, stop in ranges)


def validate_batch(
    session: Session,
    data: Iterable[types.Datum],
    loss_fn: types.LossFnType,
    loss_fn_config: Optional[Dict[str, float]] = None,
) -> types.ForwardBackwardInput:
    """Return the arguments of a forward or forward-backward pass as the input of its request.

    Args:
        session: Its capabilities name the allowed loss functions.
        data: Datums; read to the end.

    Raises:
        ValueError: ``data`` is empty, the loss function is unknown, a tensor is not finite, or a datum has another
            number of weights than targets.
        TypeError: An item of ``data`` is no Datum, or ``loss_fn_config`` is no dict.
    """
    datums = list(data)
    if not datums:
        raise ValueError("data is empty: give at least one Datum")
    for index, datum in enumerate(datums):
        if not isinstance(datum, types.Datum):
            raise TypeError(f"data[{index}] must be a Datum, not {type(datum).__name__}")
        _check_lengths(index, datum)
    losses = session.capabilities.losses
    if loss_fn not in losses:
        raise ValueError(f"loss_fn {loss_fn!r} is none of {', '.join(losses)}")
    check_finite(datums)
    if loss_fn_config is not None and not isinstance(loss_fn_config, dict):
        raise TypeError(f"loss_fn_config must be a dict of numbers or None, not {loss_fn_config!r}")
    return types.ForwardBackwardInput(data=datums, loss_fn=loss_fn, loss_fn_config=loss_fn_config)


def _check_lengths(index: int, datum: types.Datum) -> None:
    """Reject a datum that every server would reject: its targets and their weights differ in number."""
    targets, weights = datum.loss_fn_inputs.get("target_tokens"), datum.loss_fn_inputs.get("weights")
    if targets is None or weights is None or not targets.shape or not weights.shape:
        return
    if targets.shape[0] != weights.shape[0]:
        raise ValueError(
            f"data[{index}]: target_tokens has {targets.shape[0]} entries and weights has {weights.shape[0]};"
            " give one weight per target (0.0 for a target that is not to be learned)"
        )
