"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) with clipping by the global norm."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Dict, Mapping

import numpy as np

from .errors import EngineError


@dataclass(frozen=True)
class AdamSettings:
    """The AdamParams of a request, with its defaults.

    ``weight_decay`` is decoupled: a weight without gradient is multiplied by ``1 - learning_rate * weight_decay``.
    ``grad_clip_norm`` is the maximal norm of the gradient over all adapters; 0 means no limit.
    """

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    @classmethod
    def parse(cls, adam: Mapping[str, Any]) -> AdamSettings:
        """Validate the ``adam_params`` of a request. Absent keys have their defaults.

        Raises:
            EngineError: A key is unknown, or a value is out of range.
        """
        known = {item.name for item in fields(cls)}
        for key, value in adam.items():
            if key == "type":
                continue
            if key not in known:
                raise EngineError(f"adam_params has the unknown key {key!r}: use {', '.join(sorted(known))}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise EngineError(f"adam_params {key} is {value!r}: use a finite number of at least 0")
            if key in ("beta1", "beta2") and value >= 1:
                raise EngineError(f"adam_params {key} is {value!r}: use a number below 1")
        return cls(**{key: float(value) for key, value in adam.items() if key != "type"})


class AdamW:
    """The optimizer state: the moments ``first`` and ``second`` of the gradients, and the number of ``steps``.

    The moments are float32 and have the shapes of the adapters. Not thread-safe.
    """

    def __init__(self, adapters: Mapping[str, Any]) -> None:
        self.first: Dict[str, Any] = {name: np.zeros_like(array) for name, array in adapters.items()}
        self.second: Dict[str, Any] = {name: np.zeros_like(array) for name, array in adapters.items()}
        self.steps = 0

    def step(self, adapters: Dict[str, Any], gradients: Mapping[str, Any], adam: AdamSettings) -> float:
        """Update ``adapters`` in place. Return the norm of the gradient before clipping."""
        norm = global_norm(gradients)
        scale = adam.grad_clip_norm / norm if 0 < adam.grad_clip_norm < norm else 1.0
        self.steps += 1
        correction1 = 1 - adam.beta1**self.steps
        correction2 = 1 - adam.beta2**self.steps
        for name, weight in adapters.items():
            gradient = gradients[name] * np.float32(scale)
            first, second = self.first[name], self.second[name]
            first *= adam.beta1
            first += (1 - adam.beta1) * gradient
            second *= adam.beta2
            second += (1 - adam.beta2) * gradient * gradient
            weight *= 1 - adam.learning_rate * adam.weight_decay
            spread = np.sqrt(second / correction2) + adam.eps
            # eps may be 0. A weight that never had a gradient is then not updated.
            update = np.divide(first / correction1, spread, out=np.zeros_like(first), where=spread > 0)
            weight -= adam.learning_rate * update
        return norm


def global_norm(arrays: Mapping[str, Any]) -> float:
    """Return the Euclidean norm of all arrays together, computed in double precision."""
    return math.sqrt(sum(float(np.sum(np.square(array, dtype=np.float64))) for array in arrays.values()))
