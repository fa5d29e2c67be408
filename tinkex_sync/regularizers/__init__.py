"""Penalties in torch that are added to a loss function for ``TrainingClient.forward_backward_custom``.

The formulas and defaults are those of the Elixir client (tinkex), with one difference: this package reads the fields of
each datum, where the Elixir client reads those of the first datum.

A regularizer receives the natural-log probabilities of the target tokens, one vector per datum, as the server returns
them. If a formula is defined for a distribution, its sum runs over the tokens of a datum. A tensor with a last axis
over the vocabulary gives the value of the definition.

Torch is imported when a regularizer is created, not before.
"""

from .penalties import (
    L1,
    L2,
    Consistency,
    ElasticNet,
    Entropy,
    GradientPenalty,
    KLDivergence,
    Orthogonality,
)
from .terms import Regularizer, cross_entropy, regularized

__all__ = [
    "L1",
    "L2",
    "Consistency",
    "ElasticNet",
    "Entropy",
    "GradientPenalty",
    "KLDivergence",
    "Orthogonality",
    "Regularizer",
    "cross_entropy",
    "regularized",
]
