"""Replays of size estimates, chunk boundaries and merged metrics."""

import base64
import math
from typing import Any, Dict, List, Optional

from tinkex_sync import types
from tinkex_sync.protocol import byte_estimates, metrics
from tinkex_sync.training import chunking

from .registry import no_excuse, not_understood, only, replay, same
from .replay_types import check_raised, raised_by


def chunk(spec: Dict[str, Any]) -> Any:
    kind = spec["kind"]
    if kind == "text":
        return types.EncodedTextChunk(tokens=[0] * only(spec, "kind", "n_tokens")["n_tokens"])
    expected = {"expected_tokens": spec["expected_tokens"]} if "expected_tokens" in spec else {}
    if kind == "image":
        only(spec, "kind", "n_bytes", "expected_tokens")
        return types.ImageChunk(data=bytes(spec["n_bytes"]), format="png", **expected)
    if kind == "image_b64":
        only(spec, "kind", "b64", "expected_tokens")
        assert base64.b64decode(spec["b64"]) is not None
        return types.ImageChunk(data=spec["b64"], format="png", **expected)
    if kind == "asset":
        only(spec, "kind", "location", "times", "expected_tokens")
        location = spec["location"] * spec.get("times", 1)
        return types.ImageAssetPointerChunk(location=location, format="png", **expected)
    return not_understood(f"a chunk of kind {kind!r}")


def model_input(chunks: List[Dict[str, Any]]) -> types.ModelInput:
    return types.ModelInput(chunks=[chunk(spec) for spec in chunks])


def datum(spec: Dict[str, Any]) -> types.Datum:
    only(spec, "repeat", "chunks", "loss_fn_inputs")
    inputs = {
        key: types.TensorData(data=[0.0] * count, dtype="float32")
        for key, count in spec.get("loss_fn_inputs", {}).items()
    }
    return types.Datum(loss_fn_inputs=inputs, model_input=model_input(spec["chunks"]))


@replay("byte_estimates")
def estimates(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "level", "spec")
    no_excuse(row)
    level, spec = given["level"], given["spec"]
    if level == "chunk":
        estimate = byte_estimates.chunk_bytes(chunk(spec))
    elif level == "model_input":
        estimate = byte_estimates.model_input_bytes(model_input(spec))
    elif level == "datum":
        estimate = byte_estimates.datum_bytes(datum(spec))
    else:
        not_understood(f"level {level!r}")
    assert same(estimate, only(case["expected"], "bytes")["bytes"])


@replay("chunking")
def boundaries(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "datums")
    expected = only(case["expected"], "request_datum_counts", "request_byte_estimates")
    limits = only(document["limits"], "max_datums", "max_bytes")
    no_excuse(row)
    data = [made for spec in given["datums"] for made in [datum(spec)] * spec.get("repeat", 1)]
    planned = list(chunking.plan(map(byte_estimates.datum_bytes, data), limits["max_datums"], limits["max_bytes"]))
    assert [made.stop - made.start for made in planned] == expected["request_datum_counts"]
    assert [made.estimated_bytes for made in planned] == expected["request_byte_estimates"]
    assert [made.index for made in planned] == list(range(len(planned)))
    assert [made.start for made in planned] == [0, *(made.stop for made in planned)][: len(planned)]
    assert planned == list(chunking.plan(map(byte_estimates.datum_bytes, data))), "the defaults are the limits"


def results(given: List[Dict[str, Any]]) -> List[types.ForwardBackwardOutput]:
    made = []
    for k, spec in enumerate(given):
        only(spec, "metrics", "num_outputs", "loss_fn_output_type")
        outputs = [
            {"logprobs": {"data": [float(100 * k + j)], "dtype": "float32", "shape": [1]}}
            for j in range(spec["num_outputs"])
        ]
        made.append(
            types.ForwardBackwardOutput.from_wire(
                {
                    "loss_fn_output_type": spec.get("loss_fn_output_type", "cross_entropy"),
                    "loss_fn_outputs": outputs,
                    "metrics": spec["metrics"],
                }
            )
        )
    return made


MERGED_KEYS = ("metrics", "metric_key_order", "metric_types", "loss_fn_output_type", "outputs")


@replay("metrics_reduction")
def merged_metrics(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    parts = results(only(case["input"], "results")["results"])
    expected = only(case["expected"], *MERGED_KEYS, "exception", "mro", "message")
    no_excuse(row, 10)
    if row == 10:
        check_row_10(parts)
        return
    if "exception" in expected:
        error = raised_by(lambda: metrics.merge(parts))
        assert error is not None, f"expected {expected['exception']}"
        check_raised(error, expected)
        return
    merged = metrics.merge(parts)
    assert list(merged.metrics) == expected["metric_key_order"]
    assert same(merged.metrics, {key: expected["metrics"][key] for key in expected["metric_key_order"]})
    assert {key: type(value).__name__ for key, value in merged.metrics.items()} == expected["metric_types"]
    assert merged.loss_fn_output_type == expected["loss_fn_output_type"]
    assert [output["logprobs"].data[0] for output in merged.loss_fn_outputs] == expected["outputs"]


def check_row_10(parts: List[types.ForwardBackwardOutput]) -> None:
    """Row 10: a single result is unchanged. With several, no name and no weight of a metric fails the merge."""
    merged = metrics.merge(parts)
    if len(parts) == 1:
        assert merged is parts[0]
        return
    assert len(merged.loss_fn_outputs) == sum(len(part.loss_fn_outputs) for part in parts)
    weighty = any(part.loss_fn_outputs for part in parts)
    rescued = 0
    for key, first in parts[0].metrics.items():
        values = [part.metrics[key] for part in parts if key in part.metrics]
        if key.count(":") != 1:
            assert same(merged.metrics[key], first)
        elif len(values) < len(parts):
            continue
        elif not weighty and key.endswith((":mean", ":slack")):
            plain = sum(values) / len(values)
            reference = plain if key.endswith(":mean") else max(values) - plain
            assert math.isclose(merged.metrics[key], reference, rel_tol=1e-12, abs_tol=1e-12)
        elif key.endswith(":hash_unordered") and not all(map(math.isfinite, values)):
            assert same(merged.metrics[key], first)
        else:
            continue
        rescued += 1
    assert rescued, "row 10 requires a name or a weight that cannot be merged"
