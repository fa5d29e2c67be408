"""Backward passes with a loss function of the caller.

The server has a fixed set of loss functions. Its "cross_entropy" is minus the sum of weights times log probabilities,
and its gradient with respect to the log probabilities is minus the weights. Weights that are minus the gradient of
another loss function therefore train the model by that loss function.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Iterable, List, Literal, Optional, Sequence, Tuple

from .. import types
from ..concurrency.clock import remaining
from ..errors import APIResponseValidationError, DeadlineExceeded, MissingExtraError
from ..futures import Future, wait_until
from ..types.inputs import DTYPE_BY_KEY
from .batch import BatchOperation, datum_list
from .lane import TrainingLane

#: ``loss(data, logprobs)``, where ``logprobs`` contains one tensor or array per datum. It returns (loss, metrics) with
#: torch, and (loss, gradients, metrics) with numpy.
LossFunction = Callable[[List[types.Datum], List[Any]], Any]

#: Returns the gradient for each datum, the metrics and the loss, given the loss function, the data and their log
#: probabilities.
_Differentiate = Callable[[LossFunction, List[types.Datum], List[types.TensorData]], Tuple[List[Any], Any, float]]


class CustomLossOperation:
    """A backward pass with a loss function of the caller; see :class:`~tinkex_sync.futures.Operation`.

    Both forms wait for a forward pass and call the loss function in the caller's thread.

    Raises:
        TypeError: ``loss_fn`` is not callable.
        ValueError: ``backend`` is unknown.
        MissingExtraError: The backend is not installed.
    """

    def __init__(
        self,
        lane: TrainingLane,
        data: Iterable[types.Datum],
        loss_fn: LossFunction,
        backend: Literal["auto", "torch", "numpy"],
    ) -> None:
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be a function of (data, logprobs), not {loss_fn!r}")
        self._differentiate = _choose_backend(backend)
        self._lane = lane
        self._session = lane.session
        self._data = datum_list(data)
        self._loss_fn = loss_fn

    def run(self, timeout: Optional[float] = None) -> types.ForwardBackwardOutput:
        """Execute both passes and return the result of the second one.

        Args:
            timeout: Seconds for both; None: ``Config.timeout``. The loss function is not interrupted.
        """
        deadline = self._session.deadline(timeout)
        return wait_until(self._session, self._backward(deadline).submit(), deadline)

    def submit(self, timeout: Optional[float] = None) -> Future[types.ForwardBackwardOutput]:
        """Execute the first pass, submit the second one and return its future.

        Args:
            timeout: Seconds for both; None: ``Config.timeout`` for the first and no limit for the second.
        """
        deadline = self._session.deadline(timeout)
        backward = self._backward(deadline)
        left = None if timeout is None else remaining(self._session.clock, deadline)
        return backward.submit(left)

    def _backward(self, deadline: Optional[float]) -> BatchOperation:
        """Execute the forward pass, call the loss function, and return the second pass."""
        session, data = self._session, self._data
        is_reported = session.capabilities.reports_custom_loss
        inputs = _as_forward_batch(data, is_reported)
        forward = BatchOperation(self._lane, "forward", inputs, "cross_entropy")
        logprobs = _logprobs(data, wait_until(session, forward.submit(), deadline))
        weighted, metrics, loss = _as_weighted_batch(data, logprobs, self._loss_fn, self._differentiate)
        if remaining(session.clock, deadline) == 0:
            raise DeadlineExceeded(
                "forward_backward_custom: the timeout ran out while the loss was computed; no gradient was sent",
                phase="queued",
                sent="no",
            )
        return BatchOperation(
            self._lane,
            "forward_backward",
            weighted,
            "cross_entropy",
            convert=lambda output: _merge_metrics(output, metrics, loss if is_reported else None),
        )


def _choose_backend(backend: Literal["auto", "torch", "numpy"]) -> _Differentiate:
    """Return the function that differentiates the loss; "auto" is torch if it can be imported, otherwise numpy.

    Raises:
        MissingExtraError: The backend is not installed.
    """
    if backend not in ("auto", "torch", "numpy"):
        raise ValueError(f'backend must be "auto", "torch" or "numpy", not {backend!r}')
    if backend != "numpy":
        try:
            import torch  # noqa: F401
        except ImportError:
            if backend == "torch":
                raise MissingExtraError(
                    'backend="torch" needs torch: pip install "tinkex-sync[torch]", or give a loss on numpy arrays'
                    ' with backend="numpy"'
                ) from None
        else:
            return _differentiate_by_torch
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            'a custom loss needs torch or numpy: pip install "tinkex-sync[torch]", or pip install numpy for a loss'
            " that returns its own gradients"
        ) from None
    return _differentiate_by_numpy


def _as_weighted_batch(
    data: List[types.Datum], logprobs: List[types.TensorData], loss_fn: LossFunction, differentiate: _Differentiate
) -> Tuple[List[types.Datum], Dict[str, float], float]:
    """Return the batch of the second pass, the loss function's metrics, and the loss.

    Each datum keeps its model input and its ``target_tokens``. Its ``weights`` are minus the gradient. Other inputs are
    for ``loss_fn`` only and are not sent again.
    """
    targets = [_targets(index, datum) for index, datum in enumerate(data)]
    gradients, metrics, loss = differentiate(loss_fn, data, logprobs)
    if not isinstance(metrics, dict):
        raise TypeError(f"the loss's metrics must be a dict of numbers, not {type(metrics).__name__}")
    batch = []
    for index, (datum, target, gradient) in enumerate(zip(data, targets, gradients)):
        _check_finite(index, gradient)
        inputs = {"target_tokens": target, "weights": -gradient}
        batch.append(types.Datum(loss_fn_inputs=inputs, model_input=datum.model_input))
    return batch, {name: _number(value) for name, value in metrics.items()}, loss


def _as_forward_batch(data: List[types.Datum], must_be_complete: bool) -> List[types.Datum]:
    """Return the batch of the first pass. Inputs that no loss function of a server has stay on the client.

    Servers reject unknown inputs, which are for the caller's loss function.

    Args:
        must_be_complete: Send targets and weights only, and add weights of zero where a datum has none, as protocol
            0.38.0 requires.

    Raises:
        MissingTargetsError: ``must_be_complete``, and a datum has no ``target_tokens``.
    """
    batch = []
    for index, datum in enumerate(data):
        given = datum.loss_fn_inputs
        inputs = {key: given[key] for key in given if key in DTYPE_BY_KEY}
        if must_be_complete:
            try:
                targets = _targets(index, datum)
            except KeyError as error:
                raise MissingTargetsError(*error.args) from None
            zeros = types.TensorData(data=[0.0] * len(targets), dtype="float32", shape=targets.shape)
            inputs = {"target_tokens": targets, "weights": given.get("weights", zeros)}
        batch.append(types.Datum(loss_fn_inputs=inputs, model_input=datum.model_input))
    return batch


def _merge_metrics(output: types.ForwardBackwardOutput, metrics: Dict[str, float], loss: Optional[float]) -> None:
    """Merge the loss function's metrics into the result's metrics; the loss function's win on conflicts.

    Args:
        loss: The loss, which becomes "loss:sum"; the server's becomes "surrogate_loss:sum". None: neither is changed.
    """
    surrogate = output.metrics.get("loss:sum")
    # Not converted: an error here would hide that the gradient is already on the server.
    output.metrics.update(metrics)
    if loss is not None:
        output.metrics["loss:sum"] = loss
        if surrogate is not None:
            output.metrics["surrogate_loss:sum"] = surrogate


def _logprobs(data: List[types.Datum], forward: types.ForwardBackwardOutput) -> List[types.TensorData]:
    outputs = forward.loss_fn_outputs
    if len(outputs) != len(data):
        raise APIResponseValidationError(
            f"the forward pass of {len(data)} datums came back with {len(outputs)} outputs, so the loss of the whole"
            " batch is unknown; no gradient was sent",
            path="loss_fn_outputs",
        )
    for index, output in enumerate(outputs):
        if "logprobs" not in output:
            raise APIResponseValidationError(
                f"the forward pass came back without logprobs for data[{index}] (it has {sorted(output)});"
                " no gradient was sent",
                path=f"loss_fn_outputs[{index}]",
            )
    return [output["logprobs"] for output in outputs]


def _targets(index: int, datum: types.Datum) -> types.TensorData:
    inputs = datum.loss_fn_inputs
    if "target_tokens" not in inputs:
        raise KeyError(f"'target_tokens' is missing in data[{index}].loss_fn_inputs, which has {sorted(inputs)}")
    return inputs["target_tokens"]


class MissingTargetsError(KeyError, ValueError):
    """A datum has no ``target_tokens``. The SDK raises KeyError up to 0.7.0, and ValueError in 0.38.0."""


def _differentiate_by_torch(
    loss_fn: LossFunction, data: List[types.Datum], logprobs: List[types.TensorData]
) -> Tuple[List[Any], Any, float]:
    import torch

    # The caller may have disabled gradients, and the loss needs a graph.
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [torch.tensor(values.data).reshape(_extents(values)) for values in logprobs]
        for index, leaf in enumerate(leaves):
            if not leaf.is_floating_point():
                raise RuntimeError(
                    f"only Tensors of floating point dtype can require gradients: the server returned the logprobs of"
                    f" data[{index}] as whole numbers"
                )
            leaf.requires_grad_()
        loss, metrics = _unpack(loss_fn(data, leaves), "loss", "metrics")
        if not isinstance(loss, torch.Tensor):
            raise TypeError(f"the loss must be a torch tensor made from the logprobs, not {loss!r:.80}")
        if loss.numel() != 1:
            raise RuntimeError(
                f"grad can be implicitly created only for scalar outputs: the loss has shape {list(loss.shape)};"
                " reduce it, with .sum() or .mean()"
            )
        if not loss.requires_grad:
            raise RuntimeError(
                "element 0 of tensors does not require grad and does not have a grad_fn: the loss was not made"
                " from the logprobs given, or was detached from them"
            )
        loss.backward()
    for index, leaf in enumerate(leaves):
        if leaf.grad is None:
            raise _no_gradient(index)
    gradients = [leaf.grad.detach().to("cpu", torch.float32) for leaf in leaves]
    return gradients, metrics, float(loss.detach())


def _differentiate_by_numpy(
    loss_fn: LossFunction, data: List[types.Datum], logprobs: List[types.TensorData]
) -> Tuple[List[Any], Any, float]:
    import numpy

    arrays = [numpy.array(one.data, dtype=numpy.float32).reshape(_extents(one)) for one in logprobs]
    loss, gradients, metrics = _unpack(loss_fn(data, arrays), "loss", "gradients", "metrics")
    if numpy.size(loss) != 1:
        raise ValueError(f"the loss must be one number, not an array of shape {numpy.shape(loss)}")
    gradients = list(gradients)
    if len(gradients) != len(data):
        raise ValueError(f"there must be one gradient array per datum: {len(data)}, not {len(gradients)}")
    checked = []
    for index, (gradient, values) in enumerate(zip(gradients, arrays)):
        if gradient is None:
            raise _no_gradient(index)
        checked.append(numpy.asarray(gradient, dtype=numpy.float32))
        if checked[-1].shape != values.shape:
            raise ValueError(
                f"the gradient of data[{index}] must have shape {values.shape}, as its logprobs have,"
                f" not {checked[-1].shape}"
            )
    return checked, metrics, float(numpy.asarray(loss).reshape(-1)[0])


def _extents(tensor: types.TensorData) -> Sequence[int]:
    """Return the shape for ``reshape``: K targets per position have log probabilities of shape [positions, K]."""
    return (-1,) if tensor.shape is None else tensor.shape


def _no_gradient(index: int) -> ValueError:
    return ValueError(
        f"No gradient computed for logprob tensor {index}: the loss does not depend on the logprobs of"
        f" data[{index}]; leave that datum out of the batch, or add zero times its logprobs to the loss"
    )


def _unpack(returned: Any, *names: str) -> Any:
    """Return what the loss function returned, if it is a tuple or list with as many values as there are names."""
    expected = f"({', '.join(names)})"
    if not isinstance(returned, (tuple, list)):
        raise TypeError(f"the loss function must return {expected}, not {type(returned).__name__}")
    if len(returned) != len(names):
        raise ValueError(
            f"the loss function must return {expected}, not {len(returned)} values: with torch (loss, metrics),"
            ' with backend="numpy" (loss, gradients, metrics)'
        )
    return returned


def _check_finite(index: int, gradient: Any) -> None:
    values = gradient.reshape(-1).tolist()
    if not all(map(math.isfinite, values)):
        element, value = next((at, value) for at, value in enumerate(values) if not math.isfinite(value))
        raise ValueError(
            f"the loss's gradient is {value!r} at data[{index}], logprob {element}; only finite numbers can be sent"
        )


def _number(value: Any) -> Any:
    """Return a tensor or an array of one element as a number, without its graph; other values unchanged."""
    return value.item() if hasattr(value, "item") and hasattr(value, "shape") else value
