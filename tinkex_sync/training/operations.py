"""Operations of a lane that consist of one request: optimizer steps, saves and loads."""

from __future__ import annotations

import types as python_types
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Dict, List, Optional, TypeVar

from .. import types
from ..errors import ClosedError, WithdrawnError
from ..protocol import json_wire
from ..protocol.wire import Body
from .batch import BatchOperation
from .lane import LaneOperation, TrainingLane
from .sequence_numbers import NumberedRequest

T = TypeVar("T")


class RequestOperation(LaneOperation[T]):
    """An operation of one request.

    Args:
        request: The body; its field ``seq_id`` is set when the request is dispatched.
        endpoint: Row of the endpoint table; None: the row with the operation's name.
        convert: Returns the caller's result, given the server's; an error fails the operation.
    """

    def __init__(
        self,
        lane: TrainingLane,
        name: str,
        request: Any,
        endpoint: Optional[str] = None,
        convert: Callable[[Any], T] = lambda result: result,
    ) -> None:
        super().__init__(lane, name)
        self._endpoint = endpoint or name
        self._request = request
        self._convert = convert

    def dispatch(self) -> None:
        call = self.future.call
        request = NumberedRequest(self.session, self._endpoint, self._encode, call)
        self.before_dispatch()
        self.lane.numbers.dispatch(request)
        call.request_id = request.server_future.request_id
        fetch = partial(self._fetch, request)
        self.session.helpers.submit(partial(self.future.resolve_by, fetch))

    def before_dispatch(self) -> None:
        """Prepare the operation in the lane's thread before its request is sent. An error fails the operation."""

    def _encode(self, number: int) -> Body:
        return Body(self._endpoint, json_wire.encode(replace(self._request, seq_id=number).to_wire()))

    def _fetch(self, request: NumberedRequest) -> T:
        return self._convert(self.lane.fetch_result(request))


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
        super().__init__(lane, "optim_step", request)
        self._backward = backward

    def before_dispatch(self) -> None:
        if self._backward is not None and not self._backward.is_accepted:
            if isinstance(self._backward.error, ClosedError):
                # Closing may reach the lane before it reaches this operation.
                raise ClosedError("the client was closed before the optimizer step was sent")
            raise WithdrawnError(
                "the optimizer step was withdrawn, because its backward pass was not accepted as a whole"
            ) from self._backward.error
        hook = self.session.observers.adam_params_serialized
        if hook is not None and self._adam_params is not None:
            hook(
                source=self.lane.source,
                call_id=self.future.call.call_id,
                params=self._adam_params,
                payload=python_types.MappingProxyType(self._adam_params.to_wire()),
            )


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
