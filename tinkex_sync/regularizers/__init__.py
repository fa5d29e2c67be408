"""Penalties in torch that are added to a loss function for ``TrainingClient.forward_backward_custom``.

The formulas and defaults are those of the Elixir client (tinkex), with one difference. This package reads the fields of
every datum, and the Elixir client reads only those of the first datum.

A regularizer receives the natural-log probabilities of the target tokens, one vector per datum, as the server returns
them. If a formula is defined for a distribution, the sum is computed over the tokens of a datum. For a tensor whose
last axis is the vocabulary, the result is the value of the definition.

Torch is imported when a regularizer is created.
"""

from .penalties import L1, L2, Consistency, ElasticNet, Entropy, GradientPenalty, KLDivergence, Orthogonality
from .terms import Regularizer, cross_entropy, regularized

__all__ = [
    "L1", "L2", "Consistency", "ElasticNet", "Entropy", "GradientPenalty", "KLDivergence", "Orthogonality",
    "Regularizer", "cross_entropy", "regularized",
]  # fmt: skip
