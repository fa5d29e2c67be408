"""What a regularizer is, and how several add up to one loss."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, Iterable, List, Literal, Optional, Sequence, Tuple, Union

from ..errors import MissingExtraError
from ..types import Datum, TensorData

__all__ = [
    "Loss",
    "PerDatum",
    "Reduction",
    "Regularizer",
    "cross_entropy",
    "one_of",
    "per_datum",
    "reduced",
    "references",
    "regularized",
    "torch_library",
]

#: ``loss(data, logprobs)`` gives the loss, one torch scalar, and a dict of metrics.
Loss = Callable[[List[Datum], List[Any]], Tuple[Any, Dict[str, Any]]]

#: One tensor per datum, shaped as its logprobs: the key of a datum's ``loss_fn_inputs`` (sent with the forward pass,
#: so the server has to take it), a sequence in the order of the data, or a function of the data that gives one.
PerDatum = Union[str, Sequence[Any], Callable[[List[Datum]], Sequence[Any]]]

Reduction = Literal["sum", "mean"]


def torch_library() -> Any:
    """The torch module.

    Raises:
        MissingExtraError: it is not installed; the text says which extra brings it.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError('regularizers need torch: pip install "tinkex-sync[torch]"') from None
    return torch


@dataclass(frozen=True, eq=False)
class Regularizer(abc.ABC):
    """A penalty, and how much it counts.

    A term is a loss function itself; :func:`regularized` adds several to another loss.

    Args:
        weight: What the penalty is multiplied by; finite, not negative.
        name: In the metrics, ``regularizer/<name>``; default: the term's own, such as "l1".
        mask: A key of ``loss_fn_inputs``, such as "weights": tokens where it is 0 do not count. Default: all count.

    Raises:
        MissingExtraError: torch is not installed.
        ValueError: an argument is outside what it may be; the text names it.
    """

    kind: ClassVar[str]

    weight: float = 1.0
    name: Optional[str] = None
    mask: Optional[str] = None

    def __post_init__(self) -> None:
        torch_library()
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)):
            raise ValueError(f"weight must be a number, not {self.weight!r}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and not negative, not {self.weight!r}")

    @property
    def label(self) -> str:
        """The name in the metrics."""
        return self.name or self.kind

    @abc.abstractmethod
    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        """The penalty before it is weighted, a torch scalar; larger is worse."""

    def __call__(self, data: List[Datum], logprobs: List[Any]) -> Tuple[Any, Dict[str, float]]:
        """(weight times value, metrics): ``regularizer/<name>`` is the value, ``.../weighted`` what is added."""
        for tensor in logprobs:
            if not isinstance(tensor, torch_library().Tensor):
                raise TypeError(
                    f"{type(self).__name__} works on torch tensors, not on {type(tensor).__name__}: call"
                    ' forward_backward_custom with backend="torch"'
                )
        value = self.value(data, logprobs)
        weighted = self.weight * value
        metrics = {"": value, "/weighted": weighted}
        return weighted, {f"regularizer/{self.label}{end}": _float(number) for end, number in metrics.items()}

    def kept(self, data: List[Datum], tensors: List[Any]) -> List[Any]:
        """``tensors`` without the rows that ``mask`` leaves out."""
        if self.mask is None:
            return tensors
        masks = per_datum(self.mask, "mask", data)
        kept = []
        for index, (mask, tensor) in enumerate(zip(masks, tensors)):
            if mask.shape != tensor.shape[:1]:
                raise ValueError(
                    f"mask {self.mask!r} of data[{index}] has shape {list(mask.shape)}, what it masks"
                    f" {list(tensor.shape)}: one number per token is needed"
                )
            kept.append(tensor[mask.to(tensor.device) != 0])
        return kept


def cross_entropy(data: List[Datum], logprobs: List[Any]) -> Tuple[Any, Dict[str, float]]:
    """The server's own "cross_entropy": minus the sum of weights times logprobs; no weights means 1 for each."""
    total = 0.0
    for datum, tensor in zip(data, logprobs):
        weights = datum.loss_fn_inputs.get("weights")
        total = total - (tensor if weights is None else weights.to_torch().to(tensor) * tensor).sum()
    return total, {}


def regularized(loss_fn: Loss, terms: Iterable[Loss], *, gradient_norms: bool = False) -> Loss:
    """``loss_fn`` plus ``terms``, as one loss function for ``forward_backward_custom``.

    To the metrics of ``loss_fn`` come ``loss/base``, ``regularizer/total`` and their sum ``loss/total``, and each
    term's ``regularizer/<name>`` and ``regularizer/<name>/weighted``.

    Args:
        loss_fn: Gives (loss, metrics); for example :func:`cross_entropy`.
        terms: Regularizers, or functions of your own that give (weighted penalty, metrics).
        gradient_norms: Also measure the L2 norms of the gradients by the logprobs, weighted:
            ``loss/base/gradient_norm``, ``loss/total/gradient_norm``, ``regularizer/<name>/gradient_norm``. Costs
            one backward pass for each.

    Raises:
        TypeError: something cannot be called.
        ValueError: two terms have one name; or, when called, two of them report the same metric.
    """
    parts = list(terms)
    for part in (loss_fn, *parts):
        if not callable(part):
            raise TypeError(f"loss and terms must be functions of (data, logprobs), not {part!r}")
    labels = [getattr(part, "label", getattr(part, "__name__", type(part).__name__)) for part in parts]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two terms are named {label!r}: name one otherwise, with name= or by its def")

    def total(data: List[Datum], logprobs: List[Any]) -> Tuple[Any, Dict[str, Any]]:
        base, metrics = loss_fn(data, logprobs)
        metrics = dict(metrics)
        penalty: Any = 0.0
        norms = {"loss/base": base}
        for label, part in zip(labels, parts):
            weighted, own = part(data, logprobs)
            penalty = penalty + weighted
            _add(metrics, own)
            norms[f"regularizer/{label}"] = weighted
        whole = norms["loss/total"] = base + penalty
        sums = {"loss/base": base, "regularizer/total": penalty, "loss/total": whole}
        _add(metrics, {name: _float(value) for name, value in sums.items()})
        if gradient_norms:
            _add(metrics, {f"{name}/gradient_norm": _norm(loss, logprobs) for name, loss in norms.items()})
        return whole, metrics

    return total


def _float(value: Any) -> float:
    return float(value.detach()) if hasattr(value, "detach") else float(value)


def _add(metrics: Dict[str, Any], more: Dict[str, Any]) -> None:
    twice = sorted(metrics.keys() & more.keys())
    if twice:
        raise ValueError(
            f"the metric {twice[0]!r} is reported twice: give all terms in one call, each its name"
        )
    metrics.update(more)


def _norm(loss: Any, logprobs: List[Any]) -> float:
    if not getattr(loss, "requires_grad", False):
        return 0.0
    gradients = torch_library().autograd.grad(loss, logprobs, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(one.square().sum()) for one in gradients if one is not None))


def per_datum(source: PerDatum, what: str, data: List[Datum]) -> List[Any]:
    """One tensor per datum."""
    if isinstance(source, str):
        values: List[Any] = []
        for index, datum in enumerate(data):
            if source not in datum.loss_fn_inputs:
                raise KeyError(
                    f"{what} {source!r} is missing in data[{index}].loss_fn_inputs, which has"
                    f" {sorted(datum.loss_fn_inputs)}: put it there, or give {what}= tensors or a function of the data"
                )
            values.append(datum.loss_fn_inputs[source])
    else:
        values = list(source(data) if callable(source) else source)
    if len(values) != len(data):
        raise ValueError(f"{what} must have one tensor per datum: {len(data)}, not {len(values)}")
    torch = torch_library()
    tensors = [one.to_torch() if isinstance(one, TensorData) else torch.as_tensor(one) for one in values]
    return [one.detach() for one in tensors]


def references(source: PerDatum, what: str, data: List[Datum], logprobs: List[Any]) -> List[Any]:
    """Like the logprobs in shape, dtype and device."""
    references = per_datum(source, what, data)
    for index, (reference, tensor) in enumerate(zip(references, logprobs)):
        if reference.shape != tensor.shape:
            raise ValueError(
                f"{what} of data[{index}] has shape {list(reference.shape)}, its logprobs {list(tensor.shape)}:"
                " they must agree"
            )
    return [reference.to(tensor) for reference, tensor in zip(references, logprobs)]


def reduced(values: List[Any], reduction: Reduction) -> Any:
    """One number of many; the mean of none is 0."""
    flat = torch_library().cat([value.reshape(-1) for value in values])
    return flat.sum() if reduction == "sum" else flat.sum() / max(flat.numel(), 1)


def one_of(what: str, value: Any, *allowed: Any) -> None:
    """Refuse a value that is not allowed, with ValueError."""
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
