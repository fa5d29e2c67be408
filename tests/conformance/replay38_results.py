"""Replays of results, chunk boundaries and merged metrics in protocol 0.38.0."""

import base64
from typing import Any, Dict, Optional

import pytest

from tinkex_sync import types
from tinkex_sync.errors import APIResponseValidationError
from tinkex_sync.protocol import byte_estimates, metrics
from tinkex_sync.training import chunking

from .registry import no_excuse, not_understood, only, replay38, same
from .replay_batches import datum, results

#: Chunks of the kind "dmel" have no type here. (Row 1 of chunking.)
NOT_BUILT = 1


def decoded(case: Dict[str, Any], kind: Any) -> Any:
    """Return the decoded result, or None if an error is recorded; our client then reports an invalid response."""
    pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")
    from tinkex_sync.protocol.protobuf_reader import decode

    content = base64.b64decode(only(case["input"], "b64", "fields")["b64"])
    if "exception" not in case["expected"]:
        return decode(content, kind)
    with pytest.raises(APIResponseValidationError):
        decode(content, kind)
    return None


def tensor(made: Any) -> Any:
    return None if made is None else {"dtype": made.dtype, "shape": made.shape, "data": list(made.data), **sparse(made)}


def sparse(made: Any) -> Dict[str, Any]:
    names = ("sparse_crow_indices", "sparse_col_indices")
    return {name: getattr(made, name) for name in names if getattr(made, name) is not None}


def pairs(rows: Any) -> Any:
    return rows and [row and [list(cell) for cell in row] for row in rows]


@replay38("fwdbwd_results")
def outputs(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    no_excuse(row)
    result = decoded(case, types.ForwardBackwardOutput)
    if result is None:
        return
    expected = only(case["expected"], "loss_fn_output_type", "metrics", "loss_fn_outputs")
    assert result.loss_fn_output_type == expected["loss_fn_output_type"]
    assert same(dict(sorted(result.metrics.items())), dict(sorted(expected["metrics"].items())))
    ours = [{name: tensor(one[name]) for name in sorted(one)} for one in result.loss_fn_outputs]
    assert same(ours, [{name: one[name] for name in sorted(one)} for one in expected["loss_fn_outputs"]])


@replay38("sample_results")
def samples(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    no_excuse(row)
    result = decoded(case, types.SampleResponse)
    if result is None:
        return
    alternatives = result.prompt_alt_tokens
    ours = {
        "sequences": [
            {
                "stop_reason": one.stop_reason,
                "tokens": one.tokens,
                "logprobs": one.logprobs,
                "topk_logprobs": pairs(one.topk_sampled_logprobs),
            }
            for one in result.sequences
        ],
        "prompt_logprobs": result.prompt_logprobs,
        "topk_prompt_logprobs": pairs(result.topk_prompt_logprobs),
        "target_prompt_logprobs": tensor(result.target_prompt_logprobs),
        "prompt_alt_tokens": alternatives
        and {"tokens": tensor(alternatives.tokens), "logprobs": tensor(alternatives.logprobs)},
        "prompt_cache_hit_tokens": result.prompt_cache_hit_tokens,
    }
    # The matrices contain the same values as the lists of pairs.
    expected = dict(only(case["expected"], *ours, "topk_prompt_matrix"))
    expected.pop("topk_prompt_matrix")
    expected["sequences"] = [
        {key: value for key, value in only(one, *ours["sequences"][0], "topk_matrix").items() if key != "topk_matrix"}
        for one in expected["sequences"]
    ]
    assert same(ours, {key: expected[key] for key in ours})


def sized(spec: Dict[str, Any]) -> types.Datum:
    only(spec, "repeat", "chunks", "loss_fn_inputs", "sparse_inputs")
    inputs: Dict[str, Any] = {}
    for key, count in spec.get("loss_fn_inputs", {}).items():
        dtype: Any = "int64" if key == "target_tokens" else "float32"
        inputs[key] = types.TensorData(data=[0] * count, dtype=dtype)
    for key, given in spec.get("sparse_inputs", {}).items():
        only(given, "dtype", "rows", "cols", "nnz")
        inputs[key] = types.TensorData(
            data=[1] * given["nnz"],
            dtype=given["dtype"],
            shape=[given["rows"], given["cols"]],
            sparse_crow_indices=[0] * (given["rows"] + 1),
            sparse_col_indices=[0] * given["nnz"],
        )
    plain = datum({"repeat": 1, "chunks": spec["chunks"], "loss_fn_inputs": {}})
    return types.Datum(model_input=plain.model_input, loss_fn_inputs=inputs)


@replay38("chunking")
def boundaries(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    no_excuse(row, NOT_BUILT)
    if row == NOT_BUILT:
        assert not hasattr(types, "DmelChunk")
        return
    given = only(case["input"], "datums", "client_config")
    expected = only(case["expected"], "request_datum_counts", "request_byte_estimates")
    names = ("fwdbwd_max_chunk_len", "fwdbwd_max_chunk_bytes_count")
    limits = {**only(document["limits"], *names), **only(given.get("client_config", {}), *names)}
    sizes = [
        size
        for spec in given["datums"]
        for size in [byte_estimates.protobuf_datum_bytes(sized(spec))] * spec.get("repeat", 1)
    ]
    planned = list(chunking.plan(sizes, *(limits[name] for name in names)))
    assert [made.stop - made.start for made in planned] == expected["request_datum_counts"]
    assert [made.estimated_bytes for made in planned] == expected["request_byte_estimates"]


@replay38("metrics_reduction")
def merged(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    """Row 1: metrics that the official SDK fails to merge keep their value."""
    no_excuse(row, 1)
    given = only(case["input"], "results")["results"]
    made = metrics.merge(results(given), hash_metric="hash2")
    if row == 1:
        assert "exception" in case["expected"]
        assert {key: given[0]["metrics"][key] for key in made.metrics} == made.metrics != {}
        return
    expected = only(case["expected"], "metrics", "types", "n")
    ours = {key: made.metrics[key] for key in sorted(made.metrics)}
    assert same(ours, {key: expected["metrics"][key] for key in sorted(expected["metrics"])})
    assert {key: type(value).__name__ for key, value in ours.items()} == expected["types"]
    if len(made.loss_fn_outputs) != expected["n"] and given:
        not_understood(f"n = {expected['n']}")
