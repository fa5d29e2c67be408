"""Operations of a lane that consist of one request: optimizer steps, saves and loads."""

from __future__ import annotations

import types as python_types
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Dict, List, Optional, TypeVar

from .. import errors, types
from ..futures import Future, wait_until
from ..http.call_state import CallState
from ..protocol import json_wire
from ..protocol.wire import Body
from ..session import Session
from .batch import BatchOperation
from .lane import LaneOperation, TrainingLane
from .sequence_numbers import NumberedRequest

T = TypeVar("T")

#: The kind of checkpoint that an endpoint saves, for observers.
_KINDS_OF_CHECKPOINTS = {
    "save_weights": "training",
    "save_weights_for_sampler": "sampler",
    "save_weights_external": "external",
}


class RequestOperation(LaneOperation[T]):
    """An operation of one request.

    Args:
        request: The body; its field ``seq_id`` is set when the request is dispatched.
        endpoint: Row of the endpoint table; None: the row with the operation's name.
        convert: Returns the caller's result, given the server's and the call; an error fails the operation.
        find_result: Returns the caller's result if the server shows that an operation whose response was lost was
            carried out, else None.
    """

    def __init__(
        self,
        lane: TrainingLane,
        name: str,
        request: Any,
        endpoint: Optional[str] = None,
        convert: Callable[[Any, CallState], T] = lambda result, call: result,
        find_result: Callable[[], Optional[T]] = lambda: None,
    ) -> None:
        super().__init__(lane, name)
        self._endpoint = endpoint or name
        self._request = request
        self._convert = convert
        self._find_result = find_result

    def dispatch(self) -> None:
        call = self.future.call
        request = NumberedRequest(self.session, self._endpoint, self._encode, call)
        self.before_dispatch()
        try:
            self.lane.numbers.dispatch(request)
        except errors.OutcomeUnknownError as error:
            fetch = partial(self._settle, error)
        else:
            call.request_id = request.server_future.request_id
            fetch = partial(self._fetch, request)
        self.session.helpers.submit(partial(self.future.resolve_by, fetch))

    def before_dispatch(self) -> None:
        """Prepare the operation in the lane's thread before its request is sent. An error fails the operation."""

    def _encode(self, number: int) -> Body:
        return Body(self._endpoint, json_wire.encode(replace(self._request, seq_id=number).to_wire()))

    def _fetch(self, request: NumberedRequest) -> T:
        try:
            result = self.lane.fetch_result(request)
            self._report_saved(result)
            return self._convert(result, self.future.call)
        except errors.OutcomeUnknownError as error:
            return self._settle(error)

    def _settle(self, error: errors.OutcomeUnknownError) -> T:
        """Return the result if the server shows that the operation was carried out; otherwise raise ``error``."""
        found = self._find_result()
        if found is None:
            raise error
        self._report_saved(found)
        return found

    def _report_saved(self, saved: Any) -> None:
        kind, call = _KINDS_OF_CHECKPOINTS.get(self._endpoint), self.future.call
        if kind and saved.path and (hook := self.session.observers.checkpoint_saved):
            elapsed, ttl_seconds = self.session.clock.time() - call.started, self._request.ttl_seconds
            hook(**call.origin, path=saved.path, kind=kind, ttl_seconds=ttl_seconds, elapsed=elapsed)


class OptimizerStep(RequestOperation[types.OptimStepResponse]):
    """One optimizer step. POST /api/v1/optim_step.

    Args:
        params: AdamParams, or DimuonParams for a model that was created for them.
        backward: The backward pass before it. The step is withdrawn unless every chunk of the pass was accepted.

    Raises:
        TypeError: ``params`` is something else.
    """

    def __init__(
        self, lane: TrainingLane, params: types.OptimParams, backward: Optional[BatchOperation] = None
    ) -> None:
        if not isinstance(params, (types.AdamParams, types.DimuonParams)):
            raise TypeError(f"adam_params must be AdamParams or DimuonParams, not {type(params).__name__}")
        self._adam_params = params if isinstance(params, types.AdamParams) else None
        dimuon_params = params if isinstance(params, types.DimuonParams) else None
        request = types.OptimStepRequest(self._adam_params, lane.model_id, optimizer_params=dimuon_params)
        super().__init__(lane, "optim_step", request, convert=self._note_facts)
        self._backward = backward
        self._step = 0

    def before_dispatch(self) -> None:
        if self._backward is not None and not self._backward.is_accepted:
            if isinstance(self._backward.error, errors.ClosedError):
                # Closing may reach the lane before it reaches this operation.
                raise errors.ClosedError("the client was closed before the optimizer step was sent")
            raise errors.WithdrawnError(
                "the optimizer step was withdrawn, because its backward pass was not accepted as a whole"
            ) from self._backward.error
        self.lane.optimizer_steps += 1
        self._step = self.lane.optimizer_steps
        if (hook := self.session.observers.adam_params_serialized) is not None and self._adam_params is not None:
            payload = python_types.MappingProxyType(self._adam_params.to_wire())
            hook(**self.future.call.origin, params=self._adam_params, payload=payload)

    def _note_facts(self, result: types.OptimStepResponse, call: CallState) -> types.OptimStepResponse:
        call.facts = {"metrics": result.metrics or {}, "step": self._step}
        return result


@dataclass(frozen=True)
class TrainStepOutput:
    """Results of one :meth:`~tinkex_sync.TrainingClient.train_step`."""

    forward_backward: types.ForwardBackwardOutput
    optim_step: types.OptimStepResponse

    @property
    def metrics(self) -> Dict[str, float]:
        """Metrics of both operations; those of the optimizer step win on conflicts."""
        return {**self.forward_backward.metrics, **(self.optim_step.metrics or {})}

    @property
    def loss_fn_outputs(self) -> List[Dict[str, types.TensorData]]:
        """One dict per datum, in order: its tensors by name, such as "logprobs"."""
        return self.forward_backward.loss_fn_outputs


def describe_optimizer_step(
    error: errors.TinkexError, session: Session, step: Future[types.OptimStepResponse], deadline: Optional[float]
) -> None:
    """Add to the error of a backward pass what became of the optimizer step after it; withdraw it if it was not sent.

    Args:
        deadline: Time of the session's clock until which the step's result is awaited; None: no limit.
    """
    outcome = "applied"
    if step.cancel():
        outcome = "not sent"
    else:
        try:
            wait_until(session, step, deadline)
        except (errors.DeadlineExceeded, errors.ClosedError, errors.OutcomeUnknownError, errors.PromiseExpiredError):
            outcome = {"yes": "accepted", "no": "not sent"}.get(step.call.sent, "unknown")
        except (errors.TinkexError, CancelledError) as failure:
            outcome = "not sent" if isinstance(failure, (errors.WithdrawnError, CancelledError)) else "failed"
    error.optimizer_step = outcome
    if error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} (optimizer step: {outcome})", *error.args[1:])
