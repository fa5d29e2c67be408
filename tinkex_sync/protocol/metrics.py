"""Merging the results of the chunks of one batch.

A metric's name ends in how it is merged, after a colon: ``loss:sum``, ``ratio:mean`` (PROTOCOL: "Metric
merging"). Sums are taken in numpy's order, so that figures equal those of the official SDK bit for bit.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, Sequence

from ..types import ForwardBackwardOutput

__all__ = ["merge"]

#: Merges the values of one metric, given how many outputs each chunk had.
_Merge = Callable[[Sequence[float], Sequence[int]], float]


def merge(
    outputs: Sequence[ForwardBackwardOutput], hash_metric: str = "hash_unordered"
) -> ForwardBackwardOutput:
    """Return one result for the whole batch: outputs in order, metrics merged by the suffix of their names.

    A single result is returned as it is. No results give a type of "" and nothing else. A metric that not
    every chunk has, or whose suffix is unknown, is left out. A metric whose name has not exactly one colon
    keeps its first value, and so does a hash of values that are not finite.

    Args:
        outputs: The results of the chunks, in order.
        hash_metric: Suffix of hashes in this protocol: "hash_unordered", a float (0.7), or "hash2", an exact
            int, which a single result's is converted to as well (0.38).
    """
    is_exact = hash_metric == "hash2" and any(
        key.endswith(":hash2") for out in outputs for key in out.metrics
    )
    if len(outputs) == 1 and not is_exact:
        return outputs[0]
    merged = ForwardBackwardOutput(
        loss_fn_output_type=outputs[0].loss_fn_output_type if outputs else "",
        loss_fn_outputs=[one for output in outputs for one in output.loss_fn_outputs],
        metrics={},
    )
    if outputs:
        # Not through the constructor, which would make floats of the ints that a hash needs all digits of.
        merged.metrics.update(_merge_metrics(outputs, hash_metric))
    return merged


def _merge_metrics(outputs: Sequence[ForwardBackwardOutput], hash_metric: str) -> Dict[str, float]:
    merges = {suffix: merge for suffix, merge in _MERGES.items() if suffix not in _HASHES - {hash_metric}}
    weights = [len(output.loss_fn_outputs) for output in outputs]
    merged: Dict[str, float] = {}
    for key, first in outputs[0].metrics.items():
        if key.count(":") != 1:
            merged[key] = first
            continue
        suffix = key.partition(":")[2]
        if not all(key in output.metrics for output in outputs):
            continue
        values = [output.metrics[key] for output in outputs]
        if suffix == "unique":
            merged[key] = first
            merged.update((f"{key}_{index}", value) for index, value in enumerate(values[1:], 1))
        elif suffix in merges and (len(outputs) > 1 or suffix == "hash2"):
            merged[key] = merges[suffix](values, weights)
        elif len(outputs) == 1:
            merged[key] = first
    return merged


def _sum(values: Sequence[float]) -> float:
    """The sum as numpy adds it: eight partial sums over blocks of at most 128."""
    count = len(values)
    if count > 128:
        half = count // 2 - count // 2 % 8
        return _sum(values[:half]) + _sum(values[half:])
    if count < 8:
        total = -0.0
        for value in values:
            total += value
        return total
    whole = count - count % 8
    lanes = list(values[:8])
    for start in range(8, whole, 8):
        lanes = [lane + value for lane, value in zip(lanes, values[start : start + 8])]
    a, b, c, d, e, f, g, h = lanes
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for value in values[whole:]:
        total += value
    return total


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    if not any(weights):
        return _sum(values) / len(values)
    return _sum([value * weight for value, weight in zip(values, weights)]) / sum(weights)


def _extreme(pick: Callable[[Sequence[float]], float], values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else pick(values)


def _hash(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return values[0]
    # CPython's hash of a tuple of ints does not depend on the process.
    return float(hash(tuple(sorted(map(int, values)))))


def _hash2(values: Sequence[float]) -> float:
    return sum(map(int, values)) % 2**64 if all(map(math.isfinite, values)) else values[0]


_MERGES: Dict[str, _Merge] = {
    "mean": _mean,
    "sum": lambda values, weights: _sum(values),
    "min": lambda values, weights: _extreme(min, values),
    "max": lambda values, weights: _extreme(max, values),
    "slack": lambda values, weights: _extreme(max, values) - _mean(values, weights),
    "hash_unordered": lambda values, weights: _hash(values),
    "hash2": lambda values, weights: _hash2(values),
}
#: Each protocol version has one of these.
_HASHES = frozenset(("hash_unordered", "hash2"))
