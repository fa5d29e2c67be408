"""The eight penalties. ``lp`` is a datum's logprobs, ``p`` their exponentials, ``ref`` those of a reference."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, List, Literal, Optional, Union

from ..types import Datum
from .terms import PerDatum, Reduction, Regularizer, one_of, reduced, references, torch_library

__all__ = [
    "L1",
    "L2",
    "Consistency",
    "ElasticNet",
    "Entropy",
    "GradientPenalty",
    "KLDivergence",
    "Orthogonality",
]


@dataclass(frozen=True, eq=False)
class _Elementwise(Regularizer):
    """A penalty on each number of a target.

    Args:
        target: "logprobs", "probs" (their exponentials), or a function of (data, logprobs) that gives a list of
            tensors made from them.
        reduction: "sum" over all tokens of all datums (the default), or "mean".
    """

    target: Union[Literal["logprobs", "probs"], Callable[[List[Datum], List[Any]], List[Any]]] = "logprobs"
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.target):
            one_of("target", self.target, "logprobs", "probs")
        one_of("reduction", self.reduction, "sum", "mean")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        if callable(self.target):
            tensors = list(self.target(data, logprobs))
        else:
            tensors = logprobs if self.target == "logprobs" else [tensor.exp() for tensor in logprobs]
        flat = torch_library().cat([tensor.reshape(-1) for tensor in self.kept(data, tensors)])
        return reduced([self._each(flat)], self.reduction)

    @abc.abstractmethod
    def _each(self, x: Any) -> Any:
        """The penalty of each number."""


@dataclass(frozen=True, eq=False)
class L1(_Elementwise):
    """Sum of ``|x|``. Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso", 1996."""

    kind: ClassVar[str] = "l1"

    def _each(self, x: Any) -> Any:
        return x.abs()


@dataclass(frozen=True, eq=False)
class L2(_Elementwise):
    """Sum of ``(x - center)**2``. Source: Hoerl and Kennard, "Ridge Regression", 1970.

    Args:
        center: A number, or "mean" for the mean of all; default 0.
        clip: Differences beyond this count as this, and give no gradient; default: none do.
    """

    kind: ClassVar[str] = "l2"

    center: Union[float, Literal["mean"]] = 0.0
    clip: Optional[float] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.center, str):
            one_of("center", self.center, "mean")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be above 0, not {self.clip!r}")

    def _each(self, x: Any) -> Any:
        x = x - (reduced([x], "mean") if self.center == "mean" else self.center)
        return (x if self.clip is None else x.clamp(-self.clip, self.clip)).square()


@dataclass(frozen=True, eq=False)
class ElasticNet(_Elementwise):
    """Sum of ``a * |x| + (1 - a) * x**2``.

    Source: Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", 2005.

    Args:
        l1_ratio: The ``a``, from 0 (L2 alone) to 1 (L1 alone).
    """

    kind: ClassVar[str] = "elastic_net"

    l1_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio must be from 0 to 1, not {self.l1_ratio!r}")

    def _each(self, x: Any) -> Any:
        return self.l1_ratio * x.abs() + (1 - self.l1_ratio) * x.square()


@dataclass(frozen=True, eq=False)
class Entropy(Regularizer):
    """The entropy ``-sum(p * lp)`` of each datum.

    Sources: Shannon, "A Mathematical Theory of Communication", 1948; as a regularizer Grandvalet and Bengio,
    "Semi-supervised Learning by Entropy Minimization", 2005 (less of it), and Pereyra et al., "Regularizing Neural
    Networks by Penalizing Confident Output Distributions", 2017 (more of it).

    Args:
        mode: "minimize" adds the entropy, which makes the model surer; "maximize" subtracts it (exploration).
        reduction: "mean" over the datums (the default), or "sum".
        normalize: Divide by its maximum, the log of the number of entries (of at least 2).
        temperature: Above 0; other than 1, ``lp`` becomes the log softmax of ``lp / temperature``.
    """

    kind: ClassVar[str] = "entropy"

    mode: Literal["minimize", "maximize"] = "minimize"
    reduction: Reduction = "mean"
    normalize: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("mode", self.mode, "minimize", "maximize")
        one_of("reduction", self.reduction, "sum", "mean")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and above 0, not {self.temperature!r}")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        entropies = [self._of(lp) for lp in self.kept(data, logprobs)]
        return reduced(entropies, self.reduction) * (1 if self.mode == "minimize" else -1)

    def _of(self, lp: Any) -> Any:
        if self.temperature != 1:
            lp = (lp / self.temperature).log_softmax(-1)
        entropy = -(lp.exp() * lp).sum(-1)
        return entropy / math.log(max(lp.shape[-1], 2)) if self.normalize else entropy


@dataclass(frozen=True, eq=False)
class KLDivergence(Regularizer):
    """How far the model is from a reference. Source: Kullback and Leibler, "On Information and Sufficiency", 1951.

    Args:
        reference: The logprobs of the same tokens under the reference, such as the untrained model's; see
            :data:`PerDatum`.
        direction: "forward", ``sum(p * (lp - ref))`` over a datum, or "reverse", with the two exchanged.
        symmetric: The mean of both directions.
        estimator: None, the formula above, reads a datum as a distribution. For tokens sampled from the model there
            are, token by token, "k2", ``(lp - ref)**2 / 2``, and "k3", ``exp(ref - lp) - 1 - (ref - lp)``, which
            are never negative. Sources: Schulman, "Approximating KL Divergence", 2020; Shao et al.,
            "DeepSeekMath", 2024, equation 4.
        reduction: "mean" over datums (with an estimator, over tokens; the default), or "sum".
    """

    kind: ClassVar[str] = "kl_divergence"

    reference: PerDatum = "reference_logprobs"
    direction: Literal["forward", "reverse"] = "forward"
    symmetric: bool = False
    estimator: Optional[Literal["k2", "k3"]] = None
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("direction", self.direction, "forward", "reverse")
        one_of("estimator", self.estimator, None, "k2", "k3")
        one_of("reduction", self.reduction, "sum", "mean")
        if self.estimator and (self.symmetric or self.direction != "forward"):
            raise ValueError(
                f"estimator {self.estimator!r} is of the forward direction: leave the others out"
            )

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        others = references(self.reference, "reference", data, logprobs)
        pairs = zip(self.kept(data, logprobs), self.kept(data, others))
        return reduced([self._of(lp, ref) for lp, ref in pairs], self.reduction)

    def _of(self, lp: Any, ref: Any) -> Any:
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
    """How far a datum's logprobs are from those of its pair, such as of the same text before it was augmented.

    Sources: Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", 2017 ("mse"); Liang et al., "R-Drop:
    Regularized Dropout for Neural Networks", 2021 ("kl").

    Args:
        pair: The pair's logprobs; see :data:`PerDatum`.
        metric: "mse", squared difference; "l1", absolute difference; "cosine", 1 minus the cosine of a datum's
            angle; "kl", the mean of both directions of :class:`KLDivergence`.
        reduction: "mean" over tokens ("cosine" and "kl": datums; the default), or "sum".
    """

    kind: ClassVar[str] = "consistency"

    pair: PerDatum = "original_logprobs"
    metric: Literal["mse", "l1", "cosine", "kl"] = "mse"
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("metric", self.metric, *_DISTANCES)
        one_of("reduction", self.reduction, "sum", "mean")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        others = references(self.pair, "pair", data, logprobs)
        pairs = zip(self.kept(data, logprobs), self.kept(data, others))
        return reduced([_DISTANCES[self.metric](lp, other) for lp, other in pairs], self.reduction)


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
    """How much the rows of a matrix have in common, by their Gram matrix ``G``.

    A datum's logprobs are a row; where it is shorter than the longest it goes on with zeros. Sources: Brock et al.,
    "Neural Photo Editing with Introspective Adversarial Networks", 2017; Bansal et al., "Can We Gain More from
    Orthogonality Regularizations in Training Deep CNNs?", 2018.

    Args:
        mode: "soft", the sum of the squares of ``G`` off the diagonal; "hard", of ``G - I``; "spectral", "soft" plus
            ``(trace(G) - rows)**2``.
        normalize: Scale each row to length 1 first (with it, "soft" and "hard" differ only by rows of zeros).
        axis: "datums", each row a datum, or "positions", each row a position.
    """

    kind: ClassVar[str] = "orthogonality"

    mode: Literal["soft", "hard", "spectral"] = "soft"
    normalize: bool = True
    axis: Literal["datums", "positions"] = "datums"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("mode", self.mode, "soft", "hard", "spectral")
        one_of("axis", self.axis, "datums", "positions")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        torch = torch_library()
        rows = torch.nn.utils.rnn.pad_sequence(self.kept(data, logprobs), batch_first=True)
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
    """``(norm - target_norm)**2``, of the L2 norm of a loss's gradient by each datum's logprobs; mean over the datums.

    It differentiates twice, so it says something only about a loss that is not linear in the logprobs. Source:
    Gulrajani et al., "Improved Training of Wasserstein GANs", 2017.

    Args:
        loss_fn: The loss: of (data, logprobs), giving a scalar, or (scalar, metrics). It has no default.
        mode: Where the gradient is taken: "output", at the logprobs; "interpolated", at a point between them and
            ``reference``, drawn for each datum.
        target_norm: What the norm should be; not negative.
        reference: For "interpolated"; see :data:`PerDatum`.
        seed: Of the points that are drawn; default: by torch's own generator.
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
            raise TypeError(f"loss_fn must be the loss whose gradient counts, not {self.loss_fn!r}")
        one_of("mode", self.mode, "output", "interpolated")
        if not 0 <= self.target_norm < math.inf:
            raise ValueError(f"target_norm must be finite and not negative, not {self.target_norm!r}")

    def value(self, data: List[Datum], logprobs: List[Any]) -> Any:
        torch = torch_library()
        points = [lp if lp.requires_grad else lp.detach().requires_grad_() for lp in logprobs]
        if self.mode == "interpolated":
            points = self._between(data, points)
        loss: Any = self.loss_fn(data, points)
        loss = loss[0] if isinstance(loss, tuple) else loss
        if not getattr(loss, "requires_grad", False):
            raise ValueError(
                "the loss_fn of GradientPenalty does not depend on the logprobs: it has no gradient"
            )
        gradients = torch.autograd.grad(loss, points, create_graph=True, allow_unused=True)
        full = [torch.zeros_like(point) if one is None else one for one, point in zip(gradients, points)]
        norms = [torch.linalg.vector_norm(one) for one in self.kept(data, full)]
        return reduced([(norm - self.target_norm).square() for norm in norms], "mean")

    def _between(self, data: List[Datum], logprobs: List[Any]) -> List[Any]:
        torch = torch_library()
        others = references(self.reference, "reference", data, logprobs)
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        shares = torch.rand(len(logprobs), generator=generator)
        return [
            share.to(lp) * lp + (1 - share.to(lp)) * ref for share, lp, ref in zip(shares, logprobs, others)
        ]
