"""Regularizers: small torch terms that add up to one loss for ``TrainingClient.forward_backward_custom``.

Formulas and defaults are those of the Elixir client (tinkex); where that reads the first datum's field, each datum's
own is read here. What a term sees is what the server gives: for each datum the natural-log probabilities of its target
tokens, one-dimensional. Where a formula asks for a distribution, its sum runs over a datum's tokens; a tensor with a
last axis over the vocabulary gives the textbook value.

Torch is imported when a term is made, not before.
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
