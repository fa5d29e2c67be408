"""Merging the results of the chunks of one batch.

The suffix of a metric's name, after a colon, selects how it is merged, as in version 0.7.0 of the official SDK.
Examples are ``loss:sum`` and ``ratio:mean``. Numbers are added in numpy's order, so that sums have the same bits as
those of the official SDK.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, Sequence

from ..types import ForwardBackwardOutput

#: Merges the values of one metric; the second argument is the number of outputs of each chunk.
_Merge = Callable[[Sequence[float], Sequence[int]], float]


def merge(outputs: Sequence[ForwardBackwardOutput], hash_metric: str = "hash_unordered") -> ForwardBackwardOutput:
    """Return one result for the whole batch: outputs in order, metrics merged by the suffix of their names.

    - A single result is returned unchanged. Without results, the merged result is empty and its type is "".
    - A metric is left out if a chunk does not have it, or if its suffix is unknown.
    - A metric keeps its first value if its name has no colon or several, or if it is a hash of non-finite values.

    Args:
        outputs: The results of the chunks, in order.
        hash_metric: Suffix of hashes in this protocol: "hash_unordered", a float (0.7.0), or "hash2", an exact int
            (0.38.0). A single result's "hash2" is converted to an int too.
    """
    is_exact = hash_metric == "hash2" and any(key.endswith(":hash2") for out in outputs for key in out.metrics)
    if len(outputs) == 1 and not is_exact:
        return outputs[0]
    merged = ForwardBackwardOutput(
        loss_fn_output_type=outputs[0].loss_fn_output_type if outputs else "",
        loss_fn_outputs=[one for output in outputs for one in output.loss_fn_outputs],
        metrics={},
    )
    if outputs:
        # The constructor would convert a hash's int to a float, which loses digits.
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
    """Add numbers as numpy does: eight partial sums over blocks of at most 128."""
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
    # The hash of a tuple of ints is the same in every CPython process.
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
