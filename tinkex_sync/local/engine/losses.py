r"""The loss functions by name, as functions of the log probabilities of the target tokens.

All are sums over tokens, and follow the published definitions of Tinker. Per token, ``lp`` is the log probability
under the trained model, ``q`` the log probability when the token was sampled (``logprobs``), ``A`` the advantage,
``w`` the weight and ``r = exp(lp - q)``:

- ``cross_entropy``: ``-w lp``. A position may have several targets with a weight each (soft targets).
- ``importance_sampling``: ``-r A`` (policy gradient with an off-policy correction: Sutton and Barto 2018,
  section 5.5).
- ``ppo``: ``-min(r A, clip(r, low, high) A)`` (Schulman et al. 2017, arXiv:1707.06347, equation 7).
- ``cispo``: ``-stop(clip(r, low, high)) A lp``, without gradient through the clipped ratio (MiniMax 2025,
  arXiv:2506.13585, equation 4).
- ``dro``: ``-(A lp - beta/2 (lp - q)^2)`` (Richemond et al. 2024, arXiv:2405.19107, without its value term).

``low`` and ``high`` are bounds of the ratio itself, not of its distance from 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import autograd.numpy as anp
import numpy as np
from autograd import elementwise_grad
from autograd.extend import defvjp, primitive

from .errors import EngineError
from .primitives import Array

#: Settings of a loss function that ``loss_fn_inputs`` may contain per token.
OPTIONAL_INPUTS = ("clip_low_threshold", "clip_high_threshold")

LossInputs = Mapping[str, Any]


@dataclass(frozen=True)
class Loss:
    """A loss function and its inputs.

    ``elementwise`` maps (logprobs, inputs) to the loss of each token. ``inputs`` contains the settings too, as arrays
    if a datum has values of its own. ``required`` are the inputs that a datum must have, ``defaults`` those that it may
    omit, and ``settings`` the keys of ``loss_fn_config`` with their defaults. With ``several_targets`` a position may
    have several targets, each with inputs of its own.
    """

    elementwise: Callable[[Array, LossInputs], Array]
    required: Tuple[str, ...] = ()
    defaults: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    several_targets: bool = False

    @property
    def per_token(self) -> Tuple[str, ...]:
        """The settings for which a datum may have values of its own."""
        return tuple(key for key in self.settings if key in OPTIONAL_INPUTS)


@primitive  # type: ignore[untyped-decorator]
def _without_gradient(x: Array) -> Array:
    return x


defvjp(_without_gradient, lambda ans, x: lambda g: np.zeros_like(g))


def _ratio(lp: Array, inputs: LossInputs) -> Array:
    return anp.exp(lp - inputs["logprobs"])


def _clip(ratio: Array, inputs: LossInputs) -> Array:
    return anp.minimum(anp.maximum(ratio, inputs["clip_low_threshold"]), inputs["clip_high_threshold"])


def _cross_entropy(lp: Array, inputs: LossInputs) -> Array:
    return -inputs["weights"] * lp


def _importance_sampling(lp: Array, inputs: LossInputs) -> Array:
    return -_ratio(lp, inputs) * inputs["advantages"]


def _ppo(lp: Array, inputs: LossInputs) -> Array:
    ratio = _ratio(lp, inputs)
    # where instead of minimum: inside the bounds both arguments are equal, and the gradient of minimum would be
    # divided between them. The unclipped argument must get the whole gradient.
    unclipped, clipped = ratio * inputs["advantages"], _clip(ratio, inputs) * inputs["advantages"]
    return -anp.where(unclipped <= clipped, unclipped, clipped)


def _cispo(lp: Array, inputs: LossInputs) -> Array:
    return -_without_gradient(_clip(_ratio(lp, inputs), inputs)) * inputs["advantages"] * lp


def _dro(lp: Array, inputs: LossInputs) -> Array:
    distance = lp - inputs["logprobs"]
    return -(inputs["advantages"] * lp - 0.5 * inputs["beta"] * distance * distance)


_OFF_POLICY = ("logprobs", "advantages")
_CLIPS = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}

LOSSES: Dict[str, Loss] = {
    "cross_entropy": Loss(_cross_entropy, defaults={"weights": 1.0}, several_targets=True),
    "importance_sampling": Loss(_importance_sampling, _OFF_POLICY),
    "ppo": Loss(_ppo, _OFF_POLICY, settings=_CLIPS),
    "cispo": Loss(_cispo, _OFF_POLICY, settings=_CLIPS),
    "dro": Loss(_dro, _OFF_POLICY, settings={"beta": 0.05}),
}


def parse_settings(loss_fn: str, config: Optional[Mapping[str, Any]]) -> Dict[str, float]:
    """Validate the ``loss_fn_config`` of a request.

    Returns:
        The settings of the loss function, with defaults for absent keys.

    Raises:
        EngineError: There is no such loss function or setting, or a value is not a finite number.
    """
    loss = LOSSES.get(loss_fn) if isinstance(loss_fn, str) else None
    if loss is None:
        raise EngineError(f"unknown loss_fn {loss_fn!r}: use one of {', '.join(LOSSES)}")
    values = dict(loss.settings)
    for key, value in (config or {}).items():
        if key not in values:
            known = ", ".join(values) or "none"
            raise EngineError(f"loss_fn_config has the unknown key {key!r}: {loss_fn} has these settings: {known}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise EngineError(f"loss_fn_config {key} is {value!r}: use a finite number")
        values[key] = float(value)
    return values


def evaluate(loss_fn: str, logprobs: Any, inputs: LossInputs) -> Tuple[Any, Any]:
    """Return the loss of each token and its derivative with respect to the log probability, both of shape (tokens,)."""
    elementwise = LOSSES[loss_fn].elementwise
    with np.errstate(over="ignore", invalid="ignore"):
        gradient = elementwise_grad(lambda lp: elementwise(lp, inputs))(logprobs)
        return elementwise(logprobs, inputs), gradient
