"""A loss of the caller's own: from the log probabilities of a batch to the weights that stand for its gradient.

The server only knows losses by name. Its "cross_entropy" is minus the sum of weights times log probabilities,
whose gradient by the log probabilities is minus the weights; so weights that are minus the gradient of any
other loss train the model by that loss.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Literal, Optional, Sequence, Tuple

from .. import types
from ..errors import APIResponseValidationError, MissingExtraError

__all__ = ["LossFunction", "MissingTargetsError", "chosen", "for_forward", "weighted", "with_metrics"]

#: ``loss(data, logprobs)``, where ``logprobs`` has one tensor or array per datum. With torch it returns
#: (loss, metrics), with numpy (loss, gradients, metrics).
LossFunction = Callable[[List[types.Datum], List[Any]], Any]

#: Given the loss function, the data and their log probabilities: the gradient for each datum, the metrics,
#: and the loss.
_Differentiate = Callable[
    [LossFunction, List[types.Datum], List[Sequence[float]]], Tuple[List[Any], Any, float]
]


def chosen(backend: Literal["auto", "torch", "numpy"]) -> _Differentiate:
    """How the loss is differentiated; "auto" is torch where torch can be imported, else numpy.

    Raises:
        MissingExtraError: what it takes is not installed.
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
            return _by_torch
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            'a custom loss needs torch or numpy: pip install "tinkex-sync[torch]", or pip install numpy for a loss'
            " that returns its own gradients"
        ) from None
    return _by_numpy


def weighted(
    data: List[types.Datum],
    forward: types.ForwardBackwardOutput,
    loss_fn: LossFunction,
    differentiate: _Differentiate,
) -> Tuple[List[types.Datum], Dict[str, float], float]:
    """The batch for the second half, the loss's metrics, and the loss itself.

    Each datum keeps its model input and its ``target_tokens``; its ``weights`` are minus the gradient. What else
    it has was for ``loss_fn`` to use, and is not sent again.
    """
    logprobs = _logprobs(data, forward)
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


def for_forward(data: List[types.Datum]) -> List[types.Datum]:
    """Return what the forward pass needs in protocol 0.38: targets and weights of each datum, 0 if it has none.

    Raises:
        MissingTargetsError: a datum has no ``target_tokens``.
    """
    batch = []
    for index, datum in enumerate(data):
        try:
            targets = _targets(index, datum)
        except KeyError as error:
            raise MissingTargetsError(*error.args) from None
        weights = datum.loss_fn_inputs.get("weights")
        if weights is None:
            weights = types.TensorData(data=[0.0] * len(targets), dtype="float32", shape=targets.shape)
        inputs = {"target_tokens": targets, "weights": weights}
        batch.append(types.Datum(loss_fn_inputs=inputs, model_input=datum.model_input))
    return batch


def with_metrics(
    metrics: Dict[str, float], loss: Optional[float] = None
) -> Callable[[types.ForwardBackwardOutput], types.ForwardBackwardOutput]:
    """What lays the loss's metrics over the server's, where names clash too.

    With ``loss``, "loss:sum" is that, and what the server said of its own is "surrogate_loss:sum".
    """

    def lay(output: types.ForwardBackwardOutput) -> types.ForwardBackwardOutput:
        surrogate = output.metrics.get("loss:sum")
        # As given, not converted: nothing may go wrong here, where the gradient is already on the server.
        output.metrics.update(metrics)
        if loss is not None:
            output.metrics["loss:sum"] = loss
            if surrogate is not None:
                output.metrics["surrogate_loss:sum"] = surrogate
        return output

    return lay


def _logprobs(data: List[types.Datum], forward: types.ForwardBackwardOutput) -> List[Sequence[float]]:
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
    return [output["logprobs"].data for output in outputs]


def _targets(index: int, datum: types.Datum) -> types.TensorData:
    inputs = datum.loss_fn_inputs
    if "target_tokens" not in inputs:
        raise KeyError(
            f"'target_tokens' is missing in data[{index}].loss_fn_inputs, which has {sorted(inputs)}"
        )
    return inputs["target_tokens"]


class MissingTargetsError(KeyError, ValueError):
    """A datum has no ``target_tokens``: a KeyError in protocol 0.7, a ValueError in 0.38."""


def _by_torch(
    loss_fn: LossFunction, data: List[types.Datum], logprobs: List[Sequence[float]]
) -> Tuple[List[Any], Any, float]:
    import torch

    # Whatever mode the caller has torch in, the loss needs a graph.
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [torch.tensor(values) for values in logprobs]
        for index, leaf in enumerate(leaves):
            if not leaf.is_floating_point():
                raise RuntimeError(
                    f"only Tensors of floating point dtype can require gradients: the server gave the logprobs of"
                    f" data[{index}] as whole numbers"
                )
            leaf.requires_grad_()
        loss, metrics = _parts(loss_fn(data, leaves), "loss", "metrics")
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


def _by_numpy(
    loss_fn: LossFunction, data: List[types.Datum], logprobs: List[Sequence[float]]
) -> Tuple[List[Any], Any, float]:
    import numpy

    arrays = [numpy.array(values, dtype=numpy.float32) for values in logprobs]
    loss, gradients, metrics = _parts(loss_fn(data, arrays), "loss", "gradients", "metrics")
    if numpy.size(loss) != 1:
        raise ValueError(f"the loss must be one number, not an array of shape {numpy.shape(loss)}")
    gradients = list(gradients)
    if len(gradients) != len(data):
        raise ValueError(f"there must be one gradient array per datum: {len(data)}, not {len(gradients)}")
    made = []
    for index, (gradient, values) in enumerate(zip(gradients, arrays)):
        if gradient is None:
            raise _no_gradient(index)
        made.append(numpy.asarray(gradient, dtype=numpy.float32))
        if made[-1].shape != values.shape:
            raise ValueError(
                f"the gradient of data[{index}] must have shape {values.shape}, as its logprobs have,"
                f" not {made[-1].shape}"
            )
    return made, metrics, float(numpy.asarray(loss).reshape(-1)[0])


def _no_gradient(index: int) -> ValueError:
    return ValueError(
        f"No gradient computed for logprob tensor {index}: the loss does not depend on the logprobs of"
        f" data[{index}]; leave that datum out of the batch, or add zero times its logprobs to the loss"
    )


def _parts(returned: Any, *names: str) -> Any:
    wanted = f"({', '.join(names)})"
    if not isinstance(returned, (tuple, list)):
        raise TypeError(f"the loss function must return {wanted}, not {type(returned).__name__}")
    if len(returned) != len(names):
        raise ValueError(
            f"the loss function must return {wanted}, not {len(returned)} values: with torch (loss, metrics),"
            ' with backend="numpy" (loss, gradients, metrics)'
        )
    return returned


def _check_finite(index: int, gradient: Any) -> None:
    values = gradient.tolist()
    if not all(map(math.isfinite, values)):
        place, value = next((place, value) for place, value in enumerate(values) if not math.isfinite(value))
        raise ValueError(
            f"the loss's gradient is {value!r} at data[{index}], logprob {place}; only finite numbers can be sent"
        )


def _number(value: Any) -> Any:
    """A tensor or an array of one element as a number, without the graph it may hang on."""
    return value.item() if hasattr(value, "item") and hasattr(value, "shape") else value
