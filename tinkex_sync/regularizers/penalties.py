"""The eight regularizers.

In the formulas, ``lp`` are the logprobs of a datum, ``p`` their exponentials and ``ref`` the logprobs of a reference.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, List, Literal, Optional, Union

from ..types import Datum
from .terms import PerDatum, Reduction, Regularizer, check_choice, reduce_values, references, torch_library

__all__ = ["L1", "L2", "Consistency", "ElasticNet", "Entropy", "GradientPenalty", "KLDivergence", "Orthogonality"]


@dataclass(frozen=True, eq=False)
class _Elementwise(Regularizer):
    """Base class of penalties on single numbers.

    Args:
        target: The penalized numbers: "logprobs", "probs" (their exponentials), or a function of (data, logprobs)
            that returns a list of tensors.
        reduction: "sum" over all tokens of all datums (the default), or "mean".
    """

    target: Union[Literal["logprobs", "probs"], Callable[[List[Datum], List[Any]], List[Any]]] = "logprobs"
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.target):
            check_choice("target", self.target, "logprobs", "probs")
        check_choice("reduction", self.reduction, "sum", "mean")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        if callable(self.target):
            tensors = list(self.target(data, logprobs))
        else:
            tensors = logprobs if self.target == "logprobs" else [tensor.exp() for tensor in logprobs]
        flat = torch_library().cat([tensor.reshape(-1) for tensor in self.unmasked(data, tensors)])
        return reduce_values([self._elementwise(flat)], self.reduction)

    @abc.abstractmethod
    def _elementwise(self, x: Any) -> Any:
        """Compute the penalty of each number."""


@dataclass(frozen=True, eq=False)
class L1(_Elementwise):
    """The sum of ``|x|``. Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso", 1996."""

    kind: ClassVar[str] = "l1"

    def _elementwise(self, x: Any) -> Any:
        return x.abs()


@dataclass(frozen=True, eq=False)
class L2(_Elementwise):
    """The sum of ``(x - center)**2``. Source: Hoerl and Kennard, "Ridge Regression", 1970.

    Args:
        center: A number, or "mean" for the mean of all numbers. Default: 0.
        clip: The bound of ``|x - center|``. Larger differences are clipped and give no gradient. Default: no bound.
    """

    kind: ClassVar[str] = "l2"

    center: Union[float, Literal["mean"]] = 0.0
    clip: Optional[float] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.center, str):
            check_choice("center", self.center, "mean")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be > 0, got {self.clip!r}")

    def _elementwise(self, x: Any) -> Any:
        x = x - (reduce_values([x], "mean") if self.center == "mean" else self.center)
        return (x if self.clip is None else x.clamp(-self.clip, self.clip)).square()


@dataclass(frozen=True, eq=False)
class ElasticNet(_Elementwise):
    """The sum of ``a * |x| + (1 - a) * x**2``.

    Source: Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", 2005.

    Args:
        l1_ratio: The factor ``a``, from 0 (L2 only) to 1 (L1 only).
    """

    kind: ClassVar[str] = "elastic_net"

    l1_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio must be from 0 to 1, got {self.l1_ratio!r}")

    def _elementwise(self, x: Any) -> Any:
        return self.l1_ratio * x.abs() + (1 - self.l1_ratio) * x.square()


@dataclass(frozen=True, eq=False)
class Entropy(Regularizer):
    """The entropy ``-sum(p * lp)`` of each datum.

    Sources: Shannon, "A Mathematical Theory of Communication", 1948. As a regularizer: Grandvalet and Bengio,
    "Semi-supervised Learning by Entropy Minimization", 2005 ("minimize"), and Pereyra et al., "Regularizing Neural
    Networks by Penalizing Confident Output Distributions", 2017 ("maximize").

    Args:
        mode: "minimize" adds the entropy, so training makes the model more certain. "maximize" subtracts it, so
            training makes the model explore.
        reduction: "mean" over the datums (the default), or "sum".
        normalize: Divide the entropy by its maximum, the log of the number of entries (at least 2).
        temperature: Finite and > 0. If it is not 1, ``lp`` is replaced by the log softmax of ``lp / temperature``.
    """

    kind: ClassVar[str] = "entropy"

    mode: Literal["minimize", "maximize"] = "minimize"
    reduction: Reduction = "mean"
    normalize: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, "minimize", "maximize")
        check_choice("reduction", self.reduction, "sum", "mean")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and > 0, got {self.temperature!r}")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        entropies = [self._of_datum(lp) for lp in self.unmasked(data, logprobs)]
        return reduce_values(entropies, self.reduction) * (1 if self.mode == "minimize" else -1)

    def _of_datum(self, lp: Any) -> Any:
        if self.temperature != 1:
            lp = (lp / self.temperature).log_softmax(-1)
        entropy = -(lp.exp() * lp).sum(-1)
        return entropy / math.log(max(lp.shape[-1], 2)) if self.normalize else entropy


@dataclass(frozen=True, eq=False)
class KLDivergence(Regularizer):
    """The divergence of the model from a reference.

    Source: Kullback and Leibler, "On Information and Sufficiency", 1951.

    Args:
        reference: The logprobs of the same tokens under the reference, for example the untrained model. See
            :data:`PerDatum`.
        direction: "forward" is ``sum(p * (lp - ref))`` over a datum. "reverse" exchanges the two.
        symmetric: Use the mean of both directions.
        estimator: None uses the formula above, which treats a datum as a distribution. For tokens that were sampled
            from the model, "k2" is ``(lp - ref)**2 / 2`` and "k3" is ``exp(ref - lp) - 1 - (ref - lp)`` per token.
            Both are never negative. Sources: Schulman, "Approximating KL Divergence", 2020; Shao et al.,
            "DeepSeekMath", 2024, equation 4.
        reduction: "mean" over datums, or over tokens if there is an estimator (the default), or "sum".
    """

    kind: ClassVar[str] = "kl_divergence"

    reference: PerDatum = "reference_logprobs"
    direction: Literal["forward", "reverse"] = "forward"
    symmetric: bool = False
    estimator: Optional[Literal["k2", "k3"]] = None
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("direction", self.direction, "forward", "reverse")
        check_choice("estimator", self.estimator, None, "k2", "k3")
        check_choice("reduction", self.reduction, "sum", "mean")
        if self.estimator and (self.symmetric or self.direction != "forward"):
            raise ValueError(
                f"estimator {self.estimator!r} supports the forward direction only: omit direction and symmetric"
            )

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        others = references(self.reference, "reference", data, logprobs)
        pairs = zip(self.unmasked(data, logprobs), self.unmasked(data, others))
        return reduce_values([self._of_datum(lp, ref) for lp, ref in pairs], self.reduction)

    def _of_datum(self, lp: Any, ref: Any) -> Any:
        if self.estimator == "k2":
            return (lp - ref).square() / 2
        if self.estimator == "k3":
            return (ref - lp).expm1() - (ref - lp)
        if self.symmetric:
            return _jeffreys(lp, ref)
        return _kl(lp, ref) if self.direction == "forward" else _kl(ref, lp)


def _kl(lp: Any, lq: Any) -> Any:
    return (lp.exp() * (lp - lq)).sum(-1)


def _jeffreys(lp: Any, lq: Any) -> Any:
    return (_kl(lp, lq) + _kl(lq, lp)) / 2


@dataclass(frozen=True, eq=False)
class Consistency(Regularizer):
    """The distance of a datum's logprobs from those of a paired datum, for example the text before augmentation.

    Sources: Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", 2017 ("mse"); Liang et al., "R-Drop:
    Regularized Dropout for Neural Networks", 2021 ("kl").

    Args:
        pair: The logprobs of the paired datums. See :data:`PerDatum`.
        metric: "mse" is the squared difference, "l1" the absolute difference, "cosine" 1 minus the cosine of the
            angle between the vectors, "kl" the mean of both directions of :class:`KLDivergence`.
        reduction: "mean" over tokens (over datums for "cosine" and "kl"; the default), or "sum".
    """

    kind: ClassVar[str] = "consistency"

    pair: PerDatum = "original_logprobs"
    metric: Literal["mse", "l1", "cosine", "kl"] = "mse"
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric", self.metric, *_DISTANCES)
        check_choice("reduction", self.reduction, "sum", "mean")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        others = references(self.pair, "pair", data, logprobs)
        pairs = zip(self.unmasked(data, logprobs), self.unmasked(data, others))
        return reduce_values([_DISTANCES[self.metric](lp, other) for lp, other in pairs], self.reduction)


def _cosine_distance(x: Any, y: Any) -> Any:
    if not x.numel():
        return x.sum()
    similarity = torch_library().nn.functional.cosine_similarity
    return 1 - similarity(x.reshape(-1), y.reshape(-1), dim=0)


_DISTANCES: Dict[str, Callable[[Any, Any], Any]] = {
    "mse": lambda x, y: (x - y).square(),
    "l1": lambda x, y: (x - y).abs(),
    "cosine": _cosine_distance,
    "kl": _jeffreys,
}


@dataclass(frozen=True, eq=False)
class Orthogonality(Regularizer):
    """The deviation of the rows of a matrix from orthogonality, measured by their Gram matrix ``G``.

    The logprobs of a datum are one row, padded with zeros to the longest. Sources: Brock et al., "Neural Photo Editing
    with Introspective Adversarial Networks", 2017; Bansal et al., "Can We Gain More from Orthogonality Regularizations
    in Training Deep CNNs?", 2018.

    Args:
        mode: "soft" is the sum of the squares of ``G`` off the diagonal, "hard" the sum of the squares of ``G - I``,
            "spectral" is "soft" plus ``(trace(G) - rows)**2``.
        normalize: Scale each row to length 1 first. "soft" and "hard" then differ only by rows of zeros.
        axis: "datums": each row is a datum. "positions": each row is a position.
    """

    kind: ClassVar[str] = "orthogonality"

    mode: Literal["soft", "hard", "spectral"] = "soft"
    normalize: bool = True
    axis: Literal["datums", "positions"] = "datums"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, "soft", "hard", "spectral")
        check_choice("axis", self.axis, "datums", "positions")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        torch = torch_library()
        rows = torch.nn.utils.rnn.pad_sequence(self.unmasked(data, logprobs), batch_first=True)
        rows = rows if self.axis == "datums" else rows.T
        if self.normalize:
            rows = torch.nn.functional.normalize(rows, dim=1)
        gram = rows @ rows.T
        identity = torch.eye(len(rows)).to(gram)
        if self.mode == "hard":
            return (gram - identity).square().sum()
        penalty = (gram * (1 - identity)).square().sum()
        return penalty if self.mode == "soft" else penalty + (gram.trace() - len(rows)).square()


@dataclass(frozen=True, eq=False)
class GradientPenalty(Regularizer):
    """The mean over datums of ``(norm - target_norm)**2``, where norm is the L2 norm of a loss's gradient.

    The gradient is taken with respect to the logprobs of a datum. The penalty is differentiated again, so it has an
    effect only if the loss is not linear in the logprobs. Source: Gulrajani et al., "Improved Training of Wasserstein
    GANs", 2017.

    Args:
        loss_fn: A function of (data, logprobs) that returns a scalar or (scalar, metrics). Required.
        mode: The point at which the gradient is taken. "output": the logprobs. "interpolated": a random point between
            the logprobs and ``reference``, one per datum.
        target_norm: The norm at which the penalty is 0; >= 0.
        reference: The other end of the interpolation. See :data:`PerDatum`.
        seed: The seed of the random points. Default: torch's global generator.
    """

    kind: ClassVar[str] = "gradient_penalty"

    loss_fn: Any = None
    mode: Literal["output", "interpolated"] = "output"
    target_norm: float = 1.0
    reference: PerDatum = "reference_logprobs"
    seed: Optional[int] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.loss_fn):
            raise TypeError(f"loss_fn must be a function of (data, logprobs), got {self.loss_fn!r}")
        check_choice("mode", self.mode, "output", "interpolated")
        if not 0 <= self.target_norm < math.inf:
            raise ValueError(f"target_norm must be finite and >= 0, got {self.target_norm!r}")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        torch = torch_library()
        points = [lp if lp.requires_grad else lp.detach().requires_grad_() for lp in logprobs]
        if self.mode == "interpolated":
            points = self._interpolate(data, points)
        loss: Any = self.loss_fn(data, points)
        loss = loss[0] if isinstance(loss, tuple) else loss
        if not getattr(loss, "requires_grad", False):
            raise ValueError("the result of GradientPenalty's loss_fn has no gradient: compute it from the logprobs")
        gradients = torch.autograd.grad(loss, points, create_graph=True, allow_unused=True)
        full = [torch.zeros_like(point) if one is None else one for one, point in zip(gradients, points)]
        norms = [torch.linalg.vector_norm(one) for one in self.unmasked(data, full)]
        return reduce_values([(norm - self.target_norm).square() for norm in norms], "mean")

    def _interpolate(self, data: List[Datum], logprobs: List[Any]) -> List[Any]:
        torch = torch_library()
        others = references(self.reference, "reference", data, logprobs)
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        shares = torch.rand(len(logprobs), generator=generator)
        return [share.to(lp) * lp + (1 - share.to(lp)) * ref for share, lp, ref in zip(shares, logprobs, others)]
