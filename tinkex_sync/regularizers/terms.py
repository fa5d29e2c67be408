"""The base class of regularizers, and the function that adds several of them to one loss function."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, Iterable, List, Literal, Optional, Sequence, Tuple, Union

from ..errors import MissingExtraError
from ..types import Datum, TensorData

__all__ = [
    "LossFunction", "PerDatum", "Reduction", "Regularizer", "cross_entropy", "check_choice", "per_datum",
    "reduce_values", "references", "regularized", "torch_library",
]  # fmt: skip

#: ``loss(data, logprobs)`` returns the loss, a torch scalar, and a dict of metrics.
LossFunction = Callable[[List[Datum], List[Any]], Tuple[Any, Dict[str, Any]]]

#: The source of one tensor per datum, of the shape of the datum's logprobs. A string is a key of ``loss_fn_inputs``. It
#: is sent with the forward pass, so the server must accept it. A sequence has the order of the data. A function
#: receives the data and returns a sequence.
PerDatum = Union[str, Sequence[Any], Callable[[List[Datum]], Sequence[Any]]]

Reduction = Literal["sum", "mean"]


def torch_library() -> Any:
    """Import torch.

    Returns:
        The module.

    Raises:
        MissingExtraError: Torch is not installed. The message names the extra that installs it.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError('regularizers need torch: pip install "tinkex-sync[torch]"') from None
    return torch


@dataclass(frozen=True, eq=False)
class Regularizer(abc.ABC):
    """A weighted penalty. It is a loss function itself, and :func:`regularized` adds several to another one.

    Instances are immutable, so threads may share them.

    Args:
        weight: The factor of the penalty, finite and >= 0.
        name: The name in the metrics, ``regularizer/<name>``. Default: the name of the class, such as "l1".
        mask: A key of ``loss_fn_inputs``, such as "weights". Tokens at which it is 0 are excluded. Default: none are.

    Raises:
        MissingExtraError: Torch is not installed.
        ValueError: An argument is out of range. The message names it.
    """

    kind: ClassVar[str]

    weight: float = 1.0
    name: Optional[str] = None
    mask: Optional[str] = None

    def __post_init__(self) -> None:
        torch_library()
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)):
            raise ValueError(f"weight must be a number, got {self.weight!r}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and >= 0, got {self.weight!r}")

    @property
    def label(self) -> str:
        """The name in the metrics."""
        return self.name or self.kind

    @abc.abstractmethod
    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        """Compute the penalty before weighting.

        Args:
            data: The datums of the batch.
            logprobs: One tensor per datum.

        Returns:
            A torch scalar. Training makes it smaller.
        """

    def __call__(self, data: List[Datum], logprobs: List[Any]) -> Tuple[Any, Dict[str, float]]:
        """Compute the weighted penalty.

        Args:
            data: The datums of the batch.
            logprobs: One torch tensor per datum.

        Returns:
            The weighted penalty, and its metrics: ``regularizer/<name>`` is the penalty before weighting,
            ``regularizer/<name>/weighted`` the penalty after weighting.

        Raises:
            TypeError: ``logprobs`` are not torch tensors.
        """
        for tensor in logprobs:
            if not isinstance(tensor, torch_library().Tensor):
                raise TypeError(
                    f"{type(self).__name__} needs torch tensors, got {type(tensor).__name__}: call"
                    ' forward_backward_custom with backend="torch"'
                )
        value = self.value(data, logprobs)
        weighted = self.weight * value
        metrics = {"": value, "/weighted": weighted}
        return weighted, {f"regularizer/{self.label}{end}": _float(number) for end, number in metrics.items()}

    def unmasked(self, data: List[Datum], tensors: List[Any]) -> List[Any]:
        """Remove the rows that ``mask`` excludes.

        Args:
            data: The datums of the batch.
            tensors: One tensor per datum, whose first axis runs over tokens.

        Returns:
            The tensors without the excluded rows.

        Raises:
            KeyError: A datum does not have the key ``mask``.
            ValueError: A mask does not have one number per token.
        """
        if self.mask is None:
            return tensors
        masks = per_datum(self.mask, "mask", data)
        selected = []
        for index, (mask, tensor) in enumerate(zip(masks, tensors)):
            if mask.shape != tensor.shape[:1]:
                raise ValueError(
                    f"mask {self.mask!r} of data[{index}] has shape {list(mask.shape)}, the masked tensor"
                    f" {list(tensor.shape)}: pass one number per token"
                )
            selected.append(tensor[mask.to(tensor.device) != 0])
        return selected


def cross_entropy(data: List[Datum], logprobs: List[Any]) -> Tuple[Any, Dict[str, float]]:
    """Compute the same loss as the server's "cross_entropy".

    Args:
        data: The datums of the batch. A datum without ``weights`` counts every token with weight 1.
        logprobs: One torch tensor per datum.

    Returns:
        Minus the sum of weights times logprobs, and no metrics.
    """
    total = 0.0
    for datum, tensor in zip(data, logprobs):
        weights = datum.loss_fn_inputs.get("weights")
        total = total - (tensor if weights is None else weights.to_torch().to(tensor) * tensor).sum()
    return total, {}


def regularized(loss_fn: LossFunction, terms: Iterable[LossFunction], *, gradient_norms: bool = False) -> LossFunction:
    """Add regularizers to a loss function.

    Args:
        loss_fn: The loss function, for example :func:`cross_entropy`.
        terms: Regularizers, or functions that return (weighted penalty, metrics).
        gradient_norms: Add the L2 norms of the weighted gradients with respect to the logprobs to the metrics, as
            ``loss/base/gradient_norm``, ``loss/total/gradient_norm`` and ``regularizer/<name>/gradient_norm``. Each
            norm costs one backward pass.

    Returns:
        A loss function for ``forward_backward_custom``. Its metrics are those of ``loss_fn`` and of the terms, and
        ``loss/base``, ``regularizer/total`` and their sum ``loss/total``. It raises ValueError if two of its parts
        return the same metric.

    Raises:
        TypeError: ``loss_fn`` or a term is not callable.
        ValueError: Two terms have the same name.
    """
    parts = list(terms)
    for part in (loss_fn, *parts):
        if not callable(part):
            raise TypeError(f"loss_fn and terms must be functions of (data, logprobs), got {part!r}")
    labels = [getattr(part, "label", getattr(part, "__name__", type(part).__name__)) for part in parts]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two terms are named {label!r}: pass name= to one, or rename its function")

    def total(data: List[Datum], logprobs: List[Any]) -> Tuple[Any, Dict[str, Any]]:
        base, metrics = loss_fn(data, logprobs)
        metrics = dict(metrics)
        penalty: Any = 0.0
        losses = {"loss/base": base}
        for label, part in zip(labels, parts):
            weighted, own = part(data, logprobs)
            penalty = penalty + weighted
            _merge_metrics(metrics, own)
            losses[f"regularizer/{label}"] = weighted
        total_loss = losses["loss/total"] = base + penalty
        sums = {"loss/base": base, "regularizer/total": penalty, "loss/total": total_loss}
        _merge_metrics(metrics, {name: _float(value) for name, value in sums.items()})
        if gradient_norms:
            _merge_metrics(
                metrics, {f"{name}/gradient_norm": _gradient_norm(loss, logprobs) for name, loss in losses.items()}
            )
        return total_loss, metrics

    return total


def _float(value: Any) -> float:
    return float(value.detach()) if hasattr(value, "detach") else float(value)


def _merge_metrics(metrics: Dict[str, Any], added: Dict[str, Any]) -> None:
    duplicates = sorted(metrics.keys() & added.keys())
    if duplicates:
        raise ValueError(
            f"two parts return the metric {duplicates[0]!r}: pass all terms in one call, with different names"
        )
    metrics.update(added)


def _gradient_norm(loss: Any, logprobs: List[Any]) -> float:
    if not getattr(loss, "requires_grad", False):
        return 0.0
    gradients = torch_library().autograd.grad(loss, logprobs, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(one.square().sum()) for one in gradients if one is not None))


def per_datum(source: PerDatum, what: str, data: List[Datum]) -> List[Any]:
    """Resolve a source to one tensor per datum.

    Args:
        source: See :data:`PerDatum`.
        what: The name of the argument, for messages.
        data: The datums of the batch.

    Returns:
        One detached tensor per datum.

    Raises:
        KeyError: A datum does not have the key.
        ValueError: The number of tensors is not the number of datums.
    """
    if isinstance(source, str):
        values: List[Any] = []
        for index, datum in enumerate(data):
            if source not in datum.loss_fn_inputs:
                raise KeyError(
                    f"{what} {source!r} is missing in data[{index}].loss_fn_inputs, which has"
                    f" {sorted(datum.loss_fn_inputs)}: add it, or pass {what}= as tensors or as a function of the data"
                )
            values.append(datum.loss_fn_inputs[source])
    else:
        values = list(source(data) if callable(source) else source)
    if len(values) != len(data):
        raise ValueError(f"{what} must have one tensor per datum: expected {len(data)}, got {len(values)}")
    torch = torch_library()
    tensors = [one.to_torch() if isinstance(one, TensorData) else torch.as_tensor(one) for one in values]
    return [one.detach() for one in tensors]


def references(source: PerDatum, what: str, data: List[Datum], logprobs: List[Any]) -> List[Any]:
    """Resolve a source to tensors with the shapes, dtypes and devices of the logprobs.

    Args:
        source: See :data:`PerDatum`.
        what: The name of the argument, for messages.
        data: The datums of the batch.
        logprobs: One tensor per datum.

    Returns:
        One tensor per datum.

    Raises:
        KeyError: A datum does not have the key.
        ValueError: A shape or the number of tensors does not match.
    """
    resolved = per_datum(source, what, data)
    for index, (reference, tensor) in enumerate(zip(resolved, logprobs)):
        if reference.shape != tensor.shape:
            raise ValueError(
                f"{what} of data[{index}] has shape {list(reference.shape)}, its logprobs {list(tensor.shape)}:"
                " use equal shapes"
            )
    return [reference.to(tensor) for reference, tensor in zip(resolved, logprobs)]


def reduce_values(values: List[Any], reduction: Reduction) -> Any:
    """Reduce tensors to one scalar.

    Args:
        values: Tensors of any shapes.
        reduction: "sum", or "mean" over all elements. The mean of no elements is 0.

    Returns:
        A torch scalar.
    """
    flat = torch_library().cat([value.reshape(-1) for value in values])
    return flat.sum() if reduction == "sum" else flat.sum() / max(flat.numel(), 1)


def check_choice(what: str, value: Any, *allowed: Any) -> None:
    """Check that a value is one of the allowed values.

    Args:
        what: The name of the argument, for the message.
        value: The value.
        allowed: The allowed values.

    Raises:
        ValueError: The value is not allowed.
    """
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
