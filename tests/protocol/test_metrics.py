"""Merged metrics equal numpy's results bit for bit, for every form of a metric's name."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_sync import types
from tinkex_sync.protocol import metrics

FINITE = st.floats(-1e9, 1e9)


def part(outputs=1, kind="t", **named):
    return types.ForwardBackwardOutput(
        loss_fn_output_type=kind,
        loss_fn_outputs=[{"x": types.TensorData(data=[float(i)], dtype="float32")} for i in range(outputs)],
        metrics={key.replace("__", ":"): value for key, value in named.items()},
    )


def merged(*parts):
    return metrics.merge(list(parts)).metrics


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, st.integers(0, 9)), min_size=2, max_size=300))
def test_every_reduction_equals_numpy_bit_for_bit(pairs) -> None:
    values, weights = zip(*pairs)
    ours = merged(*(part(n, a__mean=v, a__sum=v, a__min=v, a__max=v, a__slack=v) for v, n in pairs))
    average = np.average(values, weights=weights) if any(weights) else np.mean(values)
    assert ours == {
        "a:mean": average,
        "a:sum": np.sum(values),
        "a:min": np.min(values),
        "a:max": np.max(values),
        "a:slack": np.max(values) - average,
    }


def test_nan_in_one_chunk_makes_the_merged_value_nan() -> None:
    ours = merged(part(a__min=math.nan, a__max=1.0, a__sum=1.0), part(a__min=1.0, a__max=math.nan, a__sum=math.inf))
    assert math.isnan(ours["a:min"])
    assert math.isnan(ours["a:max"])
    assert ours["a:sum"] == math.inf


def test_the_unordered_hash_is_cpythons_hash_of_the_sorted_values() -> None:
    parts = [part(h__hash_unordered=float(value)) for value in (456, 123, -7)]
    assert merged(*parts) == merged(*reversed(parts)) == {"h:hash_unordered": float(hash((-7, 123, 456)))}


def test_a_hash_of_non_finite_values_keeps_the_first_value() -> None:
    assert merged(part(h__hash_unordered=5.0), part(h__hash_unordered=math.nan)) == {"h:hash_unordered": 5.0}


@pytest.mark.parametrize("key", ["step", "a:b:mean", "learning_rate", "::"])
def test_a_name_without_exactly_one_colon_keeps_its_first_value(key) -> None:
    parts = [types.ForwardBackwardOutput("t", [], {key: value, "l:sum": value}) for value in (1.0, 2.0)]
    assert metrics.merge(parts).metrics == {key: 1.0, "l:sum": 3.0}


def test_the_mean_of_chunks_without_outputs_is_unweighted() -> None:
    assert merged(part(0, a__mean=1.0, b__slack=1.0), part(0, a__mean=3.0, b__slack=3.0)) == {
        "a:mean": 2.0,
        "b:slack": 1.0,
    }


def test_a_single_result_is_returned_unchanged() -> None:
    lone = part(3, a__median=1.0, h__hash_unordered=7.0, e__slack=4.0)
    assert metrics.merge([lone]) is lone


def test_the_merge_of_no_results_is_empty() -> None:
    assert metrics.merge([]) == types.ForwardBackwardOutput("", [], {})


def test_outputs_keep_their_order_and_the_type_is_that_of_the_first_result() -> None:
    whole = metrics.merge([part(2, kind="first"), part(0), part(1)])
    assert whole.loss_fn_output_type == "first"
    assert [output["x"].data[0] for output in whole.loss_fn_outputs] == [0.0, 1.0, 0.0]


def test_unique_values_are_numbered_and_metrics_missing_from_a_chunk_are_left_out() -> None:
    assert merged(part(s__unique=1.0, a__sum=1.0), part(s__unique=2.0)) == {"s:unique": 1.0, "s:unique_1": 2.0}
