"""One forward or forward-backward pass. Its chunks are sent in order, and their results are merged.

If the server accepts the chunks of a batch in any order (capability of protocol 0.38.0), they are sent in parallel. The
first chunk is sent last. The server starts with the first chunk, so it has received the whole batch when it starts.

If a chunk is rejected and a later one is accepted, the number of the rejected chunk is unused. The server would wait
for a request with this number without limit. The client therefore sends a forward pass of one datum under this number.
A forward pass does not change the model.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from .. import types
from ..concurrency.primitives import Event, Lock
from ..errors import ClosedError, OutcomeUnknownError, PartialBatchError, TinkexError
from ..logs import get_logger
from ..plugins.events import Boundary
from ..protocol.json_wire import check_finite
from ..protocol.wire import Body
from ..types.inputs import known_length
from .chunking import plan
from .lane import LaneOperation, TrainingLane
from .sequence_numbers import NumberedRequest

_log = get_logger(__name__)


class BatchOperation(LaneOperation[types.ForwardBackwardOutput]):
    """One pass over a batch. The lane's thread sends the chunks; workers fetch the results in any order.

    Invariant: ``_outputs`` contains the results fetched so far, by index of the chunk. Thread-safe.

    Args:
        name: "forward" or "forward_backward"; also the endpoint.
        data: Datums; the iterable is read to its end.
        loss_fn, loss_fn_config: The loss function and its settings, as for :meth:`TrainingClient.forward_backward`.
        convert: Changes the merged result in place before it is returned; raises nothing.

    Raises:
        ValueError: ``data`` is empty, the loss function is unknown, a tensor is not finite, or a datum has another
            number of weights than targets.
        TypeError: An item of ``data`` is no Datum, or ``loss_fn_config`` is no dict.
    """

    def __init__(
        self,
        lane: TrainingLane,
        name: str,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]] = None,
        convert: Optional[Callable[[types.ForwardBackwardOutput], None]] = None,
    ) -> None:
        datums = datum_list(data)
        _validate(datums, loss_fn, loss_fn_config, lane.session.capabilities.losses)
        super().__init__(lane, name, len(datums))
        self._batch = types.ForwardBackwardInput(datums, loss_fn, loss_fn_config)
        self._convert = convert
        #: Whether the server has accepted every chunk.
        self.is_accepted = False
        #: The error after which it has not accepted every chunk; None if there was none.
        self.error: Optional[BaseException] = None
        self._accepted: List[Boundary] = []  # changed only by the lane's thread, until is_accepted
        self._lock = Lock()
        self._outputs: Dict[int, types.ForwardBackwardOutput] = {}  # guarded by _lock

    def dispatch(self) -> None:
        boundaries = self._boundaries()
        if self.session.capabilities.parallel_chunks and self.lane.numbers.are_certain:
            boundaries = list(boundaries)
            if len(boundaries) > 1:
                self._send_in_parallel(boundaries)
                boundaries = []
        for boundary in boundaries:
            request = self._request(boundary)
            self.lane.numbers.dispatch(request)
            self._record_accepted(boundary, request)
        with self._lock:
            self.is_accepted = True
            is_complete = len(self._outputs) == len(self._accepted)
        if is_complete:
            self.session.helpers.submit(partial(self.future.resolve_by, self._merged_result))

    def as_failure(self, error: BaseException) -> BaseException:
        self.error = error
        accepted, refused = _ranges(self._accepted, len(self._batch.data))
        if not (accepted and refused):
            return error
        unknown = " or it is unknown" if isinstance(error, OutcomeUnknownError) else ""
        consequence = ""
        if self.name == "forward_backward":
            consequence = (
                " The gradients of the accepted datums stay accumulated on the server and will be part of the next"
                " optimizer step."
            )
        outcome = f"{_datums(accepted)} were accepted, {_datums(refused)} were not{unknown}"
        failure = PartialBatchError(
            f"{self.name}: {outcome}: {error}.{consequence}",
            accepted_ranges=tuple(accepted),
            refused_ranges=tuple(refused),
        )
        failure.__cause__ = error
        return failure

    def _boundaries(self) -> Iterable[Boundary]:
        """Return the boundaries of the chunks. They are computed lazily if no plugin observes them."""
        capabilities = self.session.capabilities
        limits = {"items": capabilities.max_chunk_datums, "bytes": capabilities.max_chunk_bytes}
        sizes = map(capabilities.wire.estimate_datum_bytes, self._batch.data)
        boundaries: Iterable[Boundary] = plan(sizes, limits["items"], limits["bytes"])
        if hook := self.session.observers.chunks_planned:
            boundaries = tuple(boundaries)
            hook(**self.future.call.origin, operation=self.name, boundaries=boundaries, limits=limits)
        return boundaries

    def _request(self, boundary: Boundary, endpoint: Optional[str] = None) -> NumberedRequest:
        """Return a request for the datums of a chunk; ``endpoint`` is that of the operation if it is None."""
        name = endpoint or self.name

        def encode(number: int) -> Body:
            chunk = replace(self._batch, data=self._batch.data[boundary.start : boundary.stop])
            return self.session.capabilities.wire.encode_batch(
                name, chunk, self.lane.model_id, number, first_index=boundary.start
            )

        return NumberedRequest(self.session, name, encode, self.future.call)

    # Chunks in parallel

    def _send_in_parallel(self, boundaries: Sequence[Boundary]) -> None:
        numbers = self.lane.numbers
        first = numbers.reserve(len(boundaries))
        chunks = [_ParallelChunk(one, first + one.index, self._request(one)) for one in boundaries]
        for chunk in chunks[1:]:
            self.session.helpers.submit(partial(self._send_parallel_chunk, chunk))
        for chunk in chunks[1:]:
            self.session.wait(chunk.has_ended)
        self._send_parallel_chunk(chunks[0])
        self._fill_gaps(list(chunks))
        for chunk in chunks:
            if chunk.error is None:
                numbers.outcomes.record_accepted(chunk.position)
                self._record_accepted(chunk.boundary, chunk.request)
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
        """Release the positions of rejected chunks at the end, and use up the numbers of other rejected chunks."""
        numbers = self.lane.numbers
        while chunks and chunks[-1].is_rejected:
            numbers.release_last(chunks.pop().position)
        accepted = next((chunk for chunk in chunks if chunk.error is None), None)
        for chunk in chunks:
            if chunk.is_rejected and accepted is not None:
                boundary = accepted.boundary._replace(stop=accepted.boundary.start + 1)
                request = self._request(boundary, "forward")
                try:
                    numbers.send_reserved(chunk.position, request)
                except TinkexError as error:
                    # A server that waits for this number executes no later request.
                    _log.warning("Sequence number unused: number=%d error=%s", request.number, error)

    # Results

    def _record_accepted(self, boundary: Boundary, request: NumberedRequest) -> None:
        """Report an accepted chunk and start to fetch its result."""
        self._accepted.append(boundary)
        call = self.future.call
        call.request_id = request.server_future.request_id
        if hook := self.session.observers.chunk_sent:
            hook(
                **call.origin,
                boundary=boundary,
                body_bytes=request.body_bytes,
                request_id=call.request_id,
                elapsed=request.server_future.roundtrip,
            )
        self.session.helpers.submit(partial(self._fetch, boundary, request))

    def _fetch(self, boundary: Boundary, request: NumberedRequest) -> None:
        try:
            output = self.lane.fetch_result(request)
        except BaseException as error:
            if error.args and isinstance(error.args[0], str):
                datums = _datums([(boundary.start, boundary.stop)])
                error.args = (f"{error.args[0]} ({datums})", *error.args[1:])
            self.future.set_exception(error)
            return
        with self._lock:
            self._outputs[boundary.index] = output
            is_complete = self.is_accepted and len(self._outputs) == len(self._accepted)
        if is_complete:
            self.future.resolve_by(self._merged_result)

    def _merged_result(self) -> types.ForwardBackwardOutput:
        """Merge the results of all chunks, in their order, and convert the merged result."""
        outputs = [self._outputs[index] for index in sorted(self._outputs)]
        merged = self.session.capabilities.wire.merge_results(outputs)
        if self.session.observers.call_finished:
            self.future.call.facts = self._facts(merged.metrics)
        if self._convert is not None:
            self._convert(merged)
        return merged

    def _facts(self, metrics: Dict[str, float]) -> Dict[str, Any]:
        """Return the facts of the pass for observers."""
        loss = metrics.get("loss:sum", metrics.get("loss:mean"))
        return {
            "loss_fn": self._batch.loss_fn,
            "datums": len(self._batch.data),
            "tokens": sum(known_length(datum.model_input) for datum in self._batch.data),
            "metrics": metrics,
            **({} if loss is None else {"loss": loss}),
        }


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


def _ranges(accepted: List[Boundary], total: int) -> Tuple[List[Tuple[int, int]], List[Tuple[int, int]]]:
    """Return the ranges of accepted datums and of all others, ascending.

    Args:
        accepted: The accepted chunks, in any order.
        total: Number of datums.
    """
    indices = {index for boundary in accepted for index in range(boundary.start, boundary.stop)}
    ranges: Dict[bool, List[Tuple[int, int]]] = {True: [], False: []}
    for is_accepted, group in itertools.groupby(range(total), indices.__contains__):
        members = list(group)
        ranges[is_accepted].append((members[0], members[-1] + 1))
    return ranges[True], ranges[False]


def _datums(ranges: List[Tuple[int, int]]) -> str:
    return "datums " + " and ".join(f"{start} to {stop - 1}" for start, stop in ranges)


def datum_list(data: Iterable[types.Datum]) -> List[types.Datum]:
    """Return the datums of a batch as a list; TypeError for one datum that is not in a list."""
    if isinstance(data, types.Datum) or not isinstance(data, Iterable):
        raise TypeError(f"data must be a list of Datum objects, as in [datum], not {type(data).__name__}")
    return list(data)


def _validate(
    datums: List[types.Datum], loss_fn: str, loss_fn_config: Optional[Dict[str, float]], losses: Sequence[str]
) -> None:
    """Raise an error for a batch that the server would reject; ``losses`` are the allowed loss functions."""
    if not datums:
        raise ValueError("data is empty: give at least one Datum")
    for index, datum in enumerate(datums):
        if not isinstance(datum, types.Datum):
            raise TypeError(f"data[{index}] must be a Datum, not {type(datum).__name__}")
        _check_lengths(index, datum)
    if loss_fn not in losses:
        raise ValueError(f"loss_fn {loss_fn!r} is none of {', '.join(losses)}")
    check_finite(datums)
    if loss_fn_config is not None and not isinstance(loss_fn_config, dict):
        raise TypeError(f"loss_fn_config must be a dict of numbers or None, not {loss_fn_config!r}")


def _check_lengths(index: int, datum: types.Datum) -> None:
    """Raise an error if a datum has another number of weights than targets."""
    targets, weights = datum.loss_fn_inputs.get("target_tokens"), datum.loss_fn_inputs.get("weights")
    if targets is None or weights is None or not targets.shape or not weights.shape:
        return
    if targets.shape[0] != weights.shape[0]:
        raise ValueError(
            f"data[{index}]: target_tokens has {targets.shape[0]} entries and weights has {weights.shape[0]};"
            " give one weight per target (0.0 for a target that is not to be learned)"
        )
