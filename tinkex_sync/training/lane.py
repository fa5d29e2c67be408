"""How a training client's operations go out: one lane, in order, and their results come back in any order."""

from __future__ import annotations

import types as python_types
import weakref
from typing import Any, Callable, Dict, Iterable, List, Optional, TypeVar, Union

from .. import types
from ..clients.base import Client
from ..concurrency.workers import Lane
from ..errors import (
    APIError,
    APIStatusError,
    ClosedError,
    OutcomeUnknownError,
    PromiseExpiredError,
    RequestFailedError,
    ResultLostError,
    WithdrawnError,
)
from ..futures import Future, resolve_in_worker, wait_until
from ..http.call_state import CallState
from ..plugins.hookspecs import Source
from ..polling.poller import poll
from ..polling.queue_states import QueueStates
from ..protocol import json_wire as codec
from ..session import Session
from .batch import Batch
from .late_conflicts import conflict
from .sequence_numbers import Sent, Sequence, unknown

__all__ = ["LaneClient", "check_optimizer"]

T = TypeVar("T")

#: How often an operation is sent again under the number its server waits for.
_MOST_RESENDS = 5
#: Seconds between looks at the operations before one that is to be sent again.
_LOOK_AGAIN = 0.1
_LOSSES = ("cross_entropy", "importance_sampling", "ppo", "cispo", "dro")
#: Those that servers of today's protocol may have beside.
_LOSSES_TODAY = ("gspo", "stable_reinforce", "custom")


class LaneClient(Client):
    """A client whose operations are dispatched by one daemon thread, in the order they were asked for."""

    def __init__(self, session: Session, model_id: str, *, first_seq_id: int = 1) -> None:
        super().__init__(session, Source("training", model_id, session.session_id))
        self.model_id = model_id
        self._states = QueueStates(session.observers, session.clock)
        self._sequence = Sequence(first_seq_id)
        self._lane = Lane(f"lane-{model_id}")
        lane = weakref.ref(self._lane)

        def close_lane() -> None:
            alive = lane()
            if alive is not None:
                alive.close()

        session.on_close(close_lane)

    def _submit_batch(
        self,
        operation: str,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]],
    ) -> tuple[Batch, None]:
        batch, send = self._batch(operation, data, loss_fn, loss_fn_config)
        self._enqueue([batch.future], send)
        return batch, None

    def _batch(
        self,
        operation: str,
        data: Iterable[types.Datum],
        loss_fn: types.LossFnType,
        loss_fn_config: Optional[Dict[str, float]],
        finish: Optional[Callable[[types.ForwardBackwardOutput], types.ForwardBackwardOutput]] = None,
    ) -> tuple[Batch, Callable[[], None]]:
        session = self._session
        losses = _LOSSES + _LOSSES_TODAY if session.protocol.modern else _LOSSES
        datums = _checked(data, loss_fn, loss_fn_config, losses)
        call = session.begin(self._source, operation, len(datums))
        future: Future[types.ForwardBackwardOutput] = Future(call)
        batch = Batch(
            session, operation, self.model_id, datums, loss_fn, loss_fn_config, future, self._fetch, finish
        )
        return batch, lambda: batch.send(self._sequence)

    def _optim_step(
        self, adam_params: Union[types.AdamParams, types.DimuonParams], after: Optional[Batch]
    ) -> tuple[Future[types.OptimStepResponse], Callable[[], None]]:
        check_optimizer(adam_params)
        payload = adam_params.to_wire()

        def before(call: CallState) -> None:
            if after is not None and not after.accepted:
                raise WithdrawnError(
                    "the optimizer step was withdrawn, because its backward pass was not accepted as a whole"
                ) from after.error
            hook = self._session.observers.adam_params_serialized
            if hook is not None and isinstance(adam_params, types.AdamParams):
                hook(
                    source=self._source,
                    call_id=call.call_id,
                    params=adam_params,
                    payload=python_types.MappingProxyType(payload),
                )

        name = "adam_params" if isinstance(adam_params, types.AdamParams) else "optimizer_params"
        return self._one("optim_step", "optim_step", {name: payload}, None, before)

    def _submit_one(
        self,
        operation: str,
        endpoint: str,
        fields: Dict[str, Any],
        finish: Optional[Callable[[Any], Any]] = None,
    ) -> Future[Any]:
        future, job = self._one(operation, endpoint, fields, finish)
        self._enqueue([future], job)
        return future

    def _one(
        self,
        operation: str,
        endpoint: str,
        fields: Dict[str, Any],
        finish: Optional[Callable[[Any], Any]] = None,
        before: Optional[Callable[[CallState], None]] = None,
    ) -> tuple[Future[Any], Callable[[], None]]:
        """An operation of a single request: its future, and the job that sends it."""
        session = self._session
        call = session.begin(self._source, operation)
        future: Future[Any] = Future(call)

        def encode(number: int) -> codec.Body:
            # Order on the wire: parameters, model, (path, flags,) number.
            first = {"adam_params": fields["adam_params"]} if "adam_params" in fields else {}
            rest = {name: value for name, value in fields.items() if name not in first}
            body = {**first, "model_id": self.model_id, **rest, "seq_id": number}
            return codec.Body(endpoint, codec.encode(body))

        def send() -> None:
            if not future.begin():
                session.end(call)
                return
            try:
                if before is not None:
                    before(call)
                sent = self._sequence.dispatch(session, endpoint, encode, call)
            except BaseException as error:
                resolve_in_worker(session, future, error=error)
                return
            call.request_id = sent.promise.request_id
            session.helpers.submit(lambda: fetch(sent))

        def fetch(sent: Sent) -> None:
            try:
                result = self._fetch(sent, call)
                if finish is not None:
                    result = finish(result)
            except BaseException as error:
                session.end(call)
                future.set_exception(error)
            else:
                session.end(call)
                future.set_result(result)

        return future, send

    def _fetch(self, sent: Sent, call: CallState) -> Any:
        """The result of an accepted operation, whose number the server may judge only now."""
        verdicts = self._sequence.verdicts
        failed = True
        try:
            for resends in range(_MOST_RESENDS + 1):
                try:
                    result = self._result(sent, call)
                    break
                except (APIStatusError, RequestFailedError) as error:
                    lower = conflict(error, sent.number)
                    if lower is False and sent.in_doubt:
                        raise unknown(sent, error) from error
                    if not lower:
                        raise
                    waited = self._await_earlier(sent, call)
                    number = verdicts.number_without_failed(sent.place)
                    if resends == _MOST_RESENDS or (number == sent.number and not waited):
                        raise
                sent.send_as(number)
            failed = False
            if sent.number != sent.place:
                verdicts.skips_failed()
            return result
        except (OutcomeUnknownError, ClosedError, PromiseExpiredError, ResultLostError):
            failed = False
            raise
        finally:
            verdicts.settled(sent.place, failed=failed)

    def _await_earlier(self, sent: Sent, call: CallState) -> bool:
        """Wait until the server's verdict on every earlier operation is known; whether any was not."""
        waited = False
        while not self._sequence.verdicts.none_open_before(sent.place):
            waited = True
            self._session.sleep(_LOOK_AGAIN, None, call, "retrying")
        return waited

    def _result(self, sent: Sent, call: CallState) -> Any:
        """Poll an accepted operation; if the server has lost the promise, send the very same once more."""
        try:
            return poll(self._session, sent.promise, call, states=self._states)
        except PromiseExpiredError as expired:
            self._send_again(sent, call, expired)
        try:
            return poll(self._session, sent.promise, call, states=self._states)
        except PromiseExpiredError as error:
            raise PromiseExpiredError(
                f"{call.operation} (number {sent.number}) was accepted, but the server has lost its result twice;"
                " whatever it changed in the model stays",
                request_id=sent.promise.request_id,
            ) from error

    def _send_again(self, sent: Sent, call: CallState, expired: PromiseExpiredError) -> None:
        try:
            sent.send()
        except APIError as error:
            raise PromiseExpiredError(
                f"{call.operation} (number {sent.number}) was accepted, but the server has lost its result and"
                f" does not take it a second time ({error}); whatever it changed in the model stays",
                request_id=expired.request_id,
            ) from error

    def _enqueue(self, futures: List[Future[Any]], *jobs: Callable[[], None]) -> None:
        if self._lane.submit(*jobs):
            return
        for future in futures:
            self._session.end(future.call)
            future.set_exception(ClosedError("the client is closed"))

    def _wait(self, submit: Callable[[], Future[T]], timeout: Optional[float]) -> T:
        # First, so that a wrong timeout is refused before anything is sent.
        deadline = self._session.deadline(timeout)
        return self._wait_until(submit(), deadline)

    def _wait_until(self, future: Future[T], deadline: Optional[float]) -> T:
        return wait_until(self._session, future, deadline)


def check_optimizer(params: Any) -> None:
    """Raises TypeError where these are no optimizer's parameters."""
    if not isinstance(params, (types.AdamParams, types.DimuonParams)):
        raise TypeError(f"adam_params must be AdamParams or DimuonParams, not {type(params).__name__}")


def _checked(
    data: Iterable[types.Datum],
    loss_fn: types.LossFnType,
    loss_fn_config: Optional[Dict[str, float]],
    losses: tuple[str, ...],
) -> List[types.Datum]:
    datums = list(data)
    if not datums:
        raise ValueError("data is empty: give at least one Datum")
    for index, datum in enumerate(datums):
        if not isinstance(datum, types.Datum):
            raise TypeError(f"data[{index}] must be a Datum, not {type(datum).__name__}")
        _check_lengths(index, datum)
    if loss_fn not in losses:
        raise ValueError(f"loss_fn {loss_fn!r} is none of {', '.join(losses)}")
    codec.check_finite(datums)
    if loss_fn_config is not None and not isinstance(loss_fn_config, dict):
        raise TypeError(f"loss_fn_config must be a dict of numbers or None, not {loss_fn_config!r}")
    return datums


def _check_lengths(index: int, datum: types.Datum) -> None:
    """What every server would refuse: targets and their weights differ in number."""
    targets, weights = datum.loss_fn_inputs.get("target_tokens"), datum.loss_fn_inputs.get("weights")
    if targets is None or weights is None or not targets.shape or not weights.shape:
        return
    if targets.shape[0] != weights.shape[0]:
        raise ValueError(
            f"data[{index}]: target_tokens has {targets.shape[0]} entries and weights has {weights.shape[0]};"
            " give one weight per target (0.0 for a target that is not to be learned)"
        )
