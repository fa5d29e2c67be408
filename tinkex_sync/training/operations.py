"""Operations of a lane that consist of one request: optimizer steps, saves and loads; and train steps."""

from __future__ import annotations

import types as python_types
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

from .. import types
from ..errors import WithdrawnError
from ..futures import Future, fail_at_deadline, resolve, wait_until
from ..protocol import json_wire
from ..protocol.wire import Body
from .batch import BatchOperation
from .lane import LaneOperation, TrainingLane
from .sequence_numbers import NumberedRequest

__all__ = ["OptimizerStep", "RequestOperation", "TrainStep", "TrainStepOutput"]

T = TypeVar("T")


class RequestOperation(LaneOperation[T]):
    """An operation of one request.

    Args:
        endpoint: Row of the endpoint table.
        request: The body; its field ``seq_id`` is set when the request is dispatched.
        convert: Returns the caller's result, given the server's; may raise.
    """

    def __init__(
        self,
        lane: TrainingLane,
        name: str,
        endpoint: str,
        request: Any,
        convert: Optional[Callable[[Any], T]] = None,
    ) -> None:
        super().__init__(lane, name)
        self._endpoint = endpoint
        self._request = request
        self._convert = convert

    def dispatch(self) -> None:
        call = self.future.call
        if not self.future.begin():
            self.session.end(call)
            return
        request = NumberedRequest(self.session, self._endpoint, self._encode, call)
        try:
            self.before_dispatch()
            self.lane.numbers.dispatch(request)
        except BaseException as error:
            self.resolve(error=error)
            return
        call.request_id = request.server_future.request_id
        self.session.helpers.submit(partial(self._fetch, request))

    def before_dispatch(self) -> None:
        """Called in the lane's thread before the request is sent; an error fails the operation."""

    def _encode(self, number: int) -> Body:
        return Body(self._endpoint, json_wire.encode(replace(self._request, seq_id=number).to_wire()))

    def _fetch(self, request: NumberedRequest) -> None:
        try:
            result = self.lane.fetch_result(request, self.future.call)
            if self._convert is not None:
                result = self._convert(result)
        except BaseException as error:
            resolve(self.session, self.future, error=error)
        else:
            resolve(self.session, self.future, result)


class OptimizerStep(RequestOperation[types.OptimStepResponse]):
    """One optimizer step. POST /api/v1/optim_step.

    Args:
        params: AdamParams, or DimuonParams for a model that was created for them.

    Raises:
        TypeError: ``params`` is something else.
    """

    #: The backward pass without which the step is withdrawn: every chunk of it must have been accepted.
    backward: Optional[BatchOperation] = None

    def __init__(self, lane: TrainingLane, params: types.OptimParams) -> None:
        if not isinstance(params, (types.AdamParams, types.DimuonParams)):
            raise TypeError(f"adam_params must be AdamParams or DimuonParams, not {type(params).__name__}")
        self._adam_params = params if isinstance(params, types.AdamParams) else None
        dimuon_params = params if isinstance(params, types.DimuonParams) else None
        request = types.OptimStepRequest(self._adam_params, lane.model_id, optimizer_params=dimuon_params)
        super().__init__(lane, "optim_step", "optim_step", request)

    def before_dispatch(self) -> None:
        if self.backward is not None and not self.backward.is_accepted:
            raise WithdrawnError(
                "the optimizer step was withdrawn, because its backward pass was not accepted as a whole"
            ) from self.backward.error
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


class TrainStep:
    """A backward pass and the optimizer step after it, dispatched next to each other.

    The optimizer step is sent only after every chunk of the backward pass was accepted; otherwise it is withdrawn.
    """

    def __init__(self, backward: BatchOperation, step: OptimizerStep) -> None:
        self._backward = backward
        self._step = step
        step.backward = backward

    def run(self, timeout: Optional[float] = None) -> TrainStepOutput:
        """Submit both operations and wait for both results.

        Args:
            timeout: Seconds to wait; None: ``Config.timeout``.

        Raises:
            TinkexError: That of the backward pass if it fails, else that of the optimizer step.
        """
        session = self._backward.session
        deadline = session.deadline(timeout)
        backward, step = self.submit()
        try:
            output = wait_until(session, backward, deadline)
        except BaseException:
            step.abandon()
            raise
        return TrainStepOutput(output, wait_until(session, step, deadline))

    def submit(
        self, timeout: Optional[float] = None
    ) -> Tuple[Future[types.ForwardBackwardOutput], Future[types.OptimStepResponse]]:
        """Queue both operations and return their futures.

        Args:
            timeout: Seconds until the futures fail with DeadlineExceeded; None: no limit.
        """
        backward, step = self._backward, self._step
        session = backward.session
        deadline = None if timeout is None else session.deadline(timeout)
        for operation in (backward, step):
            operation.begin()
            fail_at_deadline(session, operation.future, deadline)
        backward.lane.enqueue(backward, step)
        return backward.future, step.future
